"""The page of one code, and tables whose rows open codes."""

import html
from collections.abc import Sequence

import numpy as np
import streamlit as st
from streamlit.column_config import NumberColumn
from streamlit.delta_generator import DeltaGenerator

from interp import codesearch
from interp.app import engine
from interp.app.codes import index as code_index
from interp.app.codes.index import BY_FOLDER
from interp.app.codes.search import interval
from interp.app.widgets.charts import table
from interp.app.widgets.code_names import beside, books_of, labels
from interp.app.widgets.tokens import colour, plain
from interp.app.widgets.url_state import IN_URL, choice
from interp.bottlenecks.edits import code_name
from interp.codesearch.annotations import MOST, Annotation
from interp.codesearch.coarse import ALL
from interp.codesearch.firing_stats import N_TOP
from interp.codesearch.labels import MIXED
from interp.codesearch.layout import can_be_edited
from interp.codesearch.tables import contexts_csv
from interp.errors import InputError
from interp.report import wording
from interp.report.plots import similarity_histogram

CODE = "code"  # the parameter of the URL that says which code's page is shown
POLL = 1.0
LISTED = 10  # entries of every list
A_PAGE = 25  # contexts drawn at once where all are shown
ORDERS = {"clearest": "margin", "most similar": "similarity", "evenly spread": "spread", "all, in order": "corpus"}
_BLANK = str.maketrans("\t\r", "  ")
_ROW = "display:flex;gap:.9em;align-items:baseline;padding:.28em 0;border-bottom:1px solid rgba(128,128,128,.22)"
_NUMBERS = "flex:0 0 auto;font-variant-numeric:tabular-nums;font-size:.8em;opacity:.75;min-width:3.2em"
_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.6;min-width:0"
MATCHED = "rgba(128,128,128,.3)"
_FOCUS = "font-weight:700;outline:1.5px solid currentColor;outline-offset:-1px"
COLUMNS = {
    "precision": NumberColumn(format="percent", help="Of the code's tokens, those that are this one."),
    "recall": NumberColumn(format="percent", help="Of this token's occurrences, those with the code."),
    "share": NumberColumn(format="percent"),
    "cosine": NumberColumn(format="%.2f"),
    "lift": NumberColumn(format="%.1f", help="How many times as often as at all tokens."),
}


def go_to(name: str | None) -> None:
    """Open a code's page, or go back to the search."""
    if name is None:
        st.query_params.pop(CODE, None)
    else:
        st.query_params[CODE] = name


def code_cells(names: codesearch.Labels | None, book: str, code: int) -> dict[str, str]:
    """A code's name, and what it stands for where codes have labels, as the first cells of a row."""
    return {"code": wording.code_title(names, book, code), **beside(names)(book, code)}


def pick(rows: Sequence[dict], key: str, columns: dict, height: str | int = "auto") -> None:
    """A table; a press on a code's name opens it.

    Buttons, because the selection of a row is told to the server only after a pause of 150 ms.
    """

    def pressed() -> None:
        row = st.session_state[key]["row"]
        if row < len(rows):
            go_to(rows[row]["code"])

    named = st.column_config.ButtonColumn(
        help="Press one to open its page.", type="tertiary", alignment="left", on_click=pressed, key=key
    )
    table(rows, columns={**columns, "code": named}, height=height)


def show_code(index: codesearch.CodeIndex, code_text: str, heading: DeltaGenerator) -> None:
    """The page of the code that the URL names; a wrong name is one clear line. ``heading``: where the title goes, in
    place of the search's, which would stay until all else is there."""
    try:
        if codesearch.coarse_code(code_text) is None:
            code_text = codesearch.fine_codes(code_text, labels(index))
        else:
            index = code_index.coarse(index)
        book, code = index.named(code_text)
    except InputError as error:
        heading.title("Codes")
        engine.say(error)
        st.button("Search", on_click=go_to, args=(None,), icon=":material/arrow_back:")
        return
    names, name = labels(index), index.name(book, code)
    heading.title(plain(wording.code_title(names, book, code)))
    label_line(names, book, code, heading)
    explanation_line(index, name)
    toolbar(index, book, code)
    facts = page(index, book, code)
    numbers(index, facts)
    if isinstance(index, codesearch.CoarseIndex):
        members(index, book, code)
    if facts.count:
        contexts(index, facts)
        left, right = st.columns(2)
        left.subheader("Similarity")
        left.plotly_chart(
            similarity_histogram(facts.similarities),
            key=f"histogram {name}",
            alt=f"Similarities of {name} to the tokens of the text, where it is on and where it is not",
        )
        right.subheader("Tokens")
        rows = [
            {"token": wording.token(token.text), "tokens": token.count}
            | {"precision": token.precision, "recall": token.recall}
            for token in facts.tokens
        ]
        table(rows, f"tokens {name}", COLUMNS, right)
        left, right = st.columns(2)
        with left:
            related(index, names, facts)
        with right:
            nearest(index, names, facts)
        documents(index, facts)
    else:
        nearest(index, names, facts)
    st.subheader("Logit lens")
    waits = not engine.loading().model.done()
    st.fragment(logits, run_every=POLL if waits else None)(index, book, code, waits)


