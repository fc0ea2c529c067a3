"""An index on disk, and in it the codes of a corpus in one memory-mapped file.

::

    manifest.json     format, model, codebooks, text, layout, sizes; written last
    ids.npy           uint16, block by block of 1024 tokens, in it [book, token, k]
    counts.npy        tokens that carry each code;   lists.npy   the spans of tokens that hold it, one bit each
    looks.npy         where each head looks, laid out as the ids; see :mod:`interp.codesearch.looks`
    top_*.npy         best contexts of each code;    histogram.npy   its similarities, fired and not
    tokens.npy  documents.npy  text.npy  vocabulary*.npy  special.npy     the text

A block of one book is contiguous, so that both ways of reading are quick: all codes of one book (chunks of 16 KiB at
eight codes a token), and all books' codes at a few tokens (which then lie near each other).

Exact inverted lists would cost as much again as the ids, even gap-coded; all of one book's
ids are compared with a code in milliseconds. So a list names the spans of tokens that hold the code, one bit each, and
only those are read. The span is the shortest for which all lists take at most :data:`SHARE` of the ids.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt
from numpy.lib.format import open_memmap

from interp.bottlenecks.edits import parse_code
from interp.errors import InputError

FORMAT = 2
MANIFEST, IDS = "manifest.json", "ids.npy"
CORPUS = ("tokens", "documents", "vocabulary", "vocabulary_ends", "special", "text")
BLOCK = 1024
SHARE = 0.03


@dataclass(frozen=True)
class Book:
    """One dictionary at one place."""

    name: str  # `a5.h3`, `m2`, `r4`; a part of a shared-out vector is `m2.g1`
    site: str  # where the bottleneck was attached, `a5`
    group: int  # which of its groups
    vectors: int  # which of the bottleneck's dictionaries: 0 where heads share one
    n_codes: int
    k: int


class Layout:
    """Where which book's codes lie. All arrays over "every code" concatenate the books in this order. ``slots``: where
    each book's slots begin in the ids of a token; the last entry is their number. ``codes``: where each book's codes
    begin among all codes; the last entry is their number. ``dtype``, ``shape``: of the file of ids."""

    def __init__(self, books: tuple[Book, ...], n_tokens: int) -> None:
        self.books, self.n_tokens = books, n_tokens
        self.slots = np.cumsum([0, *(book.k for book in books)])
        self.codes = np.cumsum([0, *(book.n_codes for book in books)])
        self.numbers = {book.name: i for i, book in enumerate(books)}
        self.n_slots, self.n_codes = int(self.slots[-1]), int(self.codes[-1])
        self.n_blocks, self.n_ids = -(-n_tokens // BLOCK), n_tokens * self.n_slots
        # one id is kept for "no code"
        self.dtype = np.dtype(np.uint16 if max(book.n_codes for book in books) < 2**16 else np.uint32)
        self.shape = self.n_blocks, BLOCK * self.n_slots

    def number(self, name: str) -> int:
        """Place of a book in the order; :class:`InputError` if there is none of this name."""
        if name not in self.numbers:
            names = [book.name for book in self.books]
            known = ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:3])} … {names[-1]}"
            raise InputError(f"no codebook {name!r} in this index: there are {known}")
        return self.numbers[name]

    def code(self, name: str, code: int) -> int:
        """Place of a code among all codes; :class:`InputError` if there is no such book or code."""
        number = self.number(name)
        if not 0 <= code < self.books[number].n_codes:
            raise InputError(f"code {code} of {name}: there are 0 to {self.books[number].n_codes - 1}")
        return int(self.codes[number]) + code

    def has(self, name: str, code: int) -> bool:
        return name in self.numbers and 0 <= code < self.books[self.numbers[name]].n_codes

    def named(self, name: str) -> tuple[str, int]:
        """Book and id of a code's name, ``a12.h3=97``; :class:`InputError` as :meth:`code`."""
        book, code = parse_code(name)
        self.code(book, code)
        return book, code

    def of_code(self, index: int) -> tuple[Book, int]:
        number = int(np.searchsorted(self.codes, index, side="right")) - 1
        return self.books[number], int(index - self.codes[number])


