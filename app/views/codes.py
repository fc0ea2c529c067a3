"""Search the codes of a corpus by pattern, token or prompt; open one code's page."""

import streamlit as st

from interp.app import code_build, code_index, engine, shelf
from interp.app.code_build import Plan
from interp.app.code_page import strip
from interp.app.code_search import (
    EXAMPLES,
    NAME,
    PROMPT,
    REGEX,
    TOKEN,
    Likeness,
    kept,
    like,
    name_of,
    rows,
    scores,
)
from interp.app.code_view import CODE, pick, show_code
from interp.app.tokens import plain, visible
from interp.codesearch import CodeIndex
from interp.codesearch.contexts import match_contexts
from interp.codesearch.search import SORTS
from interp.codesearch.tables import hits_csv
from interp.tasks.errors import InputError

IN_URL = "query-params"
POLL = 1.0  # seconds between two looks at a build
MATCHES_SHOWN = 5
WIDTH = 172  # pixels of a filter
FIELDS = {REGEX: "q", TOKEN: "token", PROMPT: "prompt"}  # what is typed, as it stands in the URL
SORT_NAMES = dict(zip(SORTS, ("F1", "precision", "recall", "tokens"), strict=True))
SHARE = st.column_config.NumberColumn(format="%.2f")
COLUMNS = {
    "precision": st.column_config.NumberColumn(
        format="%.2f", help="Tokens with the code that lie in a match / tokens with the code."
    ),
    "recall": st.column_config.NumberColumn(
        format="%.2f", help="Matches with the code at one of their tokens / matches."
    ),
    "F1": SHARE,
    "P 95 %": st.column_config.TextColumn(help="Wilson's interval of the precision."),
    "R 95 %": st.column_config.TextColumn(help="Wilson's interval of the recall."),
    "tokens": st.column_config.NumberColumn(help="Tokens of the corpus with the code."),
    "in matches": st.column_config.NumberColumn(help="Of these, tokens in a match."),
    "kept": st.column_config.TextColumn("★", help="Your star and note."),
}


def progress() -> None:
    """The running build, which draws itself again until it is done."""
    build = code_build.running()
    if build is None:
        st.rerun(scope="app")
    st.progress(min(1.0, build.done / max(build.total, 1)), plain(build.line()))
    st.caption(
        f"Building {plain(build.plan.folder.name)}. It takes turns with whatever else uses the model, goes on while "
        "you look at other pages, and where it stopped if the workbench is closed."
    )


def go(plan: Plan) -> None:
    try:
        code_build.start(plan)
    except InputError as error:
        engine.say(error)


def offer() -> None:
    """Build an index here, or in a terminal."""
    left, right = st.columns(2)
    books = [code_build.SHIPPED, *shelf.folders("codebooks")]
    plan = Plan(
        left.selectbox("Codebooks", books, key="build books"),
        right.selectbox(
            "Tokens of text",
            code_build.SIZES,
            index=code_build.SIZES.index(code_build.TOKENS),
            format_func=lambda n: f"{n:,}",
            key="build tokens",
            help="Docstrings of Python's standard library. The default model reads some 200 tokens a second and core.",
        ),
    )
    st.button("Build the index", type="primary", on_click=go, args=(plan,), icon=":material/database:")
    why = code_build.failed(plan)
    if why is not None:
        engine.say(InputError(f"it could not be built: {why}"))
    st.caption("The same in a terminal, with any text and size:")
    st.code(plan.command(), language="bash")


def unfinished(name: str) -> None:
    """Go on with what was begun, where this page knows how."""
    plan = next((plan for plan in code_build.plans() if plan.folder.name == name), None)
    if plan is not None and code_build.running() is None:
        why = code_build.failed(plan)
        if why is not None:
            engine.say(InputError(f"it could not be built: {why}"))
        st.button("Go on building it", on_click=go, args=(plan,), type="primary", icon=":material/resume:")


def example(by: str, text: str) -> None:
    st.session_state["by"], st.session_state[FIELDS[by]] = by, text


def open_named() -> None:
    if st.session_state["named"].strip():
        st.query_params[CODE] = st.session_state["named"].strip()


def search(index: CodeIndex) -> None:
    by = st.segmented_control(
        "Search by", [REGEX, TOKEN, PROMPT, NAME], key="by", bind=IN_URL, default=REGEX, required=True
    )
    if by == NAME:
        st.text_input("Code", key="named", placeholder=f"{index.books[-1].name}:7", on_change=open_named)
        st.caption("Head or site, a colon, and the code's number; Enter opens its page.")
        return
    helps = {
        REGEX: "Rust's syntax, in linear time: (?i) ignores case, \\b is the edge of a word; no look-around.",
        TOKEN: "One token of the vocabulary, with and without a space in front.",
        PROMPT: "The model reads it once; contexts of the corpus that share most of a token's codes are listed.",
    }
    text = st.text_input(by.capitalize(), key=FIELDS[by], bind=IN_URL, help=helps[by])
    if not text:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown("Try")
            for way, pattern in EXAMPLES:
                if way == by:
                    st.button(
                        plain(pattern), key=f"example {way} {pattern}", on_click=example, args=(way, pattern)
                    )
        return
    try:
        if by == PROMPT:
            similar(index, text)
        else:
            scored(index, by, text)
    except InputError as error:
        engine.say(error)


