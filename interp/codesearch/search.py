r"""Every code of every book against matches in the text, and which tokens each match overlaps.

The engine is Rust's ``regex`` (through Polars): linear in the text whatever the pattern, and aware of Unicode in
``\w``, ``\b`` and case; it has no backreferences and no look-around. It replaces each match by the match between two
marks, in all documents at once, and the places of the marks are the places of the matches, in bytes.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt

from interp.bottlenecks.gates import complaint
from interp.codesearch.corpus import Corpus
from interp.codesearch.index import CodeIndex
from interp.errors import InputError
from interp.stats import wilson_bounds

_MARKS = range(0xE000, 0xF8FF)  # private characters, of three bytes each; two that the text lacks are taken
_MARK_BYTES = 3


@dataclass(frozen=True)
class Matches:
    tokens: Int[np.ndarray, " n"]  # the tokens of all matches, match by match; no special ones
    match: Int[np.ndarray, " n"]  # which match each belongs to, never decreasing
    n: int  # number of matches


def find_regex(corpus: Corpus, pattern: str) -> Matches:
    """All matches that do not overlap, from the left, in every document by itself; empty ones are left out.

    :class:`InputError` for a pattern that the engine does not know.
    """
    starts, ends = _match_bytes(corpus, pattern)
    first = np.searchsorted(corpus.ends, starts, side="right")
    last = np.searchsorted(corpus.starts, ends, side="left") - 1
    lengths = last - first + 1
    match = np.repeat(np.arange(len(starts)), lengths)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = np.repeat(first, lengths) + within
    # in the middle of a document stands the first token of the model's next block
    seen = corpus.ends[tokens] > corpus.starts[tokens]
    return Matches(tokens[seen], match[seen], len(starts))


def _match_bytes(corpus: Corpus, pattern: str) -> tuple[Int[np.ndarray, " match"], Int[np.ndarray, " match"]]:
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
        raise InputError(f"regular expression {pattern!r}: {complaint(error)}") from None
    marked = marked.cast(pa.large_utf8())
    bounds = np.frombuffer(marked.buffers()[1], np.int64)[marked.offset : marked.offset + len(marked) + 1]
    output = np.frombuffer(marked.buffers()[2] or b"", np.uint8)[bounds[0] : bounds[-1]]
    # what stands before the i-th match grew by two marks for each earlier one
    grown = 2 * _MARK_BYTES * np.arange(len(output) // _MARK_BYTES + 1)
    starts, ends = (_places(output, mark) for mark in (opening, closing))
    starts, ends = starts - grown[: len(starts)], ends - grown[: len(ends)] - _MARK_BYTES
    filled = ends > starts
    return starts[filled], ends[filled]


def _places(text: np.ndarray, mark: str) -> Int[np.ndarray, " n"]:
    """Where a character of three bytes stands."""
    a, b, c = mark.encode()
    # the third byte tells it from nearly everything else that begins alike
    starts = np.flatnonzero(text[:-2] == a)
    return starts[(text[starts + 1] == b) & (text[starts + 2] == c)]


def _marks(text: np.ndarray) -> tuple[str, str]:
    free = (chr(number) for number in _MARKS if not len(_places(text, chr(number))))
    opening, closing = next(free, None), next(free, None)
    if opening is None or closing is None:
        raise InputError("the text uses every private character of Unicode: it cannot be searched")
    return opening, closing


SORTS = ("f1", "precision", "recall", "count")


@dataclass(frozen=True)
class CodeHit:
    """How well one code tells matches from the rest; intervals are Wilson's at 95 %."""

    book: str
    code: int
    count: int  # tokens with the code
    hits: int  # of these, tokens in a match
    found: int  # matches in which it occurs
    precision: float
    recall: float
    f1: float
    precision_interval: tuple[float, float]
    recall_interval: tuple[float, float]


