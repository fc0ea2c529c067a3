"""Node attribution patching with integrated gradients.

"NAP-IG" in Mueller et al. 2025 (MIB, arXiv 2504.13151), after Hanna et al. 2024 (arXiv 2403.17806) and, for
activations, Marks et al. 2024 (arXiv 2403.19647). As :mod:`.attribution`, but the gradient is a mean over m points of a
path from the corrupt to the clean prompt (:mod:`.interpolation`), the clean one included:

    score(u) = Σ_positions (z_u − z'_u) · (1/m) Σ_k ∂m/∂z_u |point k

``nap-ig``: the *embedded prompt* is interpolated, e' + (k/m)(e − e'), and the gradients at all components taken.
Complete for the input only: Σ (e − e') · mean ∂m/∂e → m(clean) − m(corrupt).
``nap-ig-activations``: the clean prompt runs, with one layer's heads (or one MLP) at z' + (k/m)(z − z'). Complete for
that layer: the scores of its heads add up to m(clean) − m(clean with all the layer's z from the corrupt prompt). m
points for every layer and MLP, so it costs about m × layers passes.

When it misleads: points on the path are no prompts, and what the model does with a blend of two names need not be what
it does with either. Heads are interpolated together, so two that stand in for each other share the credit. Saturation
within m points' reach is seen, self-repair is not.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from interp.activations.activation_tape import ActivationTape
from interp.activations.stream import (
    BASE_COST,
    BATCH_SIZE,
    FORWARD_AND_BACKWARD,
    Consumer,
    PairBatch,
    Progress,
    equal_length_batches,
    percent,
    run_batch,
)
from interp.models import Model, has_mlps, hooked
from interp.prompts.pairs import Metric, PromptPairs
from interp.scores.attribution import AttributionConsumer
from interp.scores.interpolation import check_steps, clean_metric, inner_points
from interp.scores.result import Cost, Scores


@dataclass(frozen=True)
class NAPIGConfig:
    """
    Attributes:
        steps: m, the points of the path; 1 is attribution patching.
        batch_size: pairs per forward.
    """

    steps: int = 5
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        check_steps(self.steps)


Gradients = tuple[list[Tensor], list[Tensor]]
"""Of every layer's z, and of every layer's MLP output."""

Path = Callable[[Model, PairBatch, Metric, ActivationTape, int], tuple[Gradients, float]]
"""Sums of the gradients at all points but the clean one, and the forward-pass equivalents a pair that they took."""


def nap_ig(
    model: Model,
    pairs: PromptPairs,
    config: NAPIGConfig = NAPIGConfig(),
    *,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score heads and MLPs along the path of the input (module docstring).

    Args:
        consumers: fed by the clean and corrupt passes.
        progress: told hundredths of the work, as for all methods of this module.
    """
    return _along("nap-ig", _input_path, model, pairs, config, consumers, progress)


def nap_ig_activations(
    model: Model,
    pairs: PromptPairs,
    config: NAPIGConfig = NAPIGConfig(),
    *,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score heads and MLPs along the path of their own layer's activations (module docstring)."""
    return _along("nap-ig-activations", _activation_paths, model, pairs, config, consumers, progress)


def _along(
    method: str,
    path: Path,
    model: Model,
    pairs: PromptPairs,
    config: NAPIGConfig,
    consumers: Sequence[Consumer],
    progress: Progress | None,
) -> Scores:
    begin = time.perf_counter()
    scorer, tell, done, forwards = AttributionConsumer(len(pairs)), percent(progress), 0, 0.0
    for indices in equal_length_batches(pairs, config.batch_size):
        tape = ActivationTape(f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers))
        with hooked(model, tape.hooks):
            patterns = any(consumer.needs_patterns for consumer in consumers)
            batch = run_batch(model, pairs, indices, gradients=True, patterns=patterns)
        for consumer in consumers:
            consumer.update(batch)
        (z, mlp), spent = path(model, batch, pairs.metric, tape, config.steps)
        mean = replace(
            batch,
            z_gradient=tuple((a + b) / config.steps for a, b in zip(z, batch.z_gradient, strict=True)),
            mlp_gradient=tuple((a + b) / config.steps for a, b in zip(mlp, batch.mlp_gradient, strict=True)),
        )
        scorer.update(mean)
        done += len(indices)
        forwards += len(indices) * (BASE_COST + spent)
        tell(done / len(pairs))
    return Scores(
        method=method,
        heads=scorer.heads_.mean(0),
        heads_per_pair=scorer.heads_,
        mlps=None if scorer.mlps_ is None else scorer.mlps_.mean(0),
        mlps_per_pair=scorer.mlps_,
        signed=True,
        cost=Cost(forwards, {method: time.perf_counter() - begin}),
        config=asdict(config),
        metric_clean=scorer.metric_[0],
        metric_corrupt=scorer.metric_[1],
        provenance=pairs.provenance(),
    )


def _input_path(
    model: Model, batch: PairBatch, metric: Metric, tape: ActivationTape, steps: int
) -> tuple[Gradients, float]:
    z_names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    mlp_names = [f"blocks.{layer}.hook_mlp_out" for layer in range(model.cfg.n_layers)] * has_mlps(model)
    sums = [torch.zeros_like(gradient) for gradient in (*batch.z_gradient, *batch.mlp_gradient)]
    embedded = "blocks.0.hook_resid_pre"
    for leaf in inner_points(tape[embedded], tape.first(embedded), steps):
        point = ActivationTape([*z_names, *mlp_names])
        hooks = {embedded: lambda _, leaf=leaf: leaf, **point.hooks}
        values = clean_metric(model, batch, metric, hooks)
        found = torch.autograd.grad(values.sum(), [point[name] for name in (*z_names, *mlp_names)])
        sums = [total + gradient for total, gradient in zip(sums, found, strict=True)]
    n = len(z_names)
    return (sums[:n], sums[n:]), FORWARD_AND_BACKWARD * (steps - 1)


def _activation_paths(
    model: Model, batch: PairBatch, metric: Metric, tape: ActivationTape, steps: int
) -> tuple[Gradients, float]:
    spent, sums = 0.0, ([], [])
    layers = model.cfg.n_layers
    for layer in range(layers):
        resid_pre = tape[f"blocks.{layer}.hook_resid_pre"].detach()
        sides = [("attn.hook_z", batch.clean.z, batch.corrupt.z)]
        if has_mlps(model):
            sides.append(("hook_mlp_out", batch.clean.mlp, batch.corrupt.mlp))
        for total, (name, clean, corrupt) in zip(sums, sides, strict=False):
            total.append(torch.zeros_like(clean[layer]))
            for leaf in inner_points(clean[layer], corrupt[layer], steps):
                hooks = {f"blocks.{layer}.{name}": lambda _, leaf=leaf: leaf}
                values = clean_metric(model, batch, metric, hooks, layer=layer, resid_pre=resid_pre)
                total[-1] += torch.autograd.grad(values.sum(), leaf)[0]
            spent += FORWARD_AND_BACKWARD * (steps - 1) * (1 - layer / layers)
    return sums, spent
