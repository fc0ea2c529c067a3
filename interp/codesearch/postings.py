"""Which tokens carry a code: inverted lists at the resolution of a span of tokens, exact within it by comparison.

Exact lists would cost as much again as the ids, even gap-coded (``docs/code_index.md``); all of one book's ids are
compared with a code in milliseconds. So a list names the spans of tokens that hold the code, one bit each, and only
those are read. The span is the shortest for which all lists take at most :data:`SHARE` of the ids.
"""

import numpy as np
from jaxtyping import Int, Shaped, UInt8, UInt32

from interp.codesearch.layout import BLOCK, IdFile, Layout
from interp.progress import Stage, silent
from interp.tasks.errors import InputError

SHARE = 0.03
_AT_ONCE = 256
"""Blocks compared at once: 4 MiB at eight codes a token, which the cache holds."""


def span_of(layout: Layout) -> int:
    """Blocks per span."""
    blocks = 1
    budget = SHARE * layout.n_ids * layout.dtype.itemsize
    while blocks < layout.n_blocks and layout.n_codes * -(-layout.n_blocks // blocks) / 8 > budget:
        blocks *= 2
    return blocks


def list_bytes(layout: Layout, span: int) -> int:
    """Width of a code's packed list."""
    n_spans = -(-layout.n_blocks // span)
    return -(-n_spans // 8)


def count_and_list(
    ids: IdFile, span: int, stage: Stage = silent
) -> tuple[UInt32[np.ndarray, " code"], UInt8[np.ndarray, "code byte"]]:
    """How many tokens carry each code, and the packed list of each code's spans."""
    layout = ids.layout
    n_spans = -(-layout.n_blocks // span)
    counts = np.zeros(layout.n_codes, np.uint32)
    lists = np.zeros((layout.n_codes, list_bytes(layout, span)), np.uint8)
    with stage("listing codes", len(layout.books)) as done:
        for i, book in enumerate(layout.books):
            view, n = ids.book(i), book.n_codes
            begin = int(layout.codes[i])
            present = np.zeros((n_spans, n), bool)
            for s in range(n_spans):
                found = np.bincount(view[s * span : (s + 1) * span].ravel(), minlength=n + 1)[:n]
                counts[begin : begin + n] += found.astype(np.uint32)
                present[s] = found > 0
            lists[begin : begin + n] = np.packbits(present.T, axis=1)
            done(1)
    return counts, lists


def positions(
    ids: IdFile, number: int, code: int, spans: UInt8[np.ndarray, " byte"], span: int
) -> Int[np.ndarray, " n"]:
    """The tokens that carry a code, in order.

    Args:
        spans: the code's packed list.
        span: blocks per span.
    """
    layout, view = ids.layout, ids.book(number)
    n_spans = -(-layout.n_blocks // span)
    listed = np.flatnonzero(np.unpackbits(spans)[:n_spans])
    blocks = (listed[:, None] * span + np.arange(span)).ravel()
    blocks = blocks[blocks < layout.n_blocks]
    found = [np.zeros(0, np.int64)]
    for some in np.split(blocks, range(_AT_ONCE, len(blocks), _AT_ONCE)):
        # neighbouring blocks are compared where they lie
        whole = len(some) and some[-1] - some[0] == len(some) - 1
        part = view[some[0] : some[-1] + 1] if whole else view[some]
        hit = np.flatnonzero(np.equal(part, code, order="C").reshape(-1)) // part.shape[-1]
        found.append(some[hit // BLOCK] * BLOCK + hit % BLOCK)
    return np.concatenate(found)


def check_counts(found: Shaped[np.ndarray, " id"], n_codes: int, name: str) -> None:
    """Raise :class:`InputError` if ids were counted that the book does not have."""
    if len(found) > n_codes + 1:
        raise InputError(f"the index is damaged: {name} has ids above {n_codes}; build it again")
