"""From scores to a circuit, the same way for every method: scores propose, exact interchange decides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.activations.stream import BATCH_SIZE, Progress
from interp.intervals import mean_interval
from interp.models import Model, Site
from interp.scores.patching import Interchange, interchange
from interp.scores.result import Scores
from interp.tasks.errors import InputError
from interp.tasks.pairs import PromptPairs

CANDIDATES = 30
THRESHOLD = 0.02
MIN_PAIRS = 5
"""Fewer pairs give no bootstrap interval worth the name."""


@dataclass(frozen=True)
class Checked:
    """Candidates with their exact effects.

    Attributes:
        low, high: 95 % percentile bootstrap interval of the mean effect, over pairs.
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


def decide(measured: Interchange, *, threshold: float = THRESHOLD, seed: int = 0) -> Checked:
    """Membership from effects already measured."""
    gap = measured.metric_clean - measured.metric_corrupt
    low_gap, high_gap = mean_interval(gap[:, None], seed)
    if low_gap[0] <= 0 <= high_gap[0]:
        raise InputError(
            f"the model scores {measured.metric_clean.mean():.3g} on clean and {measured.metric_corrupt.mean():.3g} "
            f"on corrupt prompts, a gap of {gap.mean():.3g} [{low_gap[0]:.3g}, {high_gap[0]:.3g}] that includes 0: "
            "it does not do this task, so there is no circuit to find (more pairs narrow the interval)"
        )
    if high_gap[0] <= 0:
        raise InputError(
            f"the model scores {measured.metric_clean.mean():.3g} on clean and {measured.metric_corrupt.mean():.3g} "
            "on corrupt prompts, which is less: are answers and wrong answers, or clean and corrupt, exchanged?"
        )
    low, high = mean_interval(measured.effects, seed)
    effect = measured.effects.mean(0)
    member = (np.abs(effect) >= threshold * abs(gap.mean())) & ((low > 0) | (high < 0))
    return Checked(measured.sites, effect, low, high, member, measured)
