"""Grown circuits run alone on prompts that they were not grown on, beside random heads and the method's own scores."""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import DegenerateDataWarning, bootstrap

from interp.activations.stream import Progress
from interp.errors import InputError
from interp.evaluation.faithfulness import GRID, area_to_the_model, shares_of_gap
from interp.interventions.ablation import Ablator, all_or_none
from interp.models import Site
from interp.scores.adaptive_patching.nested import NestedCircuits

RANDOM_DRAWS = 5


def n_circuits(nested: NestedCircuits) -> int:
    """How many circuits :func:`run_nested` runs, those counted that it is asked for twice."""
    return 2 + len(GRID) + (1 + RANDOM_DRAWS) * len(nested.sizes)


@dataclass(frozen=True)
class NestedCircuit:
    """One size."""

    size: int
    joined: tuple[str, ...]  # heads that the next smaller circuit does not have, first joined first
    expected: float  # share of the gap that growth says it has
    share: float  # what it has on the held-out pairs, f(C) of :mod:`.faithfulness`
    # 95 % bootstrap interval of ``share`` over those pairs (BCa); ``None`` for one pair
    interval: tuple[float, float] | None
    random: float  # mean share of as many random heads


@dataclass(frozen=True)
class NestedCurve:
    """All sizes, and the area between what they have and what the model has (CMD, 0 is best)."""

    circuits: tuple[NestedCircuit, ...]
    cmd: float
    n_pairs: int
    ablation: str


def run_nested(
    nested: NestedCircuits, ablator: Ablator, *, seed: int = 0, progress: Progress | None = None
) -> NestedCurve:
    """Run every grown circuit on the ablator's pairs, with all other heads ablated. :class:`InputError`: the ablator is
    of another model, or ablating every head leaves the metric as it was.

    Args:
        ablator: of held-out pairs.
        seed: of the random heads and the bootstrap.
        progress: told how many circuit × pair values have just become known, of :func:`n_circuits` × pairs.
    """
    shape = nested.heads.shape
    if shape != ablator.shape:
        raise InputError(f"heads of shape {shape} for a model of shape {ablator.shape}")
    rng = np.random.default_rng(seed)
    fractions = [int(share * nested.heads.size) for share in GRID]
    circuits = [*all_or_none(shape), *map(nested.circuit, (*nested.sizes, *fractions))]
    for size in nested.sizes:
        for _ in range(RANDOM_DRAWS):
            chosen = np.zeros(nested.heads.size, dtype=bool)
            chosen[rng.permutation(nested.heads.size)[:size]] = True
            circuits.append(chosen.reshape(shape))
    # one call: it runs a circuit once that is asked for twice
    empty, full, *values = ablator.metric(np.stack(circuits), progress=progress)
    f = shares_of_gap(np.array(values).mean(1), float(empty.mean()), float(full.mean()))
    grown, by_fraction, random = np.split(f, [len(nested.sizes), len(nested.sizes) + len(GRID)])
    random = random.reshape(len(nested.sizes), RANDOM_DRAWS).mean(1)
    smaller, points = np.zeros(shape, dtype=bool), []
    for k, size in enumerate(nested.sizes):
        circuit = nested.circuit(size)
        joined = sorted(np.argwhere(circuit & ~smaller), key=lambda head: -abs(nested.heads[tuple(head)]))
        smaller = circuit
        sites = tuple(str(Site("attn", int(layer), int(head))) for layer, head in joined)
        interval = share_interval(values[k], empty, full, seed)
        expected = 1 - nested.left_out[k]
        points.append(NestedCircuit(size, sites, expected, float(grown[k]), interval, float(random[k])))
    return NestedCurve(tuple(points), float(area_to_the_model(by_fraction)), len(ablator.pairs), ablator.kind)


def _share(values: np.ndarray, empty: np.ndarray, full: np.ndarray, axis: int = -1) -> np.ndarray | np.floating:
    """f(C); of many resamples at once along the last axis."""
    nothing_kept = empty.mean(axis)
    return (values.mean(axis) - nothing_kept) / (full.mean(axis) - nothing_kept)


def share_interval(
    values: Float[np.ndarray, " pair"], empty: Float[np.ndarray, " pair"], full: Float[np.ndarray, " pair"], seed: int
) -> tuple[float, float] | None:
    """95 % bootstrap interval of f(C) over pairs (BCa), from the metric with C, nothing and everything kept; ``None``
    for one pair."""
    if len(values) < 2:
        return None
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)
        how = {"paired": True, "vectorized": True, "n_resamples": 2000, "rng": np.random.default_rng(seed)}
        resampled = bootstrap((values, empty, full), _share, **how)
    low, high = resampled.confidence_interval
    # undefined where every resample has the same share: there is no width then
    share = float(_share(values, empty, full))
    return float(low) if np.isfinite(low) else share, float(high) if np.isfinite(high) else share
