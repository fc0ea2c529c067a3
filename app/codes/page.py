"""Search the codes of a corpus by pattern, token or prompt; open one code's page."""

import contextlib
from functools import partial

import streamlit as st
from streamlit.column_config import NumberColumn

from interp.app import engine
from interp.app.codes import build as code_build
from interp.app.codes import gallery
from interp.app.codes import index as code_index
from interp.app.codes.build_prompt import before_the_first, last_error, offer, show_progress, unfinished
from interp.app.codes.code_view import CODE, code_cells, pick, show_code, strip
from interp.app.codes.search import EXAMPLES, FIELDS, NAME, PROMPT, REGEX, TOKEN, interval, like, note_text, scores
from interp.app.widgets import run_store
from interp.app.widgets.code_names import labels
from interp.app.widgets.codebook_picker import fitting
from interp.app.widgets.tokens import plain, visible
from interp.app.widgets.url_state import IN_URL, choice, tell_missing, whole_number
from interp.codesearch import CoarseIndex, CodeIndex, labels_of
from interp.codesearch.contexts import match_contexts
from interp.codesearch.index import MANIFEST
from interp.codesearch.search import SORTS
from interp.codesearch.tables import hits_csv
from interp.errors import InputError

ALL_CODES, FEW_CODES = "all codes", "coarse codes"
MATCHES_SHOWN = 5
WIDTH = 150  # pixels of a filter
SORT_NAMES = dict(zip(SORTS, ("F1", "precision", "recall", "tokens"), strict=True))
COLUMNS = {
    "precision": NumberColumn(format="%.2f", help="Tokens with the code in a match / tokens with the code."),
    "recall": NumberColumn(format="%.2f", help="Matches with the code at one of their tokens / matches."),
    "F1": NumberColumn(format="%.2f"),
    "P there": NumberColumn(format="%.2f", help="Precision in the other index."),
    "R there": NumberColumn(format="%.2f", help="Recall in the other index."),
    "P 95 %": st.column_config.TextColumn(help="Wilson's interval of the precision."),
    "R 95 %": st.column_config.TextColumn(help="Wilson's interval of the recall."),
    "tokens": NumberColumn(help="Tokens of the corpus with the code."),
    "in matches": NumberColumn(help="Of these, tokens in a match."),
    "kept": st.column_config.TextColumn("★", help="Your star and note."),
}


def example(by: str, text: str) -> None:
    st.session_state["search"], st.session_state[FIELDS[by]] = by, text
    forget_token(by)


def forget_token(by: str) -> None:
    """Another prompt begins at its last token: the address still has the former one's."""
    if by == PROMPT:
        st.query_params.pop("at", None)


def open_named() -> None:
    if st.session_state["named"].strip():
        st.query_params[CODE] = st.session_state["named"].strip()


def open_one_of(names: list[str]) -> None:
    """What a press in the table does, from the keyboard: the table's cells take none."""

    def chosen() -> None:
        st.query_params[CODE] = st.session_state.pop("open")

    st.selectbox("Open", names, None, key="open", on_change=chosen, placeholder="a code above", width=220)


def search(index: CodeIndex, others: list[str]) -> None:
    """
    Args:
        others: names of indexes in which the same codes can be looked up.
    """
    with st.container(horizontal=True):
        by = choice("Search by", [REGEX, TOKEN, PROMPT, NAME], "search")
        if by in (REGEX, TOKEN):
            index = level(index)
    if by == NAME:
        st.text_input("Code", key="named", placeholder=f"{index.books[-1].name}:7", on_change=open_named)
        st.caption("Head or site, a colon, and the code's number; Enter opens its page.")
        return
    helps = {
        REGEX: "Rust's syntax, in linear time: (?i) ignores case, \\b is the edge of a word; no look-around.",
        TOKEN: "One token of the vocabulary, with and without a space in front.",
        PROMPT: "The model reads it once; contexts of the corpus that share most of a token's codes are listed.",
    }
    text = st.text_input(
        by.capitalize(), key=FIELDS[by], bind=IN_URL, on_change=forget_token, args=(by,), help=helps[by]
    )
    if not text:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown("Try")
            for tried in EXAMPLES[by]:
                st.button(plain(tried), key=f"example {by} {tried}", on_click=example, args=(by, tried))
        gallery.of_index(index)
        return
    with engine.saying():
        if by == PROMPT:
            similar(index, text)
        else:
            scored(index, by, text, others)


