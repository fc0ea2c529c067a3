"""Does a circuit do the task by itself, without the rest of the model, and is none of it idle?

m(C) is the mean task metric with the heads of C kept and all others ablated (:mod:`.ablation`); M is the whole
model, ∅ has every head of the universe ablated.

- Share recovered: f(C) = (m(C) − m(∅)) / (m(M) − m(∅)) (MIB, Mueller et al. 2025, arXiv 2504.13151; Hanna et al.
  2024, arXiv 2403.17806). It passes 1 where heads that hurt are left out.
- CPR and CMD (MIB): f at fixed fractions of the universe, best-scored first, integrated by the trapezoid rule over a
  *linear* axis of fractions. CPR integrates f with heads taken by signed score (higher is better, without an upper
  limit: it rewards dropping heads that hurt); CMD integrates |1 − f| with heads taken by |score| (0 is best). Four
  fifths of the axis lie between .2 and 1, so small circuits hardly count: read f at fixed sizes beside them.
- Faithfulness, completeness, minimality (Wang et al. 2022, arXiv 2211.00593): |m(M) − m(C)|; |m(C∖K) − m(M∖K)| for
  subsets K of C; and for each head v of C the largest |m(C∖(K ∪ {v})) − m(C∖K)| over subsets K.

All depend on the kind of ablation and on the universe: name both beside a number.
"""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.integrate import trapezoid

from interp.errors import InputError
from interp.evaluation.stability import best_heads
from interp.interventions.ablation import Ablator, all_or_none
from interp.models import Site

GRID = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's fractions of the universe. A fraction of fewer than one head is an empty circuit."""
SIZES = (5, 10, 20, 50)


@dataclass(frozen=True)
class Curves:
    """How a ranking's best heads do the task, alone."""

    grid: tuple[float, ...]
    counts: tuple[int, ...]  # heads kept at each fraction of the grid, rounded down
    # f_signed, f_absolute: share recovered at each fraction, heads taken by signed and by absolute score
    f_signed: tuple[float, ...]
    f_absolute: tuple[float, ...]
    # number of heads, taken by |score| -> share recovered; ``None`` where the model has fewer
    f_at: dict[int, float | None]
    cpr: float
    cmd: float
    # metric_full, metric_empty: m(M) and m(∅)
    metric_full: float
    metric_empty: float
    ablation: str
    universe: str
    n_pairs: int

    def to_dict(self) -> dict:
        """JSON-able values."""
        value = asdict(self)
        value["f_at"] = {str(size): f for size, f in self.f_at.items()}
        return value | {key: list(value[key]) for key in ("grid", "counts", "f_signed", "f_absolute")}


def faithfulness_curves(
    ablator: Ablator, scores: Float[np.ndarray, "layer head"], *, sizes: tuple[int, ...] = SIZES, seed: int = 0
) -> Curves:
    """CPR, CMD and f at fixed sizes of one ranking of heads, MLPs live. :class:`InputError`: ablating every head leaves
    the metric as it was, so that there are no shares.

    Args:
        ablator: of the prompts that the circuits are run on; not those that the scores come from.
        scores: signed where the method has a sign; without one the two orders are the same.
        seed: of the order among equal scores.
    """
    counts = [int(fraction * scores.size) for fraction in GRID]
    fitting = [size for size in sizes if size <= scores.size]
    by_size = [best_heads(scores, size, seed=seed) for size in (*counts, *fitting)]
    by_sign = [best_heads(scores, size, signed=True, seed=seed) for size in counts]
    circuits = np.stack([*all_or_none(scores.shape), *by_sign, *by_size])
    empty, full, *values = ablator.metric(circuits).mean(1)
    f = shares_of_gap(np.array(values), empty, full)
    f_signed, f_absolute, rest = np.split(f, [len(GRID), 2 * len(GRID)])
    at = dict(zip(fitting, rest.tolist(), strict=True))
    return Curves(
        grid=GRID,
        counts=tuple(counts),
        f_signed=tuple(f_signed.tolist()),
        f_absolute=tuple(f_absolute.tolist()),
        f_at={size: at.get(size) for size in sizes},
        cpr=float(area_under(f_signed)),
        cmd=float(area_to_the_model(f_absolute)),
        metric_full=float(full),
        metric_empty=float(empty),
        ablation=ablator.kind,
        universe="heads",
        n_pairs=len(ablator.pairs),
    )


def area_under(f_signed: Float[np.ndarray, " fraction"]) -> np.floating:
    """CPR: the area of f over the fractions of :data:`GRID`."""
    return trapezoid(f_signed, GRID)


def area_to_the_model(f_absolute: Float[np.ndarray, "*circuits fraction"]) -> np.ndarray | np.floating:
    """CMD: the area of |1 − f| over the fractions of :data:`GRID`, [*circuits]."""
    return trapezoid(np.abs(1 - f_absolute), GRID, axis=-1)


def shares_of_gap(values: Float[np.ndarray, " circuit"], empty: float, full: float) -> np.ndarray:
    """f of circuits whose mean metric is given. :class:`InputError`: nothing lies between no head and all heads."""
    if abs(full - empty) < 1e-6 * max(abs(full), abs(empty), 1e-12):
        raise InputError(
            f"the metric is {full:.3g} with every head and {empty:.3g} with none: there is nothing to share out"
        )
    return (values - empty) / (full - empty)


@dataclass(frozen=True)
class Faithfulness:
    """Wang et al.'s |m(M) − m(C)| in units of the metric, and the share recovered."""

    gap: float
    share: float
    metric_full: float
    metric_circuit: float
    metric_empty: float


