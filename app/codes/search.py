"""What the page *Codes* finds: every code scored against matches, contexts like a prompt's token."""

from dataclasses import dataclass

import numpy as np
import streamlit as st
from jaxtyping import Int

from interp import codesearch
from interp.app import engine
from interp.app.codes.index import BY_FOLDER, changed
from interp.app.widgets.tokens import pieces
from interp.codesearch.annotations import Annotation
from interp.errors import InputError

REGEX, TOKEN, PROMPT, NAME = "regular expression", "token", "prompt", "name"
FIELDS = {REGEX: "q", TOKEN: "token", PROMPT: "near"}  # what is typed, as it stands in the URL
EXAMPLES = {
    REGEX: (r"\b[Rr]eturns?\b", r"\b(if|when|unless)\b", r"\d+", r"\b(not|no|never)\b", r"\bPython\b"),
    TOKEN: ("not", "file", "("),
    PROMPT: ("Return the name of the file", "It is not an error"),
}
MOST = 128  # tokens of a prompt


@st.cache_resource(max_entries=8, show_spinner="Searching", hash_funcs=BY_FOLDER)
def scores(index: codesearch.CodeIndex, by: str, text: str) -> codesearch.CodeScores:
    """Every code against a regular expression or a token; looked for once."""
    return codesearch.search_regex(index, text) if by == REGEX else codesearch.search_token(index, text)


def note_text(note: Annotation | None) -> str:
    """A star and the beginning of a note, for a table's column."""
    if note is None:
        return ""
    text = " ".join(note.text.split())
    return f"{'★ ' if note.star else ''}{text if len(text) <= 40 else text[:39] + '…'}".strip()


def interval(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.2f} – {bounds[1]:.2f}"


@dataclass(frozen=True)
class Likeness:
    pieces: list[str]  # the prompt's tokens
    # those of the chosen token, (book, code, tokens of the corpus with it), the rarest first
    codes: list[tuple[str, int, int]]
    # of the corpus' tokens that share most of them, with how much
    contexts: list[tuple[float, int, codesearch.CodeContext]]


def like(index: codesearch.CodeIndex, prompt: str, position: int, n: int) -> Likeness:
    """Contexts like one token of a prompt: one forward pass for all its tokens, unless it was asked before. −1 is the
    last token."""
    key = index.folder, changed(index.folder), engine.model_name(), prompt
    texts, codes = engine.asked_last("prompt read", key, lambda: _read(index, prompt))
    at = min(position, len(texts) - 1)
    return engine.asked_last("likeness", (*key, at, n), lambda: _like(index, texts, codes, at, n))


def _read(index: codesearch.CodeIndex, prompt: str) -> tuple[list[str], dict[str, Int[np.ndarray, "pos k"]]]:
    """The tokens of a prompt and the codes of each, holding the lock."""
    tokenizer = engine.model().tokenizer
    ids = tokenizer(prompt, add_special_tokens=False).input_ids if prompt.strip() else []
    if not ids:
        raise InputError("an empty prompt: write a text")
    if len(ids) > MOST:
        raise InputError(f"a prompt of {len(ids)} tokens: this page reads at most {MOST}")
    index.check_model(engine.model())
    with engine.running() as model:
        return pieces(tokenizer, ids), codesearch.all_prompt_codes(index, model, ids)


def _like(index: codesearch.CodeIndex, texts: list[str], codes: dict, position: int, n: int) -> Likeness:
    codes_there = {book: ids[position] for book, ids in codes.items()}
    named = [(book, int(code)) for book, ids in codes_there.items() for code in np.unique(ids[ids >= 0])]
    counted = [(book, code, index.count(book, code)) for book, code in named]
    contexts = [
        (hit.score, hit.shared, codesearch.context_at(index, hit.token))
        for hit in codesearch.search_similar(index, codes_there, n)
    ]
    # codes that the corpus has once say little, those it never has nothing
    return Likeness(texts, sorted(counted, key=lambda entry: (entry[2] == 0, entry[2])), contexts)