def level(index: CodeIndex) -> CodeIndex:
    """The index at the level that is chosen, where its labels have two."""
    code_labels = None
    with contextlib.suppress(InputError):  # below it is said what is wrong with them
        code_labels = labels_of(index)
    if code_labels is None or not code_labels.groups:
        return index
    merged = "Each codebook's codes, or those merged into at most 16 that can be told apart."
    chosen = choice("Level", [ALL_CODES, FEW_CODES], "level", help=merged)
    return index if chosen == ALL_CODES else code_index.coarse(index)


def counted(n: int, singular: str, plural: str) -> str:
    return f"{n:,} {singular if n == 1 else plural}"


def scored(index: CodeIndex, by: str, text: str, others: list[str]) -> None:
    ranking = scores(index, by, text)
    choice, number = (partial(widget, bind=IN_URL, width=WIDTH) for widget in (st.selectbox, st.number_input))
    hits_least = "Tokens in matches that a code must have: one of one is no evidence."
    about = "The same codes in the text of another index: they were not chosen by it."
    comparable = [other for other in others if code_index.comparable(other, index)]
    with st.container(horizontal=True):
        filters = {
            "sort": choice("Sorted by", SORTS, format_func=SORT_NAMES.get, key="sort"),
            "min_precision": number("Precision at least", 0.0, 1.0, 0.0, 0.1, key="precision"),
            "min_recall": number("Recall at least", 0.0, 1.0, 0.0, 0.1, key="recall"),
            "min_hits": number("In matches at least", 1, None, 1, key="hits_least", help=hits_least),
            "per_book": number("Most per codebook", 0, 1000, 0, key="each", help="0: no limit.") or None,
        }
        most = number("Rows", 1, 1000, 20, key="rows")
        other = choice("Again in", comparable, None, key="again", placeholder="another index", help=about)
    if not ranking.matches.n:
        st.info("Nothing in the text of this index matches.")
        return
    places = ranking.places(**filters)
    hits = ranking.hits_at(places[:most])
    st.markdown(
        f"**{counted(ranking.matches.n, 'match', 'matches')}** of {counted(ranking.n_tokens, 'token', 'tokens')}; "
        f"{len(hits):,} of {counted(len(places), 'code', 'codes')} shown"
    )
    if hits:
        annotations, stands_for = code_index.annotations(index), labels(index)
        if isinstance(index, CoarseIndex):
            annotations = {}  # of codes with the same numbers
        listed = [
            {
                **code_cells(stands_for, hit.book, hit.code),
                "precision": hit.precision,
                "P 95 %": interval(hit.precision_interval),
                "recall": hit.recall,
                "R 95 %": interval(hit.recall_interval),
                "F1": hit.f1,
                "tokens": hit.count,
                "in matches": hit.hits,
                "kept": note_text(annotations.get((hit.book, hit.code))),
            }
            for hit in hits
        ]
        if other is not None:
            another = code_index.opened(other)
            if isinstance(index, CoarseIndex):
                another = CoarseIndex(another, index.groups)
            hits_there = scores(another, by, text).hits_at(places[:most])
            listed = [
                row | {"P there": hit.precision, "R there": hit.recall}
                for row, hit in zip(listed, hits_there, strict=True)
            ]
        pick(listed, "hits", COLUMNS, height="content" if len(listed) <= 20 else 600)
        st.caption(
            "Press a code to open it. A code that was chosen by its matches fits them better than it will fit "
            "other text."
        )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            open_one_of([row["code"] for row in listed])
            st.download_button(
                f"All {len(places):,} as CSV",
                lambda: hits_csv(ranking.hits_at(places)),
                file_name="codes.csv",
                mime="text/csv",
                on_click="ignore",
                icon=":material/download:",
            )
    else:
        st.info("No code is that good: ask for less." if ranking.hits.any() else "No code fires at these matches.")
    contexts = match_contexts(index, ranking.matches, MATCHES_SHOWN)
    with st.expander(f"Matches in the text: {len(contexts)} of {ranking.matches.n:,}", expanded=not hits):
        st.html("".join(strip(context, framed=False) for context in contexts))