def counted(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def scored(index: CodeIndex, by: str, text: str) -> None:
    """Every code against what matches."""
    found = scores(index, by, text)
    with st.container(horizontal=True):
        filters = {
            "sort": st.selectbox(
                "Sorted by", SORTS, format_func=SORT_NAMES.get, key="sort", bind=IN_URL, width=WIDTH
            ),
            "min_precision": st.number_input(
                "Precision at least", 0.0, 1.0, 0.0, 0.1, key="precision", bind=IN_URL, width=WIDTH
            ),
            "min_recall": st.number_input(
                "Recall at least", 0.0, 1.0, 0.0, 0.1, key="recall", bind=IN_URL, width=WIDTH
            ),
            "min_hits": st.number_input(
                "In matches at least",
                1,
                None,
                1,
                key="hits_least",
                bind=IN_URL,
                width=WIDTH,
                help="Tokens in matches that a code must have: one of one is no evidence.",
            ),
            "per_book": st.number_input(
                "Most per codebook", 0, 1000, 0, key="each", bind=IN_URL, width=WIDTH, help="0: no limit."
            )
            or None,
        }
        most = st.number_input("Rows", 1, 1000, 20, key="rows", bind=IN_URL, width=WIDTH)
    if not found.matches.n:
        st.info("Nothing in the text of this index matches.")
        return
    places = found.places(**filters)
    hits = found.hits_at(places[:most])
    st.markdown(
        f"**{counted(found.matches.n, 'match', 'matches')}** of {counted(found.n_tokens, 'token', 'tokens')}; "
        f"{len(hits):,} of {counted(len(places), 'code', 'codes')} shown"
    )
    if hits:
        listed = rows(hits, code_index.notes(index))
        pick(listed, "hits", COLUMNS, height="content" if len(listed) <= 20 else 600)
        st.caption(
            "Select a row to open the code. A code that was chosen by its matches fits them better than it will fit "
            "other text."
        )
        st.download_button(
            f"All {len(places):,} as CSV",
            lambda: hits_csv(found.hits_at(places)),
            file_name="codes.csv",
            mime="text/csv",
            on_click="ignore",
            icon=":material/download:",
        )
    else:
        st.info(
            "No code is that good: ask for less." if found.hits.any() else "No code fires at these matches."
        )
    contexts = match_contexts(index, found.matches, MATCHES_SHOWN)
    with st.expander(f"Matches in the text: {len(contexts)} of {found.matches.n:,}", expanded=not hits):
        st.html("".join(strip(context, framed=False) for context in contexts))


def similar(index: CodeIndex, text: str) -> None:
    """Contexts like one token of a prompt, and that token's codes."""
    given = st.query_params.get("at", "")
    position = int(given) if given.isdecimal() and len(given) < 5 else -1
    found: Likeness = like(index, text, position, 15)
    n = len(found.pieces)
    key = f"token of {text}"
    st.session_state.setdefault(key, position if 0 <= position < n else n - 1)

    def take() -> None:
        st.query_params["at"] = str(st.session_state[key])

    st.pills(
        "Token",
        range(n),
        format_func=lambda i: f"{i} {plain(visible(found.pieces[i]))}",
        key=key,
        on_change=take,
        required=True,
    )
    if found.contexts:
        st.markdown(f"**{len(found.contexts)} tokens of the corpus** that share most of its codes")
        shown = [
            strip(context, numbers=(f"{score:.2f}", f"{shared} of {len(found.codes)}"))
            for score, shared, context in found.contexts
        ]
        st.html("".join(shown))
        st.caption(
            "Score: shared codes weighted by rarity, of all the token's codes; then how many are shared."
        )
    else:
        st.info("No token of the corpus shares a code with it.")
    st.markdown(f"**Its {len(found.codes)} codes**, the rarest first")
    notes = code_index.notes(index)
    listed = [
        {"code": name_of(book, code), "tokens": count, "kept": kept(notes.get((book, code)))}
        for book, code, count in found.codes
    ]
    pick(listed, "prompt codes", COLUMNS, height=300)


def starred(index: CodeIndex) -> None:
    """What was kept."""
    notes = code_index.notes(index)
    if not notes:
        return
    st.subheader(f"Starred and noted ({len(notes)})")
    layout = index.layout
    listed = [
        {
            "code": name_of(book, code),
            "star": "★" if note.star else "",
            "note": note.text,
            "tokens": index.count(book, code) if layout.has(book, code) else None,
        }
        for (book, code), note in notes.items()
    ]
    pick(listed, "kept codes", {"star": st.column_config.TextColumn("★", width="small")})


names = shelf.folders("indexes")
code = st.query_params.get(CODE)
heading = st.container()
if code is None or not names:
    heading.title("Codes")
if code_build.running() is not None:
    st.fragment(progress, run_every=POLL)()
if not names:
    if code_build.running() is None:
        st.info(
            "No code index yet: the codes of a text at every head, to be searched by pattern, token or prompt. "
            "The button builds a small one of the codebooks that come with the package, in a minute or two.",
            icon=":material/search:",
        )
        offer()
    st.stop()
name = st.selectbox(
    "Index",
    names,
    key="index",
    bind=IN_URL,
    width=420,
    help="Indexes of the runs folder, newest first.",
    label_visibility="visible" if code is None else "collapsed",
)
try:
    index = code_index.opened(name)
except InputError as error:
    if code is not None:
        heading.title("Codes")
    engine.say(error)
    st.caption("Choose another index above, or delete its folder and build it again.")
    unfinished(name)
    with st.expander("Build an index", expanded=len(names) == 1):
        offer()
    st.stop()
if code is not None:
    show_code(index, code)
else:
    st.caption(plain(code_index.describe(index)))
    search(index)
    starred(index)
    with st.expander("Build another index"):
        offer()
