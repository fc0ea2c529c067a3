"""From scores to a circuit, the same way for every method: scores propose, activation patching decides.

Most candidates are far above the threshold or far below it, and a few pairs show which. So effects are looked at after
every 25 pairs. A candidate is settled, and patched on no more pairs, when it is unlikely that the mean over all pairs
lies on the other side of the threshold. The level is divided by the number of looks.

Does the model do the task? Looked at before effects are measured, with a hundredth of the forward passes.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import t

from interp import CANDIDATES, MIN_PAIRS, THRESHOLD
from interp.activations.stream import MetricConsumer, Progress, feed
from interp.errors import InputError
from interp.interventions.clean_run import CleanRun, PatchingEffects
from interp.models import Model, Site, describe_model
from interp.progress import Stage, silent
from interp.prompts.pairs import PromptPairs
from interp.scores.result import Scores
from interp.stats import mean_interval

PerPair = Float[np.ndarray, " pair"]


def check_gap(model: Model, pairs: PromptPairs, *, batch_size: int, stage: Stage = silent) -> None:
    """Raise :class:`InputError` unless clean prompts score higher than corrupt ones, in the mean of all pairs."""
    scorer = MetricConsumer(len(pairs))
    with stage("does the model do the task?", len(pairs)) as advance:
        feed(model, pairs, [scorer], batch_size=batch_size, progress=advance)
    check_known_gap(model, pairs, *scorer.metric_)


def check_known_gap(model: Model, pairs: PromptPairs, metric_clean: PerPair, metric_corrupt: PerPair) -> None:
    """:func:`check_gap` where the pairs have been run already."""
    clean, corrupt = metric_clean.mean(), metric_corrupt.mean()
    if not clean > corrupt:
        raise InputError(
            f"{describe_model(model)['spec']} scores {clean:.3g} on clean prompts of {pairs.task} and {corrupt:.3g} on "
            "corrupt ones: it does not do this task, so there is no gap of which effects could be a share"
        )


LOOK = 25  # pairs that candidates are patched on from one look to the next
LEVEL = 0.2
"""Chance, over all looks, that a candidate at the threshold is settled on the side where all pairs would not put it."""


@dataclass(frozen=True)
class VerifiedHeads:
    """Candidates with their exact effects."""

    sites: tuple[Site, ...]
    effect: Float[np.ndarray, " site"]
    # low, high: 95 % percentile bootstrap interval of the mean effect, over the pairs it was measured on; of few pairs
    # it is too narrow (of normal values it holds the mean in 84 % of cases with 5, in 90 % with 10, in 93 % with 20)
    low: Float[np.ndarray, " site"]
    high: Float[np.ndarray, " site"]
    member: np.ndarray  # |mean effect| ≥ threshold × gap, and the interval off zero
    measured: PatchingEffects

    @property
    def members(self) -> list[Site]:
        """Those of largest absolute effect first."""
        order = np.argsort(-np.abs(self.effect), kind="stable")
        return [self.sites[place] for place in order if self.member[place]]

    def effects(self, sites: Sequence[Site]) -> Float[np.ndarray, "pair site"]:
        """What was measured of some candidates; NaN where it was not."""
        return self.measured.effects[:, [self.sites.index(site) for site in sites]]


def candidates(scores: Scores, n: int = CANDIDATES, *, mlps: bool = False) -> list[Site]:
    """The ``n`` components with the largest absolute score; heads only unless ``mlps``."""
    if n < 1:
        raise InputError(f"{n} candidates: at least 1 is needed")
    heads = [Site("attn", layer, head) for layer, head in scores.ranked_heads()]
    ranked = [(abs(scores.heads[site.layer, site.head]), site) for site in heads]
    if mlps and scores.mlps is not None:
        ranked += [(abs(score), Site("mlp", layer)) for layer, score in enumerate(scores.mlps)]
    ranked.sort(key=lambda pair: -pair[0])
    return [site for _, site in ranked[:n]]


def verify(
    scores: Scores,
    clean: CleanRun,
    *,
    n_candidates: int = CANDIDATES,
    mlps: bool = False,
    threshold: float = THRESHOLD,
    seed: int = 0,
    stage: Stage = silent,
) -> VerifiedHeads:
    """Measure the best-scored components by activation patching and decide which are members (module docstring). Where
    scores are exact effects themselves, nothing is run; what was patched in ``clean``, of all pairs, is not patched
    again."""
    n, sites = len(clean.pairs), candidates(scores, n_candidates, mlps=mlps)
    if n < MIN_PAIRS:
        raise InputError(f"{n} pairs are too few to check a circuit: at least {MIN_PAIRS} are needed")
    check_does_task(clean.metric_[0], clean.metric_[1], seed=seed)  # which should not wait for the patches
    if scores.exact:
        effects = np.stack([_scored(scores, site) for site in sites], axis=1)
        metric_clean, metric_corrupt = clean.metric_
        measured = PatchingEffects(tuple(sites), effects, metric_clean, metric_corrupt, 0.0, 0.0)
    else:
        with stage("activation patching", len(sites) * n) as advance:
            measured = _patched(clean, sites, threshold, advance)
    return decide_members(measured, threshold=threshold, seed=seed)


def _scored(scores: Scores, site: Site) -> PerPair:
    each = scores.heads_per_pair if site.kind == "attn" else scores.mlps_per_pair
    assert each is not None
    return each[:, site.layer] if site.head is None else each[:, site.layer, site.head]


def _patched(clean: CleanRun, sites: Sequence[Site], threshold: float, progress: Progress) -> PatchingEffects:
    """Effects on as many pairs as settle each candidate; ``progress`` is told how many pair × site effects need no more
    be measured."""
    begin, forwards, n = time.perf_counter(), 0.0, len(clean.pairs)
    at = np.array([clean.component(site) for site in sites])
    effects, todo, done = np.full((n, len(sites)), np.nan), np.arange(len(sites)), 0
    looks = [*range(LOOK, n, LOOK), n]
    limit = threshold * abs((clean.metric_[0] - clean.metric_[1]).mean())
    for look in looks:
        layers, heads = np.tile(at[todo], (look - done, 1)).T
        measured, cost = clean.effects(np.repeat(np.arange(done, look), len(todo)), layers, heads)
        effects[done:look, todo], forwards = measured.reshape(look - done, len(todo)), forwards + cost
        progress((look - done) * len(todo))
        settled = is_settled(effects[:look, todo], n, limit, LEVEL / len(looks))
        progress((n - look) * int(settled.sum()))
        todo, done = todo[~settled], look
        if not len(todo):
            break
    metric_clean, metric_corrupt = clean.metric_
    seconds = time.perf_counter() - begin
    return PatchingEffects(tuple(sites), effects, metric_clean, metric_corrupt, forwards, seconds)


def is_settled(
    effects: Float[np.ndarray, "pair site"], n: int, limit: float, level: float
) -> Bool[np.ndarray, " site"]:
    """Whether the mean effect over ``n`` pairs, of which these are some, surely lies beyond ±``limit``, or within."""
    k = len(effects)
    error = effects.std(0, ddof=1) * np.sqrt((1 - k / n) / k)
    half, mean = float(t.ppf(1 - level / 2, k - 1)) * error, abs(effects.mean(0))
    return (mean - half > limit) | (mean + half < limit)


def check_does_task(clean: PerPair, corrupt: PerPair, *, seed: int = 0) -> None:
    """Raise :class:`InputError` unless the metric is higher on clean prompts, with an interval off zero."""
    gap = np.asarray(clean - corrupt, dtype=float)
    low, high = (float(end[0]) for end in mean_interval(gap[:, None], seed))
    means = f"the model scores {clean.mean():.3g} on clean and {corrupt.mean():.3g} on corrupt prompts"
    if low <= 0 <= high:
        interval = f"a gap of {gap.mean():.3g} [{low:.3g}, {high:.3g}] that includes 0"
        raise InputError(f"{means}, {interval}: it does not do this task (more pairs narrow the interval)")
    if high <= 0:
        raise InputError(f"{means}, which is less: are answers, or clean and corrupt prompts, exchanged?")


def decide_members(measured: PatchingEffects, *, threshold: float = THRESHOLD, seed: int = 0) -> VerifiedHeads:
    """Membership from effects already measured; NaN where a site was not patched."""
    check_does_task(measured.metric_clean, measured.metric_corrupt, seed=seed)
    gap = measured.metric_clean - measured.metric_corrupt
    effects = measured.effects
    low, high = np.zeros((2, len(measured.sites)))
    patterns, pattern_of_site = np.unique(np.isfinite(effects), axis=1, return_inverse=True)
    for pattern, rows in enumerate(patterns.T):
        mine = pattern_of_site.ravel() == pattern
        low[mine], high[mine] = mean_interval(effects[rows][:, mine], seed)
    effect = np.nanmean(effects, axis=0)
    member = (np.abs(effect) >= threshold * abs(gap.mean())) & ((low > 0) | (high < 0))
    return VerifiedHeads(measured.sites, effect, low, high, member, measured)