def similar(index: CodeIndex, text: str) -> None:
    position = whole_number("at", -1)
    likeness = like(index, text, position, 15)
    n = len(likeness.pieces)
    key = f"token of {text}"
    st.session_state.setdefault(key, position if 0 <= position < n else n - 1)

    def take() -> None:
        st.query_params["at"] = str(st.session_state[key])

    tokens = [f"{i} {plain(visible(piece))}" for i, piece in enumerate(likeness.pieces)]
    st.pills("Token", range(n), format_func=tokens.__getitem__, key=key, on_change=take, required=True)
    if likeness.contexts:
        st.markdown(f"**{len(likeness.contexts)} tokens of the corpus** that share most of its codes")
        shown = [
            strip(context, numbers=(f"{score:.2f}", f"{shared} of {len(likeness.codes)}"))
            for score, shared, context in likeness.contexts
        ]
        st.html("".join(shown))
        st.caption("Score: shared codes weighted by rarity, of all the token's codes; then how many are shared.")
    else:
        st.info("No token of the corpus shares a code with it.")
    st.markdown(f"**Its {len(likeness.codes)} codes**, the rarest first")
    annotations, stands_for = code_index.annotations(index), labels(index)
    listed = [
        code_cells(stands_for, book, code) | {"tokens": count, "kept": note_text(annotations.get((book, code)))}
        for book, code, count in likeness.codes
    ]
    pick(listed, "prompt codes", COLUMNS, height=300)


def starred(index: CodeIndex) -> None:
    annotations = code_index.annotations(index)
    if not annotations:
        return
    st.subheader(f"Starred and noted ({len(annotations)})")
    layout, stands_for = index.layout, labels(index)
    listed = [
        {
            **code_cells(stands_for, book, code),
            "star": "★" if note.star else "",
            "note": note.text,
            "tokens": index.count(book, code) if layout.has(book, code) else None,
        }
        for (book, code), note in annotations.items()
    ]
    pick(listed, "kept codes", {"star": st.column_config.TextColumn("★", width="small")})


def indexes() -> list[str]:
    """Those there are to choose from, one that was not finished the last.

    One that is being built, or is of another model, which is known once the tab's is loaded, is no choice unless it is
    chosen already.
    """
    chosen = st.session_state.get("index", st.query_params.get("index"))
    all_indexes, model, building = run_store.folders("indexes"), engine.loading().model, code_build.running()
    fit = set(all_indexes)
    if model.done() and model.exception() is None:
        fit = set(fitting("indexes", engine.model_name(), model.result()))
    if building is not None:
        fit.discard(building.plan.folder.name)
    names = [name for name in all_indexes if name == chosen or name in fit]
    return sorted(names, key=lambda name: not (engine.runs() / name / MANIFEST).is_file())


names, building = indexes(), code_build.running()
code = st.query_params.get(CODE)
heading = st.container()
if code is None or not names:
    heading.title("Codes")
if building is not None:
    show_progress()
tell_missing("index", names, "index")
last_error()  # not beside the button, which is out of sight while an index is open
if not names:
    before_the_first()
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
    show_code(index, code, heading)
else:
    st.caption(plain(code_index.describe(index)))
    search(index, [other for other in names if other != name])
    starred(index)
    with st.expander("Build another index"):
        offer()