def members(index: codesearch.CoarseIndex, book: str, code: int) -> None:
    """The codes that a coarse code is made of, the commonest first."""
    names, codes = labels(index.fine), index.members(book, code)
    counted = sorted(((index.fine.count(book, member), member) for member in codes), reverse=True)
    on = [(count, member) for count, member in counted if count]
    with st.expander(f"Its {len(codes)} codes, {len(on)} of them on in this text"):
        rows = [
            {
                "code": names.name(book, member) if names else code_name(book, member),
                "stands for": wording.visible(names.text(book, member), keep=" ") if names else "",
                "tokens": count,
            }
            for count, member in on
        ]
        pick(rows, f"members {index.name(book, code)}", COLUMNS, height=min(400, 60 + 35 * len(rows)))


def documents(index: codesearch.CodeIndex, facts: codesearch.CodePage) -> None:
    st.subheader("Documents")
    rows = []
    for document in facts.coverage:
        begin = int(index.corpus.documents[document.document])
        begins = in_line("".join(index.corpus.pieces(index.corpus.tokens[begin : begin + 24])))
        row = {"share": document.share, "with it": document.count, "of": document.length, "document": document.document}
        rows.append(row | {"begins": begins})
    table(rows, f"documents {index.name(facts.book, facts.code)}", COLUMNS)


def label_line(names: codesearch.Labels | None, book: str, code: int, place: DeltaGenerator) -> None:
    label = None if names is None else names.of(book, code)
    if label is None:
        return
    scores = (
        f"precision {label.precision:.2f}, recall {label.recall:.2f}, F1 {label.f1:.2f} "
        f"at {label.firings:,} tokens that did not choose it"
    )
    if label.named:
        place.markdown(f"**{plain(wording.code_label(names, book, code))}** — {scores}")
    elif label.text == MIXED:
        place.markdown(f"**mixed**: no simple pattern tells where it is on; the best has {scores}")
    else:
        place.markdown("**rare**: too seldom on to be named")
    if sides := wording.code_sides(names, book, code):
        place.caption(plain(" · ".join(sides)))


def explanation_line(index: codesearch.CodeIndex, name: str) -> None:
    with engine.saying():
        if (explanation := codesearch.explanations_of(index).get(name)) is not None:
            st.markdown(f"{plain(explanation.model)} says {plain(wording.explanation(explanation))}")