@dataclass(frozen=True)
class CodeScores:
    """Scores of every code of every book (all behind each other, in the order of the index).

    precision = tokens with the code that lie in a match / tokens with the code; recall = matches with the code at one
    of their tokens / matches; F1 is their harmonic mean. A code that was looked for by its matches fits them better
    than it will fit other text: choose on one corpus, report on another.
    """

    index: CodeIndex
    matches: Matches  # what was matched
    n_tokens: int  # different tokens in matches
    # hits, found: per code, see `CodeHit`
    hits: Int[np.ndarray, " code"]
    found: Int[np.ndarray, " code"]

    @cached_property
    def precision(self) -> Float[np.ndarray, " code"]:
        return self.hits / np.maximum(self.index.counts, 1)

    @cached_property
    def recall(self) -> Float[np.ndarray, " code"]:
        return self.found / max(self.matches.n, 1)

    @cached_property
    def f1(self) -> Float[np.ndarray, " code"]:
        return 2 * self.precision * self.recall / np.maximum(self.precision + self.recall, 1e-12)

    def best(self, n: int = 20, **options: Any) -> list[CodeHit]:
        """The best codes; options are those of :meth:`places`."""
        return self.hits_at(self.places(most=n, **options))

    def places(
        self,
        *,
        sort: str = "f1",
        min_precision: float = 0.0,
        min_recall: float = 0.0,
        min_hits: int = 1,
        per_book: int | None = None,
        most: int | None = None,
    ) -> Int[np.ndarray, " n"]:
        """The places of codes among all, the best first.

        Args:
            sort: ``f1``, ``precision``, ``recall`` or ``count`` (tokens with the code).
            min_hits: tokens in matches that a code must have: one of one is no evidence.
            per_book: at most so many of each book.
            most: at most so many; all if None.
        """
        if sort not in SORTS:
            raise InputError(f"sort {sort!r}: choose {', '.join(SORTS)}")
        keys = self.index.counts if sort == "count" else getattr(self, sort)
        kept = np.flatnonzero(
            (self.hits >= max(min_hits, 1)) & (self.precision >= min_precision) & (self.recall >= min_recall)
        )
        if per_book is not None:
            parts = np.split(kept, np.searchsorted(kept, self.index.layout.codes[1:-1]))
            kept = np.concatenate([part[largest(keys[part], per_book, self.hits[part])] for part in parts])
        return kept[largest(keys[kept], len(kept) if most is None else most, self.hits[kept])]

    def hits_at(self, places: Int[np.ndarray, " n"]) -> list[CodeHit]:
        """Codes by their places among all."""
        counts, hits, matched = (part[places].astype(np.int64) for part in (self.index.counts, self.hits, self.found))
        shares = (part[places] for part in (self.precision, self.recall, self.f1))
        columns = (part.tolist() for part in (counts, hits, matched, *shares))
        precision, recall = (
            zip(*(part.tolist() for part in wilson_bounds(*of)), strict=True)
            for of in ((hits, counts), (matched, np.full_like(matched, self.matches.n)))
        )
        names = ((book.name, code) for book, code in map(self.index.layout.of_code, places.tolist()))
        rows = zip(names, *columns, precision, recall, strict=True)
        return [CodeHit(*name, *row) for name, *row in rows]


def search_regex(index: CodeIndex, pattern: str) -> CodeScores:
    """Scores of every code against a regular expression (Rust's syntax; ``(?i)`` ignores case)."""
    return score_codes(index, find_regex(index.corpus, pattern))


def search_token(index: CodeIndex, token: str) -> CodeScores:
    """Scores of every code against one token, by its text with and without a space in front."""
    if not token:
        raise InputError("the token is empty: give its text, a space for one in front")
    ids = index.corpus.find_tokens(token)
    if not len(ids):
        raise InputError(f"{token!r} is no single token: search it as a regular expression")
    tokens = np.flatnonzero(np.isin(index.corpus.tokens, ids))
    return score_codes(index, Matches(tokens, np.arange(len(tokens)), len(tokens)))


def score_codes(index: CodeIndex, matches: Matches) -> CodeScores:
    """Scores of every code against matches: the ids there are read once, and counted by one bincount per book."""
    tokens = np.unique(matches.tokens)
    shared = len(tokens) < len(matches.tokens)
    # matches of one length at a time: a row of ids each
    lengths = np.bincount(matches.match, minlength=matches.n)
    first = np.cumsum(lengths) - lengths
    groups = [
        matches.tokens[first[lengths == length][:, None] + np.arange(length)]
        for length in np.unique(lengths[lengths > 0])
    ]
    hits, matched = np.zeros((2, index.layout.n_codes), np.int64)
    for i, book in enumerate(index.books):
        of_book = slice(*index.layout.codes[i : i + 2])
        for group in groups:
            ids = index.ids.rows(i, group.ravel())
            counts = _counted(index, i, ids)
            if not shared:
                hits[of_book] += counts
            if group.shape[1] > 1:  # a code that several tokens of a match have counts once
                ids = np.sort(ids.reshape(len(group), -1), axis=1)
                ids[:, 1:][ids[:, 1:] == ids[:, :-1]] = book.n_codes
                counts = _counted(index, i, ids)
            matched[of_book] += counts
    return CodeScores(index, matches, len(tokens), count_at(index, tokens) if shared else hits, matched)


def count_at(index: CodeIndex, tokens: Int[np.ndarray, " n"]) -> Int[np.ndarray, " code"]:
    """At how many of some different tokens every code occurs."""
    return np.concatenate([_counted(index, i, index.ids.rows(i, tokens)) for i in range(len(index.books))])


def _counted(index: CodeIndex, number: int, ids: UInt[np.ndarray, "n k"]) -> Int[np.ndarray, " code"]:
    """How often each code of a book is among some ids."""
    book = index.books[number]
    counts = np.bincount(ids.ravel(), minlength=book.n_codes + 1)
    if len(counts) > book.n_codes + 1:
        raise InputError(f"the index is damaged: {book.name} has ids above {book.n_codes}; build it again")
    return counts[:-1]


def largest(
    keys: Shaped[np.ndarray, " n"], n: int, ties: Shaped[np.ndarray, " n"] | None = None
) -> Int[np.ndarray, " most"]:
    """Where the largest keys stand, the largest first; of equal ones that with the larger ``ties``, then the first.

    Sorting millions of codes would take longer than counting them.
    """
    keys = keys.astype(np.float64)
    best = np.arange(len(keys))
    if n < len(keys):
        best = np.flatnonzero(keys >= np.partition(keys, len(keys) - n)[len(keys) - n])
    ties = np.zeros(len(keys)) if ties is None else ties.astype(np.float64)
    return best[np.lexsort((-ties[best], -keys[best]))][:n]
