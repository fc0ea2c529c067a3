"""Which heads a method would choose, how many of them are right, and whether it would choose them again.

A choice is the ``size`` heads of largest |score|. Heads that tie are taken in random order: reading order would let
a scorer without information profit from where the members stand, and would make it look stable.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.stats import rankdata

from interp.errors import InputError

N_BOOT = 100


def best_heads(
    scores: Float[np.ndarray, "layer head"], size: int, *, signed: bool = False, seed: int = 0
) -> Bool[np.ndarray, "layer head"]:
    """The ``size`` heads of largest |score|, or of largest score if ``signed``; the seed orders ties."""
    values = scores.ravel() if signed else np.abs(scores).ravel()
    tie = np.random.default_rng(seed).permutation(values.size)
    chosen = np.zeros(values.size, dtype=bool)
    chosen[np.lexsort((tie, -values))[: max(0, size)]] = True
    return chosen.reshape(scores.shape)


def precision_at(
    scores: Float[np.ndarray, "layer head"], truth: Bool[np.ndarray, "layer head"], n: int | None = None
) -> float | None:
    """Share of members among the ``n`` heads of largest |score|; ``None`` for no heads.

    Heads that tie at the border count by the share of them that is taken: the expectation over random orders. ``n``:
    the number of members if not given, where precision and recall are the same.
    """
    n = int(truth.sum()) if n is None else min(n, truth.size)
    if n < 1:
        return None
    size, labels = np.abs(scores).ravel(), truth.ravel()
    rank = rankdata(-size, method="min")  # 1 = best; ties share the best place
    border = np.sort(rank)[n - 1]
    above, at = rank < border, rank == border
    taken = (n - above.sum()) / at.sum()
    return float((labels[above].sum() + taken * labels[at].sum()) / n)


def jaccard(a: Shaped[np.ndarray, "..."], b: Shaped[np.ndarray, "..."]) -> float:
    """|a ∩ b| / |a ∪ b| of two masks; 1 for two empty ones, which are the same circuit.

    :class:`InputError`: masks of different shapes.
    """
    if a.shape != b.shape:
        raise InputError(f"circuits of shape {a.shape} and {b.shape}: only those of one model can be compared")
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else 1.0


def mean_jaccard(circuits: Sequence[Bool[np.ndarray, "layer head"]]) -> float | None:
    """Mean Jaccard index over all pairs of circuits; ``None`` for fewer than two."""
    if len(circuits) < 2:
        return None
    flat = np.stack([c.ravel() for c in circuits]).astype(float)
    shared = flat @ flat.T
    sizes = flat.sum(1)
    either = sizes[:, None] + sizes - shared
    index = np.divide(shared, either, out=np.ones_like(shared), where=either > 0)
    return float(index[np.triu_indices(len(flat), 1)].mean())


def bootstrap_stability(per_pair: Float[np.ndarray, "pair layer head"], size: int) -> float | None:
    """Mean Jaccard index of the chosen ``size`` heads between bootstrap resamples of the pairs.

    Méloux et al. 2025 (arXiv 2510.00845) find .67 for EAP-IG on GPT-2's IOI and ask for .8 from 100 pairs on. It
    says how much the choice depends on the prompts drawn, not whether it is right: a constant ranking has 1.
    """
    n = len(per_pair)
    if n < 2:
        return None
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=N_BOOT).astype(float)
    means = (counts @ per_pair.reshape(n, -1)).reshape(N_BOOT, *per_pair.shape[1:])
    return mean_jaccard([best_heads(mean, size, seed=draw) for draw, mean in enumerate(means)])
