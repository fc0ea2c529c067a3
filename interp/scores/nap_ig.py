"""Node attribution patching with integrated gradients.

"NAP-IG" in Mueller et al. 2025 (MIB, arXiv 2504.13151), after Hanna et al. 2024 (arXiv 2403.17806) and, for
activations, Marks et al. 2024 (arXiv 2403.19647). As :mod:`.attribution`, but the gradient is a mean over m points of a
path from the corrupt to the clean prompt (:mod:`.gradients`), the clean one included:

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

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from interp.activations.stream import FORWARD_AND_BACKWARD, ActivationTape, PairBatch
from interp.models import Model
from interp.prompts.pairs import Metric
from interp.scores.attribution import AttributionConsumer
from interp.scores.gradients import EMBEDDED, clean_metric, in_place, inner_points, output_hooks
from interp.scores.method import Context, MethodConfig, method
from interp.scores.result import Scores


@dataclass(frozen=True)
class NAPIGConfig(MethodConfig):
    steps: Annotated[int, Ge(1)] = 5  # m, the points of the path; 1 is attribution patching


Path = Callable[[Model, PairBatch, Metric, int], tuple[list[Tensor], float]]
"""Sums of the gradients at all points but the clean one, of every layer's z, then of every MLP's output; and the
forward-pass equivalents a pair that they took."""


@method(config=NAPIGConfig, most_pairs=25, most_seeds=10)
def nap_ig(context: Context) -> Scores:
    """Score heads and MLPs along the path of the input (module docstring)."""
    return _along(context, _input_path)


@method(config=NAPIGConfig, most_pairs=10, most_seeds=3)
def nap_ig_activations(context: Context) -> Scores:
    """Score heads and MLPs along the path of their own layer's activations (module docstring)."""
    return _along(context, _activation_paths)


def _along(context: Context, path: Path) -> Scores:
    model, steps, n = context.model, context.config.steps, context.model.cfg.n_layers
    scorer = AttributionConsumer(len(context.pairs))
    residual = [f"blocks.{layer}.hook_resid_pre" for layer in range(n)]
    for batch in context.batches(gradients=True, hooks=residual, corrupt_hooks=residual[:1]):
        sums, spent = path(model, batch, context.pairs.metric, steps)
        at_clean = (*batch.z_gradient, *batch.mlp_gradient)
        means = tuple((total + clean) / steps for total, clean in zip(sums, at_clean, strict=True))
        scorer.update(replace(batch, z_gradient=means[:n], mlp_gradient=means[n:]))
        context.forwards += len(batch.indices) * spent
    return Scores.from_pairs(scorer.heads_, scorer.mlps_)


def _input_path(model: Model, batch: PairBatch, metric: Metric, steps: int) -> tuple[list[Tensor], float]:
    names = output_hooks(model)
    sums = [torch.zeros_like(gradient) for gradient in (*batch.z_gradient, *batch.mlp_gradient)]
    for leaf in inner_points(batch.tape[EMBEDDED], batch.tape.corrupt[EMBEDDED], steps):
        point = ActivationTape(names)
        values = clean_metric(model, batch, metric, {EMBEDDED: in_place(leaf), **point.hooks})
        gradients = torch.autograd.grad(values.sum(), [point[name] for name in names])
        sums = [total + gradient for total, gradient in zip(sums, gradients, strict=True)]
    return sums, FORWARD_AND_BACKWARD * (steps - 1)


def _activation_paths(model: Model, batch: PairBatch, metric: Metric, steps: int) -> tuple[list[Tensor], float]:
    spent, sums, layers = 0.0, list[Tensor](), model.cfg.n_layers
    sides = ([*side.z, *side.mlp] for side in (batch.clean, batch.corrupt))
    for k, (hook, clean, corrupt) in enumerate(zip(output_hooks(model), *sides, strict=True)):
        layer = k % layers
        resid_pre = batch.tape[f"blocks.{layer}.hook_resid_pre"].detach()
        sums.append(torch.zeros_like(clean))
        for leaf in inner_points(clean, corrupt, steps):
            hooks = {hook: in_place(leaf)}
            values = clean_metric(model, batch, metric, hooks, layer=layer, resid_pre=resid_pre)
            sums[-1] += torch.autograd.grad(values.sum(), leaf)[0]
        spent += FORWARD_AND_BACKWARD * (steps - 1) * (1 - layer / layers)
    return sums, spent
