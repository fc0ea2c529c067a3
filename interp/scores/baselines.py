"""Rankings that look at nothing: what any method has to beat.

``random``: the sizes of independent normal numbers from a seed; over many seeds ROC AUC is .5 with the spread that
chance allows.
``layer-index``: the layer's number, so late heads first; it shows how much of an AUC is knowing the depth.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from interp.activations.stream import BATCH_SIZE, Consumer, MetricConsumer, Progress, feed
from interp.errors import InputError
from interp.models import Model
from interp.prompts.pairs import PromptPairs
from interp.scores.result import Cost, Scores


@dataclass(frozen=True)
class LayerIndexConfig:
    """
    Attributes:
        batch_size: pairs per forward, of which there are none unless a consumer wants them.
    """

    batch_size: int = BATCH_SIZE


@dataclass(frozen=True)
class RandomConfig(LayerIndexConfig):
    """
    Attributes:
        seed: of the scores.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed {self.seed}: it must be at least 0")


def random_ranking(
    model: Model,
    pairs: PromptPairs,
    config: RandomConfig = RandomConfig(),
    *,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score heads at random."""
    heads = random_prior(model.cfg.n_layers, model.cfg.n_heads, config.seed)
    return _scores("random", heads, model, pairs, config, consumers, progress)


def layer_index(
    model: Model,
    pairs: PromptPairs,
    config: LayerIndexConfig = LayerIndexConfig(),
    *,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score heads by their layer's number."""
    heads = layer_prior(model.cfg.n_layers, model.cfg.n_heads)
    return _scores("layer-index", heads, model, pairs, config, consumers, progress)


def random_prior(n_layers: int, n_heads: int, seed: int) -> Float[np.ndarray, "layer head"]:
    """Sizes of independent normal scores."""
    return np.abs(np.random.default_rng(seed).standard_normal((n_layers, n_heads)))


def layer_prior(
    n_layers: int, n_heads: int, near: int | float | None = None
) -> Float[np.ndarray, "layer head"]:
    """Signed scores that know only the layer: its index, or closeness to layer ``near``."""
    layers = np.arange(n_layers, dtype=float)
    prior = layers if near is None else -np.abs(layers - near)
    return np.repeat(prior[:, None], n_heads, axis=1)


def _scores(
    method: str,
    heads: Float[np.ndarray, "layer head"],
    model: Model,
    pairs: PromptPairs,
    config: LayerIndexConfig,
    consumers: Sequence[Consumer],
    progress: Progress | None,
) -> Scores:
    metric, forwards = MetricConsumer(len(pairs)), 0.0
    if consumers:
        forwards = feed(model, pairs, [metric, *consumers], batch_size=config.batch_size, progress=progress)
    elif progress is not None:
        progress(len(pairs))
    return Scores(
        method=method,
        heads=heads,
        signed=False,
        cost=Cost(forwards, {}),
        config=asdict(config),
        metric_clean=metric.metric_[0] if consumers else None,
        metric_corrupt=metric.metric_[1] if consumers else None,
        provenance=pairs.provenance(),
    )
