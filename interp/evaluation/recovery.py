"""How well scores of heads and of edges recover a reference circuit, with what is needed to believe the number.

Heads are ranked by |score|; every head of the model is in the universe. ROC AUC is the probability that a member
outranks a non-member, ties counted as half (the trapezoid under the ROC curve; the lower stairs of Conmy et al. 2023
give less). An AUC comes with its bootstrap interval over prompt pairs, with the reference held fixed, and with nulls
that need no method.

Of edges the universe is every one from a head to a head of a later layer: once per q, k and v input where the scores
tell them apart, else once per pair of heads. Edges without a score count as zero. Because most of an edge AUC is
knowing which *heads* matter, the AUC among edges between circuit members stands beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import average_precision_score, roc_curve

from interp.circuits.references import Reference
from interp.errors import InputError
from interp.models.sites import parse_site
from interp.scores.result import EdgeScore, layer_prior

N_BOOT = 1000
N_RANDOM = 200


@dataclass(frozen=True)
class Nulls:
    """ROC AUC of scorers that know nothing of the task. ``None`` where the AUC is undefined."""

    # random_mean, random_sd: over scorers that draw every score from a normal distribution. The mean must be .50, or
    # the harness leaks; the sd says which differences mean nothing
    random_mean: float | None
    random_sd: float | None
    layer_index: float | None  # later heads score higher
    layer_mean: float | None  # every head gets its layer's mean |score|: what is left when a method knows only layers


@dataclass(frozen=True)
class Recovery:
    """Agreement of scores with a reference. ``None`` = undefined (such as an AUC without positives)."""

    roc_auc: float | None
    average_precision: float | None
    spearman: float | None  # rank correlation of |score| with |effect|, where exact effects are known
    n_positive: int
    n_heads: int
    # 95 % percentile bootstrap of the ROC AUC over pairs, where scores of several are known. A resample holds fewer
    # distinct pairs, so its scores are noisier and its AUC lower: the interval leans low, and the AUC of all pairs can
    # lie at or above its upper end
    interval: tuple[float, float] | None
    n_pairs: int | None  # pairs in the bootstrap
    nulls: Nulls


@dataclass(frozen=True)
class PairedComparison:
    """ROC AUC of one method minus that of another, with its 95 % bootstrap interval over the same resampled pairs."""

    difference: float
    interval: tuple[float, float]


def recover(
    scores: Float[np.ndarray, "layer head"],
    truth: Bool[np.ndarray, "layer head"],
    effects: Float[np.ndarray, "layer head"] | None = None,
    per_pair: Float[np.ndarray, "pair layer head"] | None = None,
    *,
    n_boot: int = N_BOOT,
    n_random: int = N_RANDOM,
) -> Recovery:
    """Score a ranking of heads by |score| against the members of a reference. MLPs can join as one more column.
    :class:`InputError`: shapes differ, or a value is not finite.

    Args:
        effects: exact effects, for the rank correlation.
        per_pair: the scores before the mean over pairs; without them there is no interval.
    """
    _check(scores, truth, "scores")
    if effects is not None:
        _check(effects, truth, "effects")
    if per_pair is not None:
        _check_pairs(per_pair, truth, "scores per pair")
    size, labels = np.abs(scores).ravel(), truth.ravel()
    defined = bool(labels.any() and not labels.all())
    interval = None
    if per_pair is not None and len(per_pair) > 1 and defined:
        interval = _interval(_bootstrap_aucs([per_pair], labels, n_boot)[0])
    return Recovery(
        roc_auc=roc_auc(size, labels),
        average_precision=float(average_precision_score(labels, size)) if labels.any() else None,
        spearman=None if effects is None else spearman(size, np.abs(effects).ravel()),
        n_positive=int(labels.sum()),
        n_heads=labels.size,
        interval=interval,
        n_pairs=None if per_pair is None else len(per_pair),
        nulls=_nulls(np.abs(scores), labels, n_random),
    )


def compare_paired(
    scores_a_per_pair: Float[np.ndarray, "pair_a layer head"],
    scores_b_per_pair: Float[np.ndarray, "pair_b layer head"],
    truth: Bool[np.ndarray, "layer head"],
) -> PairedComparison:
    """Paired bootstrap of the difference of two ROC AUCs, over pairs that both methods scored in one order.

    :class:`InputError`: shapes differ, a value is not finite, or the reference has no positives or no negatives.
    """
    _check_pairs(scores_a_per_pair, truth, "first scores per pair")
    _check_pairs(scores_b_per_pair, truth, "second scores per pair")
    n_pairs, others = len(scores_a_per_pair), len(scores_b_per_pair)
    if n_pairs != others:
        raise InputError(f"{n_pairs} pairs against {others}: a paired comparison needs the same pairs")
    labels, per_method = truth.ravel(), [scores_a_per_pair, scores_b_per_pair]
    auc_a, auc_b = (roc_auc(np.abs(scores.mean(axis=0)).ravel(), labels) for scores in per_method)
    if auc_a is None or auc_b is None:
        raise InputError(f"{int(labels.sum())} of {labels.size} heads are members: no ROC AUC to compare")
    drawn_a, drawn_b = _bootstrap_aucs(per_method, labels, N_BOOT)
    return PairedComparison(auc_a - auc_b, _interval(drawn_a - drawn_b))


def roc_curve_points(
    scores: Float[np.ndarray, "layer head"], truth: Bool[np.ndarray, "layer head"]
) -> list[tuple[float, float]]:
    """(false positive rate, true positive rate) from (0, 0) to (1, 1); empty where the curve is undefined."""
    _check(scores, truth, "scores")
    if not truth.any() or truth.all():
        return []
    fpr, tpr, _ = roc_curve(truth.ravel(), np.abs(scores).ravel())
    return [(float(x), float(y)) for x, y in zip(fpr, tpr, strict=True)]


def roc_auc(scores: Float[np.ndarray, " item"], labels: Bool[np.ndarray, " item"]) -> float | None:
    """ROC AUC of scores as they stand (no absolute value), ties as half; ``None`` if one class is missing."""
    if not labels.any() or labels.all():
        return None
    return float(_aucs(scores[None], labels)[0])


def _aucs(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AUC of every row, from the rank sum of its positives (Mann-Whitney)."""
    n_positive = int(labels.sum())
    n_negative = labels.size - n_positive
    rank_sum = rankdata(scores, axis=1)[:, labels].sum(axis=1)
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def _bootstrap_aucs(per_pair: list[np.ndarray], labels: np.ndarray, n_boot: int) -> list[np.ndarray]:
    """For every method the AUCs of |sum over resampled pairs|; all methods see the same resamples.

    Sums, not means: with whole-numbered scores they are exact, so that ties stay ties.
    """
    n = len(per_pair[0])
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=n_boot).astype(float)
    return [_aucs(np.abs(counts @ scores.reshape(n, -1)), labels) for scores in per_pair]


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _nulls(size: np.ndarray, labels: np.ndarray, n_random: int) -> Nulls:
    if not labels.any() or labels.all():
        return Nulls(None, None, None, None)
    random = _aucs(np.random.default_rng(0).standard_normal((n_random, labels.size)), labels)
    layer_means = np.broadcast_to(size.mean(axis=1, keepdims=True), size.shape)
    return Nulls(
        random_mean=float(random.mean()),
        random_sd=float(random.std()),
        layer_index=roc_auc(layer_prior(*size.shape).ravel(), labels),
        layer_mean=roc_auc(layer_means.ravel(), labels),
    )


