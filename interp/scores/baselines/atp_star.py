"""AtP*: attribution patching with two corrections, for saturated attention and for effects that cancel.

Kramár et al. 2024 (arXiv 2403.00745), section 3. The nodes of a head are its queries, keys and values.

QK fix. Patching a query or key is not followed through the softmax by its gradient: the head's attention is computed
anew with the corrupt queries (clean keys), then with the corrupt keys (clean queries), and what z becomes is
multiplied with the gradient at z; values are linear:

    I_q = Σ_positions (A(q', k) v − A(q, k) v) · ∂m/∂z,   I_k = … (A(q, k') v − …),   I_v = … A(q, k) (v' − v)

GradDrop. A direct and an indirect effect of opposite sign hide each other. For every layer ℓ in turn the gradient is
taken with nothing passing back through that block (its attention and MLP; the residual stream stays open), and the
absolute effects are averaged; in its own layer's turn a node has no effect, hence L − 1:

    score = 1/(L − 1) · Σ_ℓ |I with ℓ dropped|      for every pair

Here a score is of a whole head: I = I_q + I_k + I_v for ``node="qkv"``, the sum of which patching z is made up but for
their interaction; ``node="z"`` takes z' − z itself, which holds the head's own softmax exactly as it is. All positions
are patched at once, keys too, where the paper has a node at each position. MLPs are scored by their output. Dropping a
layer changes no gradient above it, so each turn is a backward pass from that layer down: half a pass on average.

When it misleads: only the patched head's own softmax is recomputed; what a query, say, of a *later* head makes of it is
still a gradient, so saturated attention downstream hides a head as before. Absolute values lose the sign and add up
noise: a head whose effects cancel for good, and patching it changes nothing, scores high (not so without GradDrop).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.stream import ActivationTape, PairBatch, end_logits
from interp.interventions.patch import Write, patch_hooks
from interp.models import HookFunction, Model, has_mlps
from interp.scores.gradients import output_hooks
from interp.scores.method import Context, MethodConfig, method
from interp.scores.result import Scores


@dataclass(frozen=True)
class AtPStarConfig(MethodConfig):
    node: Literal["qkv", "z"] = "qkv"  # `qkv`, a head's queries, keys and values with the QK fix, or `z`, its output
    drop: bool = True  # GradDrop; without it scores have signs and cost one backward pass


@method(config=AtPStarConfig, most_pairs=10, most_seeds=10)
def atp_star(context: Context) -> Scores:
    """Score heads and MLPs by AtP* (module docstring)."""
    model, config, layers = context.model, context.config, context.model.cfg.n_layers
    drop = config.drop and layers > 1
    heads = np.zeros((len(context.pairs), layers, model.cfg.n_heads))
    mlps = np.zeros((len(context.pairs), layers)) if has_mlps(model) else None
    residual = [f"blocks.{layer}.hook_resid_pre" for layer in range(layers)]
    qkv = [f"blocks.{layer}.attn.hook_{name}" for layer in range(layers) for name in "qkv"]
    qkv *= config.node == "qkv"
    for batch in context.batches(
        gradients=True,
        hooks=[*qkv, *output_hooks(model)] if config.drop else [*residual, *qkv],
        corrupt_hooks=qkv,
        watch=[*residual, f"blocks.{layers - 1}.hook_resid_post"] * config.drop,
        keep_graph=config.drop,
    ):
        rows = list(batch.indices)
        changes = _changes(batch.clean.z, batch.corrupt.z)
        if config.node == "qkv":
            changes = qk_fixed_changes(model, batch)
            context.forwards += QK_COST * len(rows)
        outputs = [*changes, *_changes(batch.clean.mlp, batch.corrupt.mlp)]
        effects = _effects(outputs, [*batch.z_gradient, *batch.mlp_gradient])
        if drop:
            effects = _dropped(model, batch.tape, outputs, effects)
            context.forwards += (layers - 1) * len(rows)
        heads[rows] = torch.stack(effects[:layers], 1).cpu().numpy()
        if mlps is not None:
            mlps[rows] = torch.stack(effects[layers:], 1).cpu().numpy()
    return Scores.from_pairs(heads, mlps, signed=not drop)


QK_COST = 3.0  # the clean prompts once more with corrupt queries, keys, values


@torch.no_grad()
def qk_fixed_changes(model: Model, batch: PairBatch) -> list[Float[Tensor, "batch pos head d_head"]]:
    """By how much each head's z is more on the clean prompt than with its queries, its keys or its values corrupt.

    The three are summed. One forward of three copies of the clean prompts: in each layer the first has the corrupt
    queries, the second the corrupt keys, the third the corrupt values, and every layer reads the clean residual stream,
    so that all layers are measured at once and the model's own attention does the computing.
    """
    layers, n = range(model.cfg.n_layers), len(batch.indices)
    hooks: dict[str, HookFunction] = {}
    for layer in layers:
        for third, name in enumerate("qkv"):
            point = f"blocks.{layer}.attn.hook_{name}"
            write = Write(slice(third * n, (third + 1) * n), batch.tape.corrupt[point])
            hooks |= patch_hooks({point: [write]})
        resid = batch.tape[f"blocks.{layer}.hook_resid_pre"].detach()
        hooks[f"blocks.{layer}.hook_resid_pre"] = partial(lambda resid, _: resid.repeat(3, 1, 1), resid)
    names = output_hooks(model)[: model.cfg.n_layers]
    patched = ActivationTape(names)
    end_logits(model, batch.clean.tokens.repeat(3, 1), {**hooks, **patched.hooks})
    return [
        3 * clean.float() - patched[name].float().unflatten(0, (3, n)).sum(0)
        for name, clean in zip(names, batch.clean.z, strict=True)
    ]


def _changes(clean: Sequence[Tensor], corrupt: Sequence[Tensor]) -> list[Tensor]:
    return [a - b for a, b in zip(clean, corrupt, strict=True)]


def _effects(changes: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """Σ over positions and channels of change · gradient: [batch, head] for z, [batch] for an MLP's output."""
    products = (change * gradient for change, gradient in zip(changes, gradients, strict=True))
    return [product.float().sum((1, -1)) for product in products]


def _dropped(model: Model, tape: ActivationTape, changes: Sequence[Tensor], whole: Sequence[Tensor]) -> list[Tensor]:
    """Means of the absolute effects over the layers dropped. ``changes`` and ``whole``, the effects with nothing
    dropped, are of every layer's z, then of every MLP output."""
    names, layers = output_hooks(model), model.cfg.n_layers
    residual = [f"blocks.{layer}.hook_resid_pre" for layer in range(layers)]
    residual.append(f"blocks.{layers - 1}.hook_resid_post")
    arriving = dict(tape.gradients)  # a later backward pass overwrites what is watched
    # what is dropped below a node does not touch its gradient
    totals = [effect.abs() * (k % layers) for k, effect in enumerate(whole)]
    for layer in range(1, layers):
        below = [k for k in range(len(names)) if k % layers < layer]
        gradients = torch.autograd.grad(
            tape[residual[layer]], [tape[names[k]] for k in below], arriving[residual[layer + 1]], retain_graph=True
        )
        for k, effect in zip(below, _effects([changes[k] for k in below], gradients), strict=True):
            totals[k] = totals[k] + effect.abs()
    return [total / (layers - 1) for total in totals]
