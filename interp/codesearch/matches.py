"""Where a regular expression matches in a corpus, and which tokens each match overlaps.

The engine is Rust's ``regex`` (through Polars): linear in the text whatever the pattern, and aware of Unicode in
``\\w``, ``\\b`` and case; it has no backreferences and no look-around. It replaces each match by the match between two
marks, in all documents at once, and the places of the marks are the places of the matches, in bytes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped

from interp.codesearch.corpus import Corpus
from interp.tasks.errors import InputError

_MARKS = range(0xE000, 0xF8FF)
"""Private characters, of three bytes each; two that the text lacks are taken."""
_MARK_BYTES = 3


@dataclass(frozen=True)
class Matches:
    """
    Attributes:
        tokens: the tokens of all matches, match by match; no special ones.
        match: which match each belongs to, never decreasing.
        n: number of matches.
    """

    tokens: Int[np.ndarray, " n"]
    match: Int[np.ndarray, " n"]
    n: int

    @classmethod
    def of_tokens(cls, tokens: Shaped[np.ndarray, " n"]) -> "Matches":
        """Every token a match of its own."""
        return cls(tokens.astype(np.int64), np.arange(len(tokens)), len(tokens))


def find_regex(corpus: Corpus, pattern: str) -> Matches:
    """All matches that do not overlap, from the left, in every document by itself; empty ones are left out.

    Raises:
        InputError: a pattern that the engine does not know.
    """
    starts, ends = match_bytes(corpus, pattern)
    first = np.searchsorted(corpus.ends, starts, side="right")
    last = np.searchsorted(corpus.starts, ends, side="left") - 1
    lengths = last - first + 1
    match = np.repeat(np.arange(len(starts)), lengths)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = np.repeat(first, lengths) + within
    # in the middle of a document stands the first token of the model's next block
    seen = corpus.ends[tokens] > corpus.starts[tokens]
    return Matches(tokens[seen], match[seen], len(starts))


def match_bytes(corpus: Corpus, pattern: str) -> tuple[Int[np.ndarray, " match"], Int[np.ndarray, " match"]]:
    """Where matches begin and end, in bytes of the text of the corpus."""
    import polars as pl
    import pyarrow as pa

    if not pattern:
        raise InputError("an empty pattern matches everywhere: write a regular expression")
    text = np.ascontiguousarray(corpus.text)
    opening, closing = _marks(text)
    offsets = np.ascontiguousarray(corpus.document_bytes)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    documents = pa.Array.from_buffers(pa.large_utf8(), len(offsets) - 1, buffers)
    try:
        marked = pl.Series(documents).str.replace_all(pattern, f"{opening}${{0}}{closing}").to_arrow()
    except pl.exceptions.PolarsError as error:
        raise InputError(f"regular expression {pattern!r}: {_reason(error)}") from None
    marked = marked.cast(pa.large_utf8())
    bounds = np.frombuffer(marked.buffers()[1], np.int64)[marked.offset : marked.offset + len(marked) + 1]
    output = np.frombuffer(marked.buffers()[2] or b"", np.uint8)[bounds[0] : bounds[-1]]
    # what stands before the i-th match grew by two marks for each earlier one
    grown = 2 * _MARK_BYTES * np.arange(len(output) // _MARK_BYTES + 1)
    starts, ends = (_places(output, mark) for mark in (opening, closing))
    starts, ends = starts - grown[: len(starts)], ends - grown[: len(ends)] - _MARK_BYTES
    some = ends > starts
    return starts[some], ends[some]


def _places(text: np.ndarray, mark: str) -> Int[np.ndarray, " n"]:
    """Where a character of three bytes stands."""
    a, b, c = mark.encode()
    if len(text) < _MARK_BYTES:
        return np.zeros(0, np.int64)
    # the third byte tells it from nearly everything else that begins alike
    found = np.flatnonzero(text[:-2] == a)
    return found[(text[found + 1] == b) & (text[found + 2] == c)]


def _marks(text: np.ndarray) -> tuple[str, str]:
    found: list[str] = []
    for number in _MARKS:
        if not len(_places(text, chr(number))):
            found.append(chr(number))
        if len(found) == 2:
            return found[0], found[1]
    raise InputError("the text uses every private character of Unicode: it cannot be searched")


def _reason(error: Exception) -> str:
    """The engine's complaint in one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    for line in lines:
        if line.startswith("error:"):
            return line.removeprefix("error:").strip()
    return next((line for line in lines if line), type(error).__name__)
