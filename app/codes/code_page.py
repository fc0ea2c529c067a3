"""What the page of one code shows, as rows and HTML; nothing here waits for the model but the logit lens."""

import html
from collections.abc import Sequence

import numpy as np
import streamlit as st

from interp.app import engine
from interp.app.codes.index import BY_FOLDER
from interp.app.widgets.tokens import colour
from interp.codesearch import CodeIndex, CodePage, Context, LogitLens, code_page, logit_lens
from interp.report import wording

LISTED = 10
"""Entries of every list."""
A_PAGE = 25
"""Contexts drawn at once where all are shown."""
ORDERS = {
    "clearest": "margin",
    "most similar": "similarity",
    "evenly spread": "spread",
    "all, in order": "corpus",
}
_BLANK = str.maketrans("\t\r", "  ")
_ROW = (
    "display:flex;gap:.9em;align-items:baseline;padding:.28em 0;border-bottom:1px solid rgba(128,128,128,.22)"
)
_NUMBERS = "flex:0 0 auto;font-variant-numeric:tabular-nums;font-size:.8em;opacity:.75;min-width:3.2em"
_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.6;min-width:0"
MATCHED = "rgba(128,128,128,.3)"
_FOCUS = "font-weight:700;outline:1.5px solid currentColor;outline-offset:-1px"


def _has_codebooks(page: CodePage) -> bool:
    """Otherwise they were away, and may be back."""
    return page.neighbours is not None


@st.cache_resource(max_entries=64, show_spinner=False, hash_funcs=BY_FOLDER, validate=_has_codebooks)
def page(index: CodeIndex, book: str, code: int) -> CodePage:
    """All that the index says about a code by itself; worked out once, where the codebooks are there."""
    return code_page(index, book, code, n=LISTED)


def lens(index: CodeIndex, book: str, code: int) -> LogitLens:
    """What the code's vector writes into the logits, once the model is there; worked out once."""
    return _lens(index, book, code, engine.model_name(), engine.model())


@st.cache_resource(max_entries=256, show_spinner=False, hash_funcs=BY_FOLDER)
def _lens(index: CodeIndex, book: str, code: int, spec: str, _model) -> LogitLens:  # noqa: ARG001 - a key
    return logit_lens(index, _model, book, code, n=LISTED)


def neighbour_on(index: CodeIndex, book: str, code: int, step: int) -> int | None:
    """The next code of the same codebook that occurs in the corpus, in one direction."""
    begin = index.layout.code(book, 0)
    there = np.flatnonzero(index.counts[begin : begin + index.books[index.layout.number(book)].n_codes])
    beyond = there[there > code] if step > 0 else there[there < code][::-1]
    return int(beyond[0]) if len(beyond) else None


def strip(
    context: Context, code: int | None = None, numbers: Sequence[str] = (), *, framed: bool = True
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