def spearman(size: np.ndarray, effects: np.ndarray) -> float | None:
    """Rank correlation; ``None`` where one of the two does not vary."""
    if np.ptp(size) == 0 or np.ptp(effects) == 0:
        return None
    return float(spearmanr(size, effects).statistic)


def _check(scores: np.ndarray, truth: np.ndarray, name: str) -> None:
    if scores.shape != truth.shape:
        raise InputError(f"{name} have shape {scores.shape}, the reference {truth.shape}: they must agree")
    if not np.isfinite(scores).all():
        raise InputError(f"{name} hold {int((~np.isfinite(scores)).sum())} values that are not finite")


def _check_pairs(per_pair: np.ndarray, truth: np.ndarray, name: str) -> None:
    if len(per_pair) == 0:
        raise InputError(f"{name} are empty: at least one pair is needed")
    _check(per_pair, np.broadcast_to(truth, (len(per_pair), *truth.shape)), name)


@dataclass(frozen=True)
class EdgeRecovery:
    """Agreement of edge scores with a reference's edges; ranked by |score|, ties as half.

    ``within_roc_auc`` is the ROC AUC among the edges that join two members of the circuit.
    """

    roc_auc: float | None
    average_precision: float | None
    within_roc_auc: float | None
    n_positive: int
    n_edges: int


def recover_edges(edges: Sequence[EdgeScore], reference: Reference) -> EdgeRecovery:
    """ROC over directed edges among heads. Edges that touch an MLP, the input or the logits are left out.

    Where a score lacks q, k or v, all are folded to pairs of heads by their largest absolute score.
    :class:`InputError`: the reference has no edges, a score is not finite, or names a head the model lacks.
    """
    if not reference.head_edges:
        raise InputError(f"reference {reference.name!r} was published without edges")
    among_heads = [e for e in edges if _is_head(e.sender) and _is_head(e.receiver)]
    split = all(e.into is not None for e in among_heads)
    shape = (reference.n_layers, reference.n_heads, reference.n_layers, reference.n_heads, 3 if split else 1)
    scores, truth = np.zeros(shape), np.zeros(shape, dtype=bool)
    for edge in among_heads:
        if not np.isfinite(edge.score):
            raise InputError(f"edge {edge.sender}->{edge.receiver} scores {edge.score}: not a finite number")
        index = _index(edge.sender, edge.receiver, edge.into, split)
        if any(k >= n for k, n in zip(index, shape, strict=True)) or index[0] >= index[2]:
            raise InputError(f"edge {edge.sender}->{edge.receiver}: {reference.model} has no such edge")
        scores[index] = max(scores[index], abs(edge.score))
    for sender, receiver, into in reference.head_edges:
        truth[_index(sender, receiver, into, split)] = True
    layers = np.arange(reference.n_layers)
    causal = np.broadcast_to((layers[:, None] < layers)[:, None, :, None, None], shape)
    member = reference.members()
    within = causal & member[:, :, None, None, None] & member[None, None, :, :, None]
    return EdgeRecovery(
        roc_auc=roc_auc(scores[causal], truth[causal]),
        average_precision=float(average_precision_score(truth[causal], scores[causal])),
        within_roc_auc=roc_auc(scores[within], truth[within]),
        n_positive=int(truth.sum()),
        n_edges=int(causal.sum()),
    )


def _is_head(node: str) -> bool:
    return node.startswith("a") and ".h" in node


def _index(sender: str, receiver: str, into: str | None, split: bool) -> tuple[int, ...]:
    start, end = parse_site(sender), parse_site(receiver)
    ends = (start.layer, start.head or 0, end.layer, end.head or 0)
    return (*ends, "qkv".index(into) if split and into else 0)
