"""From scores to a circuit, the same way for every method: scores propose, exact interchange decides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.activations.stream import BATCH_SIZE, Progress
from interp.defaults import CANDIDATES, MIN_PAIRS, THRESHOLD
from interp.intervals import mean_interval
from interp.models import Model, Site
from interp.scores.patching import Interchange, interchange
from interp.scores.result import Scores
from interp.tasks.errors import InputError
from interp.tasks.pairs import PromptPairs


@dataclass(frozen=True)
class Checked:
    """Candidates with their exact effects.

    Attributes:
        low, high: 95 % percentile bootstrap interval of the mean effect, over pairs; of few pairs it is too narrow
            (of normal values it holds the mean in 84 % of cases with 5, in 90 % with 10, in 93 % with 20).
        member: |mean effect| ≥ threshold × gap, and the interval off zero.
    """

    sites: tuple[Site, ...]
    effect: Float[np.ndarray, " site"]
    low: Float[np.ndarray, " site"]
    high: Float[np.ndarray, " site"]
    member: np.ndarray
    measured: Interchange


def candidates(scores: Scores, n: int = CANDIDATES, *, mlps: bool = False) -> list[Site]:
    """The ``n`` components with the largest absolute score; heads only unless ``mlps``."""
    if n < 1:
        raise InputError(f"{n} candidates: at least 1 is needed")
    ranked = [
        (abs(scores.heads[layer, head]), Site("attn", layer, head)) for layer, head in scores.ranked_heads()
    ]
    if mlps and scores.mlps is not None:
        ranked += [(abs(score), Site("mlp", layer)) for layer, score in enumerate(scores.mlps)]
    ranked.sort(key=lambda pair: -pair[0])
    return [site for _, site in ranked[:n]]


def check(
    model: Model,
    pairs: PromptPairs,
    sites: Sequence[Site],
    *,
    threshold: float = THRESHOLD,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Checked:
    """Measure the candidates by exact interchange and decide which are members."""
    if len(pairs) < MIN_PAIRS:
        raise InputError(
            f"{len(pairs)} pairs are too few to check a circuit: at least {MIN_PAIRS} are needed"
        )
    measured = interchange(model, pairs, sites, batch_size=batch_size, progress=progress)
    return decide(measured, threshold=threshold, seed=seed)


def check_does_task(
    clean: Float[np.ndarray, " pair"], corrupt: Float[np.ndarray, " pair"], *, seed: int = 0
) -> None:
    """Raise :class:`InputError` unless the metric is higher on clean prompts, with an interval off zero."""
    gap = np.asarray(clean - corrupt, dtype=float)
    low, high = (float(end[0]) for end in mean_interval(gap[:, None], seed))
    told = f"the model scores {clean.mean():.3g} on clean and {corrupt.mean():.3g} on corrupt prompts"
    if low <= 0 <= high:
        raise InputError(
            f"{told}, a gap of {gap.mean():.3g} [{low:.3g}, {high:.3g}] that includes 0: it does not do this task, so "
            "there is no circuit to find (more pairs narrow the interval)"
        )
    if high <= 0:
        raise InputError(
            f"{told}, which is less: are answers and wrong answers, or clean and corrupt, exchanged?"
        )


def decide(measured: Interchange, *, threshold: float = THRESHOLD, seed: int = 0) -> Checked:
    """Membership from effects already measured."""
    check_does_task(measured.metric_clean, measured.metric_corrupt, seed=seed)
    gap = measured.metric_clean - measured.metric_corrupt
    low, high = mean_interval(measured.effects, seed)
    effect = measured.effects.mean(0)
    member = (np.abs(effect) >= threshold * abs(gap.mean())) & ((low > 0) | (high < 0))
    return Checked(measured.sites, effect, low, high, member, measured)