def faithfulness(ablator: Ablator, circuit: Bool[np.ndarray, "layer head"]) -> Faithfulness:
    """How far the circuit alone is from the model.

    :class:`InputError`: ablating every head leaves the metric as it was.
    """
    circuits = np.stack([*all_or_none(circuit.shape), circuit])
    empty, full, alone = (float(value) for value in ablator.metric(circuits).mean(1))
    share = shares_of_gap(np.array([alone]), empty, full)[0]
    return Faithfulness(abs(full - alone), float(share), full, alone, empty)


@dataclass(frozen=True)
class Completeness:
    """|m(C∖K) − m(M∖K)| for subsets K of the circuit; large = the model has what the circuit lacks."""

    subsets: tuple[tuple[tuple[str, ...], float], ...]  # every K as sites, and its gap in units of the metric
    # random_mean, random_worst: over random K, each head in it with probability one half
    random_mean: float
    random_worst: float
    worst: float  # over all K, those built greedily against the circuit included
    worst_subset: tuple[str, ...]


def completeness(
    ablator: Ablator,
    circuit: Bool[np.ndarray, "layer head"],
    *,
    n_random: int = 20,
    greedy_runs: int = 1,
    greedy_steps: int = 10,
    greedy_candidates: int = 10,
    seed: int = 0,
) -> Completeness:
    """Whether circuit and model fall alike when the same heads are taken from both.

    Greedy K (Wang et al. 2022, section 4.2): from the empty set, at each step draw some heads of C not in K and add the
    one that makes the gap largest. With every head a candidate the search is exhaustive at each step.
    :class:`InputError`: an empty circuit.
    """
    _check_circuit(circuit)
    if n_random < 1:
        raise InputError(f"n_random {n_random}: at least one random subset is needed")
    rng, members = np.random.default_rng(seed), np.argwhere(circuit)
    draws = rng.random((n_random, len(members))) < 0.5
    subsets = [_mask(members[draw], circuit.shape) for draw in draws]
    gaps = _completeness_gaps(ablator, circuit, subsets)
    random_gaps = np.array(gaps)
    for _ in range(greedy_runs):
        chosen = np.zeros_like(circuit)
        for _ in range(min(greedy_steps, len(members))):
            left = np.argwhere(circuit & ~chosen)
            candidates = rng.permutation(len(left))[:greedy_candidates]
            grown = [chosen | _mask(left[k : k + 1], circuit.shape) for k in candidates]
            new_gaps = _completeness_gaps(ablator, circuit, grown)
            chosen = grown[int(np.argmax(new_gaps))]
            subsets.append(chosen)
            gaps.append(max(new_gaps))
    worst = int(np.argmax(gaps))
    return Completeness(
        subsets=tuple((_sites(k), float(gap)) for k, gap in zip(subsets, gaps, strict=True)),
        random_mean=float(random_gaps.mean()),
        random_worst=float(random_gaps.max()),
        worst=float(gaps[worst]),
        worst_subset=_sites(subsets[worst]),
    )


def _completeness_gaps(ablator: Ablator, circuit: np.ndarray, subsets: list[np.ndarray]) -> list[float]:
    circuits = np.stack([*(circuit & ~k for k in subsets), *(~k for k in subsets)])
    means = ablator.metric(circuits).mean(1)
    return np.abs(means[: len(subsets)] - means[len(subsets) :]).tolist()


@dataclass(frozen=True)
class Minimality:
    """A head's largest contribution |m(C∖(K ∪ {v})) − m(C∖K)|, in units of the metric, and the K it was found at."""

    site: str
    contribution: float
    subset: tuple[str, ...]


def minimality(
    ablator: Ablator, circuit: Bool[np.ndarray, "layer head"], *, n_random: int = 10, seed: int = 0
) -> tuple[Minimality, ...]:
    """What each head of the circuit is needed for, least needed first.

    K is the empty set, every single other head, and ``n_random`` random subsets (each head with probability one half).
    A backup contributes only where the head that it stands in for is in K. The largest of many noisy differences is
    above zero for an idle head as well: compare with what heads outside of the circuit reach. :class:`InputError`: an
    empty circuit.
    """
    _check_circuit(circuit)
    rng, members = np.random.default_rng(seed), np.argwhere(circuit)
    draws = [np.zeros(len(members), dtype=bool), *np.eye(len(members), dtype=bool)]
    draws += list(rng.random((n_random, len(members))) < 0.5)
    without = [_mask(members[draw], circuit.shape) for draw in draws]
    singles = [_mask(members[v : v + 1], circuit.shape) for v in range(len(members))]
    circuit_pairs = [(circuit & ~(k | head), circuit & ~(k & ~head)) for head in singles for k in without]
    means = ablator.metric(np.concatenate(circuit_pairs)).mean(1).reshape(len(members), len(without), 2)
    contributions = np.abs(means[..., 0] - means[..., 1])
    best = contributions.argmax(1)
    parts = [
        Minimality(_sites(singles[v])[0], float(contributions[v, k]), _sites(without[k] & ~singles[v]))
        for v, k in enumerate(best)
    ]
    return tuple(sorted(parts, key=lambda part: part.contribution))


def _check_circuit(circuit: np.ndarray) -> None:
    if not circuit.any():
        raise InputError("the circuit is empty: there are no heads to take from it")


def _mask(heads: np.ndarray, shape: tuple[int, ...]) -> Bool[np.ndarray, "layer head"]:
    mask = np.zeros(shape, dtype=bool)
    mask[heads[:, 0], heads[:, 1]] = True
    return mask


def _sites(mask: np.ndarray) -> tuple[str, ...]:
    return tuple(str(Site("attn", int(layer), int(head))) for layer, head in np.argwhere(mask))
