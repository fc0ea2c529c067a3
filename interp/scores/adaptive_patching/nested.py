"""Circuits that do the task by themselves, grown from nothing: nested, each larger one made of the one before.

An effect with all other heads *on* does not say which heads do the task with all others *off*. So a circuit K is grown
through a few sizes. In each round the clean prompts run with K on and every other head partly off, holding a mixture of
its output there and its corrupt output, and the gradient is taken there:

    v_u = Σ_positions (z_u − z'_u) · ∂m/∂(s z_u + (1 − s) z'_u)     u not in K

s is ¼, ½ and ¾ for one pair after the other. The mean is a quadrature on the way from "all but K off" to "all on", so
for a set E of the heads outside K, Σ_E v̄_u is about what the metric loses without E. (½ for all pairs is as good on
IOI, and blind to gates that are saturated half-way.) The set E to leave out next is the one that

- adds up to nothing, Σ_E v̄_u = 0: what is left out may hurt as much as it helps, and the circuit does what the model
  does, neither less nor more; and among those
- has the least sum of squares Σ_E (v̄_u² + 2 σ_u²/n), the square of a head's mean value that is to be expected on as
  many new pairs if nothing was known of it before (a flat prior): σ_u²/n for the mean of the n pairs seen, as much
  again for that of n others. A head that helps in some prompts and hurts in others is kept, although it does nothing on
  average.

With a multiplier for the first condition these are the heads of the smallest v̄² + 2σ²/n + 2λ v̄, and as Σ_E v̄ never
rises with λ, λ is found by bisection.

When it misleads: a circuit of few heads leaves the rest half-way far behind, where the midpoint rule is a poor one. A
circuit that does the task alone need not be what the model uses: it may lean on heads that would be backups.
"""

import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from interp.activations.stream import FORWARD_AND_BACKWARD, Progress
from interp.errors import InputError
from interp.interventions.clean_run import CleanRun
from interp.models import Model
from interp.prompts.pairs import PromptPairs
from interp.scores.adaptive_patching.partial_ablation import partial_values
from interp.scores.adaptive_patching.posterior import moderated_variance
from interp.scores.method import Context, MethodConfig
from interp.scores.result import Cost

MOST_PAIRS = 32  # pairs that a circuit is grown on; of more, the first
POINTS = (0.25, 0.5, 0.75)  # s of one pair after the other
BISECTIONS = 60


@dataclass(frozen=True)
class NestedCircuitsConfig(MethodConfig):
    # sizes of the circuits, as shares of the model's heads, rounded down; each costs a forward and a backward of every
    # pair
    fractions: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fractions or not all(0 < share < 1 for share in self.fractions):
            raise InputError(f"fractions {self.fractions}: shares of the heads, above 0 and below 1")

    def sizes(self, n_heads: int) -> list[int]:
        """Numbers of heads, rising."""
        return sorted({int(share * n_heads) for share in self.fractions} - {0})


@dataclass(frozen=True)
class NestedCircuits:
    """Heads in the order in which they joined."""

    # N for the first of N heads, 1 for the last, with the sign of the head's value when it joined: the k heads of
    # largest size are the circuit of k heads
    heads: Float[np.ndarray, "layer head"]
    sizes: tuple[int, ...]  # of the circuits that were grown
    left_out: tuple[float, ...]  # what each is expected to lack, Σ_E v̄, as a share of the clean–corrupt gap
    cost: Cost
    config: dict

    def circuit(self, size: int) -> Bool[np.ndarray, "layer head"]:
        """The first ``size`` heads, 0 to all."""
        if not 0 <= size <= self.heads.size:
            raise InputError(f"size {size}: the model has {self.heads.size} heads")
        return np.abs(self.heads) > self.heads.size - size


def nested_circuits(
    model: Model,
    pairs: PromptPairs,
    config: NestedCircuitsConfig = NestedCircuitsConfig(),
    *,
    progress: Progress | None = None,
) -> NestedCircuits:
    """Grow circuits (module docstring); ``progress`` is told hundredths of the work. Raises :class:`InputError` for
    fewer than 2 pairs, a model of one head, and a gap of nothing."""
    begin = time.perf_counter()
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    n_heads = shape[0] * shape[1]
    sizes = config.sizes(n_heads)
    if not sizes:
        raise InputError(f"fractions {config.fractions} of {n_heads} heads: none is a whole head")
    pairs = pairs.subset(range(min(MOST_PAIRS, len(pairs))))
    if len(pairs) < 2:
        raise InputError(f"{len(pairs)} pair: at least 2 are needed to know how much pairs differ")
    everything = range(len(pairs))
    context, clean = Context(model, pairs, config, progress=progress), CleanRun(model, pairs)
    context.run(clean, share=1 / (1 + len(sizes)))
    context.forwards += clean.prefix_cost(everything)
    if context.gap == 0:
        raise InputError("the metric is the same on clean and corrupt prompts: no circuit can grow")
    points = torch.tensor(POINTS).repeat(len(pairs))[: len(pairs)]
    share = points[:, None, None].expand(len(pairs), *shape).clone()
    order, signs, left_out = np.empty(0, dtype=int), np.empty(0), []
    for done, size in enumerate(sizes, 2):
        values = partial_values(clean, everything, share).reshape(len(pairs), -1)
        context.report_progress(done / (1 + len(sizes)))
        context.forwards += FORWARD_AND_BACKWARD * clean.share(everything) * len(pairs)
        rest = np.setdiff1d(np.arange(n_heads), order)
        mean = values.mean(0)[rest]
        ranked, left = rank_so_that_the_rest_cancels(
            mean, mean**2 + 2 * moderated_variance(values[:, rest]) / len(pairs), size - len(order)
        )
        joining = ranked if size == sizes[-1] else ranked[: size - len(order)]
        order = np.concatenate([order, rest[joining]])
        signs = np.concatenate([signs, np.where(mean[joining] < 0, -1.0, 1.0)])
        left_out.append(left)
        share.flatten(1)[:, torch.from_numpy(order)] = 1.0
    heads = np.empty(n_heads)
    heads[order] = signs * np.arange(len(order), 0, -1)
    return NestedCircuits(
        heads.reshape(shape),
        tuple(sizes),
        tuple(left / context.gap for left in left_out),
        Cost(context.forwards, time.perf_counter() - begin),
        asdict(config),
    )


def rank_so_that_the_rest_cancels(
    mean: Float[np.ndarray, " head"], square: Float[np.ndarray, " head"], kept: int
) -> tuple[Int[np.ndarray, " head"], float]:
    """Heads, best first, such that ``mean`` of those after the first ``kept`` adds up to as little as can be (module
    docstring); and that sum."""

    def at(tilt: float) -> tuple[np.ndarray, float]:
        order = np.argsort(-(square + 2 * tilt * mean), kind="stable")
        return order, float(mean[order[kept:]].sum())

    # so steep that the order is that of the means, whose sums are the least and the largest there are
    steepest = 1e6 * max(float(square.max()), 1e-12) / max(float(np.abs(mean).max()), 1e-12)
    low, high = at(-steepest), at(steepest)
    tilts = -steepest, steepest
    for _ in range(BISECTIONS):
        middle = sum(tilts) / 2
        ranked = at(middle)
        if ranked[1] > 0:
            low, tilts = ranked, (middle, tilts[1])
        else:
            high, tilts = ranked, (tilts[0], middle)
    return min(low, high, key=lambda end: abs(end[1]))