def toolbar(index: codesearch.CodeIndex, book: str, code: int) -> None:
    """Search, previous and next code, the coarse code it belongs to, steering; star and note of fine codes."""
    name, names = index.name(book, code), labels(index)
    coarse = isinstance(index, codesearch.CoarseIndex)
    note = Annotation() if coarse else code_index.annotations(index).get((book, code), Annotation())

    def keep(**change) -> None:
        try:
            code_index.kept_annotations(index).write(book, code, **change)
        except InputError as error:
            st.session_state["not kept"] = str(error)

    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Search", on_click=go_to, args=(None,), icon=":material/arrow_back:")
        for label, step, icon in (("Previous", -1, "chevron_left"), ("Next", 1, "chevron_right")):
            other = neighbour_on(index, book, code, step)
            target = None if other is None else index.name(book, other)
            look = {"icon": f":material/{icon}:", "disabled": other is None}
            look["help"] = f"The {label.lower()} code of {plain(book)} that occurs in this text."
            st.button(label, on_click=go_to, args=(target,), **look)
        if names is not None and book in names.groups:
            whole = f"{book}={names.groups[book][code]}.{ALL}"
            look = {"icon": ":material/category:", "help": "The coarse code that it belongs to."}
            st.button(f"All of {plain(whole)}", on_click=go_to, args=(whole,), **look)
        if not coarse:
            title, kind = ("Starred", "primary") if note.star else ("Star", "secondary")
            look = {"icon": ":material/star:", "type": kind}
            st.button(title, key="star", on_click=keep, kwargs={"star": not note.star}, **look)
        books = books_of(index.folder.name)
        if can_be_edited(book) and books is not None:
            address = {"books": books, "codes": name, "source": "by name"}
            look = {"label": "Steer with it", "icon": ":material/tune:"}
            st.page_link("steering/page.py", query_params=address, **look)
    if "not kept" in st.session_state:
        engine.say(InputError(st.session_state.pop("not kept")))
    if coarse:
        return
    begins = " ".join(note.text.split())[:80]
    with st.expander(f"Note: {plain(begins)}" if begins else "Note"), st.form(f"note of {name}", border=False):
        key = f"note of {name}: {note.text}"  # another tab's note makes another field
        st.text_area("Note", note.text, max_chars=MOST, height=100, label_visibility="collapsed", key=key)
        # a callback comes before the script: one that looks at the button loses the click if it is run again meanwhile
        st.form_submit_button("Keep the note", on_click=lambda: keep(text=st.session_state[key], was=note.text))


def numbers(index: codesearch.CodeIndex, facts: codesearch.CodePage) -> None:
    if not facts.count:
        st.info(f"This code is on at none of the {facts.n_tokens:,} tokens of this index.")
        return
    best = index.top(facts.book, facts.code)
    a, b, c, d = st.columns(4)
    a.metric("Tokens with it", f"{facts.count:,}", help=f"Of {facts.n_tokens:,} tokens.")
    b.metric("Share of tokens", f"{facts.frequency:.3%}")
    c.metric("Documents", f"{facts.n_documents:,} of {len(index.corpus.documents):,}")
    about = "Similarity minus the highest one of a code that was passed over, at the code's clearest token."
    d.metric("Clearest margin", f"{best.margin[0]:.2f}" if len(best.margin) else "–", help=about)