class IdFile:
    """The ids on disk. A slot without a code, or with one that an earlier slot of the token has, holds ``n_codes``."""

    def __init__(self, layout: Layout, array: np.memmap) -> None:
        self.layout, self._mapped = layout, array
        self.array = np.asarray(array)  # without the memmap's slow indexing

    @classmethod
    def create(cls, path: Path, layout: Layout) -> "IdFile":
        """A file of the final size, with its place on the disk: a write to a mapped file has no other way to fail than
        to end the process. ``OSError``: the disk has not that much left; nothing is left of the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        array = open_memmap(path, "w+", layout.dtype, layout.shape)
        try:
            with path.open("r+b") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # of file systems that cannot
                path.unlink()
                raise
        created = cls(layout, array)
        for i, book in enumerate(layout.books):
            created.book(i)[-1] = book.n_codes  # behind the last token
        return created

    @classmethod
    def open(cls, path: Path, layout: Layout, *, write: bool = False) -> "IdFile":
        """Map an existing file; :class:`InputError` if it is missing, damaged, or of another layout."""
        try:
            array = open_memmap(path, "r+" if write else "r")
        except Exception as error:  # NumPy reads its header as Python: a damaged one may end in anything
            raise InputError(f"{path} is damaged: {error}") from None
        if array.shape != layout.shape or array.dtype != layout.dtype:
            raise InputError(f"{path} is damaged: {array.dtype} {array.shape}, not as the manifest has it")
        return cls(layout, array)

    def book(self, number: int) -> UInt[np.ndarray, "block token k"]:
        begin, end = BLOCK * self.layout.slots[number : number + 2]
        return self.array[:, begin:end].reshape(len(self.array), BLOCK, -1)

    def tokens(self, number: int) -> UInt[np.ndarray, "token k"]:
        return self.book(number).reshape(-1, self.layout.books[number].k)[: self.layout.n_tokens]

    def flush(self) -> None:
        self._mapped.flush()

    def write(self, number: int, start: int, ids: Int[np.ndarray, "token k"]) -> None:
        """Set the ids of tokens from ``start`` on; negative ids mean no code."""
        block, token = np.divmod(np.arange(start, start + len(ids)), BLOCK)
        self.book(number)[block, token] = without_repeats(ids, self.layout.books[number].n_codes)

    def rows(self, number: int, tokens: Int[np.ndarray, " n"]) -> UInt[np.ndarray, "n k"]:
        k, n_slots = self.layout.books[number].k, self.layout.n_slots
        begin = BLOCK * int(self.layout.slots[number])
        block, token = np.divmod(tokens, BLOCK)
        if begin % k or (BLOCK * n_slots) % k:
            return self.book(number)[block, token]
        # a token's ids as one element: ten times as fast as indexing rows of small numbers
        flat = self.array.reshape(-1).view(f"V{k * self.array.itemsize}")
        elements = flat.take(block * (BLOCK * n_slots // k) + (begin // k + token))
        return elements.view(self.array.dtype).reshape(-1, k)


def without_repeats(ids: Int[np.ndarray, "token k"], none: int) -> Int[np.ndarray, "token k"]:
    """Later slots with a code that the token has already, and empty slots, become ``none``."""
    ids = np.where(ids < 0, none, ids)
    for slot in range(1, ids.shape[1]):
        repeated = (ids[:, :slot] == ids[:, slot : slot + 1]).any(1)
        ids[repeated, slot] = none
    return ids


def span_of(layout: Layout) -> int:
    """Blocks per span."""
    blocks = 1
    budget = SHARE * layout.n_ids * layout.dtype.itemsize
    while blocks < layout.n_blocks and layout.n_codes * -(-layout.n_blocks // blocks) / 8 > budget:
        blocks *= 2
    return blocks


def names_of_groups(site: str, n_groups: int | None) -> Sequence[str]:
    """Names of the books at a site whose codes have so many groups."""
    if n_groups is None:
        return [site]
    letter = "h" if site.startswith("a") else "g"
    return [f"{site}.{letter}{group}" for group in range(n_groups)]


def can_be_edited(name: str) -> bool:
    """Whether an edit can name a book: a part of a vector that is shared out, such as ``m0.g1``, it cannot."""
    return ".g" not in name
