"""Pairs of codes that two heads have on the same prompt, and which of them only positive prompts show.

The edge score of O'Neill & Bui 2024 (arXiv 2405.12522). Its code fills, per class, one array of
heads² × codes² counts in a triple loop (6.6 GB for GPT-2 small); sorting needs neither loop nor array.
"""

import numpy as np
from jaxtyping import Int

from interp.scores.result import EdgeScore
from interp.tasks.errors import InputError


def edge_overlap(
    ids_clean: Int[np.ndarray, "pair head"], ids_corrupt: Int[np.ndarray, "other head"], n_codes: int
) -> Int[np.ndarray, "head head"]:
    """For every two heads, the number of distinct code pairs seen on clean prompts and on no corrupt one.

    Symmetric, with a zero diagonal: the score itself knows no direction.

    Raises:
        InputError: a code outside 0 … ``n_codes`` − 1.
    """
    ids = np.concatenate([ids_corrupt, ids_clean]).T
    if ids.size and not 0 <= ids.min() <= ids.max() < n_codes:
        raise InputError(f"codes from {ids.min()} to {ids.max()}: they must be 0 to {n_codes - 1}")
    # the last bit says "clean", so that a pair's run of equal keys begins with a corrupt one if it has any
    small = 2 * n_codes**2 < np.iinfo(np.int32).max
    ids = np.ascontiguousarray(ids, dtype=np.int32 if small else np.int64)
    clean = np.arange(ids.shape[1]) >= len(ids_corrupt)
    counts = np.zeros((len(ids), len(ids)), dtype=np.int64)
    for head in range(len(ids) - 1):
        keys = (ids[head] * n_codes + ids[head + 1 :]) * 2 + clean
        keys.sort(axis=1)
        pair = keys >> 1
        begins = np.ones(keys.shape, dtype=bool)
        np.not_equal(pair[:, 1:], pair[:, :-1], out=begins[:, 1:])
        counts[head, head + 1 :] = (begins & (keys & 1 == 1)).sum(axis=1)
    return counts + counts.T


def top_edges(
    matrix: Int[np.ndarray, "flat_head flat_head"], layers: int, heads: int, n: int
) -> tuple[EdgeScore, ...]:
    """The ``n`` best edges from an earlier layer to a later one; ties in reading order, zeros left out.

    Args:
        matrix: over all heads in reading order.
    """
    layer = np.arange(layers * heads) // heads
    forward = np.where(layer[:, None] < layer[None, :], matrix, 0).ravel()
    best = np.argsort(-forward, kind="stable")[:n]
    found = best[forward[best] > 0].tolist()
    return tuple(
        EdgeScore(_site(k // len(matrix), heads), _site(k % len(matrix), heads), None, float(forward[k]))
        for k in found
    )


def published_edge_fold(
    matrix: Int[np.ndarray, "flat_head flat_head"], layers: int, heads: int, entries: int | None = None
) -> Int[np.ndarray, "layer head"]:
    """How often each head ends one of the best pairs: what the paper's "edge AUC" ranks heads by.

    Both ends of every ordered pair, best pair first, go into one list; its first ``entries`` are counted.
    Ties fall by falling index, so that late senders, then late receivers, come first. (There the sort is
    numpy's default one, whose order of ties is the library's affair beyond 16 pairs; here it is a stable
    sort, read backwards as there.)

    Args:
        entries: by default, as the published code computes it, half the square of the number of heads *per
            layer*: 72 on GPT-2 small, that is 36 ordered pairs.
    """
    best = np.argsort(matrix, axis=None, kind="stable")[::-1]
    ends = np.stack(np.unravel_index(best, matrix.shape), axis=1).ravel()
    counts = np.bincount(ends[: heads**2 // 2 if entries is None else entries], minlength=layers * heads)
    return counts.reshape(layers, heads)


def _site(flat: int, heads: int) -> str:
    return f"a{flat // heads}.h{flat % heads}"