def contexts(index: codesearch.CodeIndex, facts: codesearch.CodePage) -> None:
    name = index.name(facts.book, facts.code)
    st.subheader("Contexts")
    order = choice("Contexts", list(ORDERS), "order", label_visibility="collapsed")
    n, start = N_TOP, 0
    place = st.container()
    if order == "evenly spread":
        n = st.number_input("How many", 1, 200, N_TOP, key="contexts", bind=IN_URL, width=160)
    elif order == "all, in order":
        n = A_PAGE
        if facts.count > A_PAGE:
            start = A_PAGE * (st.pagination(-(-facts.count // A_PAGE), key=f"contexts of {name}") - 1)
    listed = codesearch.code_contexts(index, facts.book, facts.code, ORDERS[order], n, start=start)
    rows = [
        strip(
            context,
            facts.code,
            () if context.margin is None else (f"{context.margin:.2f}", f"{context.similarity:.2f}"),
        )
        for context in listed
    ]
    places = f", {start + 1:,} to {start + len(listed):,}" if start else ""
    numbers = " Numbers: margin and similarity." if listed and listed[0].margin is not None else ""
    place.caption(
        f"{len(listed)} of {facts.count:,} shown{places}. Framed: the token; coloured: the code is on.{numbers}"
    )
    place.html("".join(rows))
    left, _ = st.columns(2)
    left.download_button(
        "These as CSV",
        lambda: contexts_csv(listed),
        file_name=f"{name.replace(':', '-')}-contexts.csv",
        mime="text/csv",
        on_click="ignore",
        icon=":material/download:",
    )


def related(index: codesearch.CodeIndex, names: codesearch.Labels | None, facts: codesearch.CodePage) -> None:
    st.subheader("On at the same tokens")
    if not facts.related:
        st.caption("No code goes with it more often than by chance.")
        return
    rows = [
        code_cells(names, other.book, other.code)
        | {"share": other.share, "95 %": interval(other.interval), "lift": other.lift}
        for other in facts.related
    ]
    pick(rows, f"related {index.name(facts.book, facts.code)}", COLUMNS)
    st.caption(f"Counted at {facts.related_sample:,} of its tokens, ranked by share × log lift.")


def nearest(index: codesearch.CodeIndex, names: codesearch.Labels | None, facts: codesearch.CodePage) -> None:
    st.subheader("Nearest codes")
    if facts.neighbours is None:
        try:
            index.codebooks()
        except InputError as error:
            st.caption(plain(str(error)))
        return
    rows = [
        code_cells(names, facts.book, other.code) | {"cosine": other.cosine, "tokens": other.count}
        for other in facts.neighbours
    ]
    pick(rows, f"nearest {index.name(facts.book, facts.code)}", COLUMNS)
    st.caption("Of the same codebook, by cosine as the codebook compares vectors.")


def logits(index: codesearch.CodeIndex, book: str, code: int, waited: bool) -> None:
    """What the vector writes into the logits; alone waits for the model."""
    model = engine.loading().model
    if not model.done():
        st.caption("Shown as soon as the model is loaded.")
        return
    if waited:
        st.rerun(scope="app")
    if model.exception() is not None:
        st.caption(plain(str(model.exception())))
        return
    try:
        written = lens(index, book, code, engine.model_name(), model.result())
    except InputError as error:
        st.caption(plain(str(error)))
        return
    for column, sign, entries in zip(st.columns(2), ("up", "down"), (written.up, written.down), strict=True):
        rows = [{f"token, {sign}": wording.token(text), "logit": value} for text, value in entries]
        columns = {"logit": NumberColumn(format="%.2f")}
        table(rows, f"lens {sign} {index.name(book, code)}", columns, column)
    st.caption(
        f"The vector through W_O, the final norm and the unembedding, as if it were all of the residual stream; "
        f"{LISTED} tokens each. Early layers' codes often say little here."
    )


# without codebooks there are no neighbours; they were away, and may be back
@st.cache_resource(
    max_entries=64, show_spinner=False, hash_funcs=BY_FOLDER, validate=lambda page: page.neighbours is not None
)
def page(index: codesearch.CodeIndex, book: str, code: int) -> codesearch.CodePage:
    """All that the index says about a code by itself; worked out once, where the codebooks are there."""
    return codesearch.code_page(index, book, code, n=LISTED)


@st.cache_resource(max_entries=256, show_spinner=False, hash_funcs=BY_FOLDER)
def lens(index: codesearch.CodeIndex, book: str, code: int, spec: str, _model) -> codesearch.LogitLens:  # noqa: ARG001 - a key
    """What the code's vector writes into the logits; worked out once."""
    return codesearch.logit_lens(index, _model, book, code, n=LISTED)


def neighbour_on(index: codesearch.CodeIndex, book: str, code: int, step: int) -> int | None:
    """The next code of the same codebook that occurs in the corpus, in one direction."""
    begin = index.layout.code(book, 0)
    occurring = np.flatnonzero(index.counts[begin : begin + index.books[index.layout.number(book)].n_codes])
    beyond = occurring[occurring > code] if step > 0 else occurring[occurring < code][::-1]
    return int(beyond[0]) if len(beyond) else None


def strip(
    context: codesearch.CodeContext, code: int | None = None, numbers: Sequence[str] = (), *, framed: bool = True
) -> str:
    """HTML of one context in a row, tokens highlighted where the code is on (or in a match), its own one framed."""
    background = MATCHED if code is None else colour(code)
    spans = []
    for i, (piece, on) in enumerate(zip(context.pieces, context.active, strict=True)):
        text = in_line(piece)
        style = f"background:{background};border-radius:3px;" if on else ""
        style += _FOCUS if i == context.focus and framed else ""
        if not style:
            spans.append(html.escape(text))
            continue
        # a line may break at the space in front of a token, which belongs to no frame then
        bare = text.lstrip(" ")
        spans.append(" " * (len(text) - len(bare)))
        spans.append(f'<span style="{style}">{html.escape(bare) or "·"}</span>')
    cells = "".join(f'<span style="{_NUMBERS}">{html.escape(number)}</span>' for number in numbers)
    return f'<div style="{_ROW}">{cells}<span style="{_TEXT}">{"".join(spans)}</span></div>'


def in_line(text: str) -> str:
    """Running text in one line."""
    return wording.visible(text.translate(_BLANK), keep=" ")
