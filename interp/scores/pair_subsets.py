"""Base runs of a pool of pairs, from which methods that are no mean over pairs score any part of it.

A benchmark draws many subsets of one pool. Attribution of a subset is the mean of its pairs' attributions; the methods
here take a norm, a maximum or a dictionary over the set, but need no forward pass to take it over another set: the
model runs once on every pair, and each subset costs arithmetic.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from interp.activations.means import HeadMeans, output_weights
from interp.activations.stream import Progress, feed
from interp.models import Model
from interp.prompts.pairs import PromptPairs
from interp.scores.adaptive_patching.method import AdaptivePatchingBase, AdaptivePatchingConfig
from interp.scores.attribution import AttributionConsumer
from interp.scores.eap import EAPConfig, Estimator, at_clean, edge_scores, fold_edges
from interp.scores.eap_ig import EAPIGConfig, input_path
from interp.scores.head_codes import fit_head_codes
from interp.scores.hisp import HISPConfig, by_layer_norm
from interp.scores.mean_difference import MeanDifferenceConfig, mean_difference_norm
from interp.scores.overlap import OverlapConfig, head_overlap, means_of


@runtime_checkable
class Ranking(Protocol):
    """Heads scored from some pairs; ``forwards`` and ``seconds`` are what that took beyond the base runs."""

    heads: Float[np.ndarray, "layer head"]
    forwards: float
    seconds: dict[str, float]


@runtime_checkable
class PairSubsets(Protocol):
    """The base runs; ``seconds`` of the whole pool, ``forwards_a_pair`` in forward-pass equivalents."""

    forwards_a_pair: float
    seconds: dict[str, float]

    def rank(self, indices: Sequence[int], config) -> Ranking:
        """The method's scores from the pairs at ``indices``, which may be drawn more than once."""
        ...


@dataclass(frozen=True)
class Ranked:
    """A :class:`Ranking` that took no forward pass."""

    heads: Float[np.ndarray, "layer head"]
    forwards: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Kept:
    """A pool whose subsets are scored by one function of what was kept."""

    forwards_a_pair: float
    seconds: dict[str, float]
    score: Callable[[list[int], object], Float[np.ndarray, "layer head"]]

    def rank(self, indices: Sequence[int], config) -> Ranked:
        begin = time.perf_counter()
        return Ranked(self.score(list(indices), config), seconds={"rank": time.perf_counter() - begin})


def adaptive_patching_subsets(
    model: Model, pairs: PromptPairs, config: AdaptivePatchingConfig, *, progress: Progress | None = None
) -> PairSubsets:
    """Attribution and runs to patch in, of every pair; patches are run as subsets ask for them."""
    return AdaptivePatchingBase(
        model, pairs, batch_size=config.batch_size, kept=range(len(pairs)), progress=progress
    )


def hisp_subsets(
    model: Model, pairs: PromptPairs, config: HISPConfig, *, progress: Progress | None = None
) -> PairSubsets:
    """Attributions of every pair; the norm over a layer is taken of each subset's."""
    scorer = AttributionConsumer(len(pairs))

    def score(indices: list[int], config: HISPConfig) -> Float[np.ndarray, "layer head"]:
        size = np.abs(scorer.heads_[indices]).mean(0)
        return by_layer_norm(size) if config.norm else size

    return _fed(model, pairs, scorer, config.batch_size, score, progress)


def mean_difference_subsets(
    model: Model, pairs: PromptPairs, config: MeanDifferenceConfig, *, progress: Progress | None = None
) -> PairSubsets:
    """Mean outputs of every head on every prompt."""
    means, weights = HeadMeans(pairs), output_weights(model)

    def score(indices: list[int], _config: MeanDifferenceConfig) -> Float[np.ndarray, "layer head"]:
        return mean_difference_norm(means.subset(indices).z_, weights)

    return _fed(model, pairs, means, config.batch_size, score, progress)


def overlap_subsets(
    model: Model, pairs: PromptPairs, config: OverlapConfig, *, progress: Progress | None = None
) -> PairSubsets:
    """Mean outputs of every head on every prompt; each subset trains a dictionary of its own."""
    means = means_of(model, pairs, config)
    weights = output_weights(model)

    def score(indices: list[int], config: OverlapConfig) -> Float[np.ndarray, "layer head"]:
        codes = fit_head_codes(means.subset(indices), weights, config)
        return head_overlap(codes, normalise=config.normalise)

    return _fed(model, pairs, means, config.batch_size, score, progress)


def eap_subsets(
    model: Model, pairs: PromptPairs, config: EAPConfig, *, progress: Progress | None = None
) -> PairSubsets:
    """Every pair's edges; heads are folded from each subset's mean edges."""
    return _edges(model, pairs, at_clean, config, progress)


def eap_ig_subsets(
    model: Model, pairs: PromptPairs, config: EAPIGConfig, *, progress: Progress | None = None
) -> PairSubsets:
    """As :func:`eap_subsets`, along the path of the input."""
    return _edges(model, pairs, lambda run: input_path(run, config.steps), config, progress)


def _fed(model: Model, pairs: PromptPairs, consumer, batch_size: int, score, progress) -> PairSubsets:
    begin = time.perf_counter()
    forwards = feed(model, pairs, [consumer], batch_size=batch_size, progress=progress)
    return _Kept(forwards / len(pairs), {"forward": time.perf_counter() - begin}, score)


def _edges(
    model: Model, pairs: PromptPairs, estimator: Estimator, config: EAPConfig, progress: Progress | None
) -> PairSubsets:
    found = edge_scores(
        model, pairs, estimator, batch_size=config.batch_size, per_pair=True, progress=progress
    )

    def score(indices: list[int], config: EAPConfig) -> Float[np.ndarray, "layer head"]:
        mean = found.per_pair[indices].mean(0, dtype=np.float64)
        return fold_edges(found.graph, mean, config.fold)[0]

    return _Kept(found.forwards / len(pairs), found.seconds, score)
