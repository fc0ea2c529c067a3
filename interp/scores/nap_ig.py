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

import torch
from torch import Tensor

from interp.activations.stream import FORWARD_AND_BACKWARD, ActivationTape, PairBatch
from interp.models import Model, has_mlps
from interp.prompts.pairs import Metric
from interp.scores.attribution import AttributionConsumer
from interp.scores.gradients import EMBEDDED, check_steps, clean_metric, in_place, inner_points, output_hooks
from interp.scores.method import Context, MethodConfig, method
from interp.scores.result import Scores


@dataclass(frozen=True)
class NAPIGConfig(MethodConfig):
    """
    Attributes:
        steps: m, the points of the path; 1 is attribution patching.
    """

    steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps)


Gradients = tuple[list[Tensor], list[Tensor]]
"""Of every layer's z, and of every layer's MLP output."""

Path = Callable[[Model, PairBatch, Metric, int], tuple[Gradients, float]]
"""Sums of the gradients at all points but the clean one, and the forward-pass equivalents a pair that they took."""


@method(config=NAPIGConfig, most_pairs=25, most_seeds=10)
def nap_ig(context: Context) -> Scores:
    """Score heads and MLPs along the path of the input (module docstring)."""
    return _along(context, _input_path)


@method(config=NAPIGConfig, most_pairs=10, most_seeds=3)
def nap_ig_activations(context: Context) -> Scores:
    """Score heads and MLPs along the path of their own layer's activations (module docstring)."""
    return _along(context, _activation_paths)


def _along(context: Context, path: Path) -> Scores:
    model, steps = context.model, context.config.steps
    scorer = AttributionConsumer(len(context.pairs))
    residual = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
    for batch in context.batches(gradients=True, hooks=residual, corrupt_hooks=residual[:1]):
        (z, mlp), spent = path(model, batch, context.pairs.metric, steps)
        mean = replace(
            batch,
            z_gradient=tuple((a + b) / steps for a, b in zip(z, batch.z_gradient, strict=True)),
            mlp_gradient=tuple((a + b) / steps for a, b in zip(mlp, batch.mlp_gradient, strict=True)),
        )
        scorer.update(mean)
        context.forwards += len(batch.indices) * spent
    return Scores.from_pairs(scorer.heads_, scorer.mlps_)


def _input_path(model: Model, batch: PairBatch, metric: Metric, steps: int) -> tuple[Gradients, float]:
    names, n = output_hooks(model), model.cfg.n_layers
    sums = [torch.zeros_like(gradient) for gradient in (*batch.z_gradient, *batch.mlp_gradient)]
    for leaf in inner_points(batch.tape[EMBEDDED], batch.tape.corrupt[EMBEDDED], steps):
        point = ActivationTape(names)
        values = clean_metric(model, batch, metric, {EMBEDDED: in_place(leaf), **point.hooks})
        found = torch.autograd.grad(values.sum(), [point[name] for name in names])
        sums = [total + gradient for total, gradient in zip(sums, found, strict=True)]
    return (sums[:n], sums[n:]), FORWARD_AND_BACKWARD * (steps - 1)


def _activation_paths(model: Model, batch: PairBatch, metric: Metric, steps: int) -> tuple[Gradients, float]:
    spent, sums = 0.0, (list[Tensor](), list[Tensor]())
    layers = model.cfg.n_layers
    for layer in range(layers):
        resid_pre = batch.tape[f"blocks.{layer}.hook_resid_pre"].detach()
        sides = [("attn.hook_z", batch.clean.z, batch.corrupt.z)]
        if has_mlps(model):
            sides.append(("hook_mlp_out", batch.clean.mlp, batch.corrupt.mlp))
        for total, (name, clean, corrupt) in zip(sums, sides, strict=False):
            total.append(torch.zeros_like(clean[layer]))
            for leaf in inner_points(clean[layer], corrupt[layer], steps):
                hooks = {f"blocks.{layer}.{name}": in_place(leaf)}
                values = clean_metric(model, batch, metric, hooks, layer=layer, resid_pre=resid_pre)
                total[-1] += torch.autograd.grad(values.sum(), leaf)[0]
            spent += FORWARD_AND_BACKWARD * (steps - 1) * (1 - layer / layers)
    return sums, spent
