"""The clearest codes: what the page *Codes* opens on."""

import streamlit as st
from streamlit.column_config import NumberColumn

from interp.app.codes.code_view import code_cells, in_line, pick
from interp.app.widgets.charts import command, table
from interp.app.widgets.code_names import labels, steering_by
from interp.app.widgets.tokens import plain
from interp.app.widgets.url_state import IN_URL, tell_missing
from interp.bottlenecks.store import Codebooks
from interp.codesearch import CodeIndex, HeadSummary, Labels, summarise_heads
from interp.codesearch.contexts import code_contexts
from interp.codesearch.layout import can_be_edited
from interp.report import wording

SHOWN = 30
HEIGHT = 420
COLUMNS = {
    "stands for": st.column_config.TextColumn(
        width="medium", help="The pattern that tells best where the code is on, chosen on other text."
    ),
    "F1": NumberColumn(format="%.2f", help="How well it tells that, on text that did not choose it."),
    "clearest at": st.column_config.TextColumn(width="large"),
    "steering": st.column_config.LinkColumn(display_text="steer by it", help="Opens the page Steering."),
}
SHARE = st.column_config.ProgressColumn(format="percent", help="Of the tokens.")
HEADS = {
    "looks at": st.column_config.TextColumn(help="Where most of its attention · |value| goes, at most tokens."),
    "share": SHARE,
    "F1": NumberColumn(format="%.2f", help="Mean of its codes' names, on text that did not choose them."),
}


def of_index(index: CodeIndex) -> None:
    """Codes with the clearest labels, each at the token where it was chosen most clearly; a press opens its page."""
    names = labels(index)
    if names is None:
        st.caption("These codes have no labels yet. They get them in a terminal:")
        command(["interp", "index", "label", str(index.folder)])
        return
    rows = []
    for book, code in names.clearest(SHOWN):
        if index.layout.has(book, code) and index.count(book, code):
            rows.append(_row(names, book, code) | {"clearest at": _example(index, book, code)})
    st.subheader("The clearest codes")
    pick(rows, "gallery", COLUMNS, height=HEIGHT)
    st.caption("Press a code to see where it is on. Of each head one is listed, of each MLP two, each name once.")
    of_heads(names, index.manifest["model"]["spec"])


def of_codebooks(books: Codebooks, name: str) -> None:
    """The same before there is an index."""
    names = labels(books)
    if names is None:
        return
    rows = [
        _row(names, book, code)
        | ({"steering": steering_by(names.name(book, code), name)} if can_be_edited(book) else {})
        for book, code in names.clearest(SHOWN)
    ]
    st.subheader("The clearest codes")
    table(rows, "gallery", COLUMNS, height=HEIGHT)
    of_heads(names, books.manifest["model"]["spec"])


def of_heads(names: Labels, model: str | None) -> None:
    """Where every head looks and what its codes say, as a table to sort, and one head in full; nothing where labels do
    not tell."""
    if not names.about.get("looks"):
        return
    heads = {head.head: head for head in summarise_heads(names, model)}
    tell_missing("of_head", [*heads], "head")
    with st.expander("What heads do", expanded="of_head" in st.query_params):
        rows = [
            {
                "head": head.head,
                "looks at": head.looks[0][0],
                "share": head.looks[0][1],
                "commonest name": wording.visible(head.names[0][0], keep=" ") if head.names else None,
                "F1": head.f1,
                "in the circuit of": ", ".join(task for task, _ in head.circuits),
            }
            for head in heads.values()
        ]
        table(rows, "heads", HEADS, height=HEIGHT)
        name = st.selectbox("One head in full", [*heads], index=None, key="of_head", bind=IN_URL, width=240)
        if name is not None:
            _head(heads[name])


def _head(head: HeadSummary) -> None:
    """Where it looks, its coarse codes, and what the model loses without it."""
    circuits = ", ".join(f"{plain(task)} ({effect:+.0%} of the difference)" for task, effect in head.circuits)
    st.markdown(f"**{head.head}** {f'is in the circuit of {circuits}' if circuits else 'is in no measured circuit'}.")
    if head.kl_without is not None:
        st.caption(
            f"With its mean output in its place the next token changes by {head.kl_without:.4f} nats, with where it "
            f"looks and its codes by {head.kl_described:.4f}."
        )
    looks = [{"looks at": place, "share": share} for place, share in head.looks]
    table(looks, "looks of a head", {"share": SHARE})
    codes = [
        {"code": code.code, "share": code.share, "stands for": wording.visible(code.text, keep=" ")}
        | {"F1": code.f1, "writes": wording.visible(code.writes, keep=" ")}
        for code in head.codes
    ]
    table(codes, "codes of a head", {"share": SHARE, "F1": NumberColumn(format="%.2f")})


def _row(names: Labels, book: str, code: int) -> dict:
    label = names.of(book, code)
    return {**code_cells(names, book, code), "F1": label and label.f1}


def _example(index: CodeIndex, book: str, code: int) -> str:
    """The code's clearest context in one line, the token in brackets."""
    (context, *_) = code_contexts(index, book, code, "margin", 1, before=8, after=4)
    pieces = [in_line(piece) for piece in context.pieces]
    pieces[context.focus] = f"[{pieces[context.focus]}]"
    return "".join(pieces)
