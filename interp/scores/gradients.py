"""Gradients that scores are made of: along a path from the corrupt to the clean prompt, and at both ends of an edge.

A path's points are k = 1 … m of m, as in Hanna et al. 2024 (arXiv 2403.17806), eq. 3: the last is the clean prompt
itself, whose gradients the base run has; the corrupt end is left out. (Their released edge code takes k = 0 … m − 1,
the node code 1 … m.) It is a right-hand sum, whose error falls as 1/m.

An edge's score multiplies what its sender wrote by the gradient at what its receiver read. That gradient is taken in
exact steps from ∂m/∂z and ∂m/∂(MLP output), which one backward pass gives: from z to q, k, v *per query head* (where
heads share keys and values, a gradient at the shared key would mix them), through W_Q, W_K, W_V of all heads at once,
and back through the norm, all heads in one batched product. So it is the gradient with respect to the residual stream
before the norm, with the norm's scale live.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.metric import task_metric
from interp.activations.stream import ActivationTape, Hooks, PairBatch, answer_logits
from interp.interventions.edges import EMBEDDED, ComponentGraph, Receiver
from interp.models import HookFunction, Model, has_mlps
from interp.models.hooks import has_hook
from interp.models.partial_forward import starting_at
from interp.models.residual_writes import LinearNorm, ResidualWrites
from interp.prompts.pairs import Metric


def inner_points(clean: Tensor, corrupt: Tensor, steps: int) -> Iterator[Tensor]:
    """The points k = 1 … m − 1 from corrupt to clean, each a leaf at which a graph begins."""
    for step in range(1, steps):
        yield torch.lerp(corrupt.detach(), clean.detach(), step / steps).requires_grad_(True)


def in_place(value: Tensor) -> HookFunction:
    """A hook that passes on ``value``, whatever comes."""
    return lambda _: value


def clean_metric(
    model: Model,
    batch: PairBatch,
    metric: Metric,
    hooks: Hooks,
    *,
    layer: int = 0,
    resid_pre: Float[Tensor, "batch pos d_model"] | None = None,
) -> Float[Tensor, " batch"]:
    """Metric of the clean prompts under hooks, on its graph; from ``layer`` on where its input is given."""
    logits = partial(answer_logits, model, batch.clean.tokens, batch.pairs, metric, hooks)
    with torch.enable_grad():
        if not layer or resid_pre is None:
            return task_metric(logits(), batch.pairs, metric)
        with starting_at(model, layer, resid_pre):
            return task_metric(logits(), batch.pairs, metric)


def output_hooks(model: Model) -> list[str]:
    """Hook points of every layer's z, then of every MLP's output."""
    layers = range(model.cfg.n_layers)
    mlps = [f"blocks.{layer}.hook_mlp_out" for layer in layers] * has_mlps(model)
    return [f"blocks.{layer}.attn.hook_z" for layer in layers] + mlps


def edge_hooks(model: Model, first: int = 0) -> tuple[list[str], list[str]]:
    """Hook points that :class:`Receivers` and :func:`written` need from layer ``first`` on; and of which the
    gradient."""
    layers = range(first, model.cfg.n_layers)
    points = ["attn.hook_z", *(f"attn.hook_{name}" for name in "qkv"), "ln1.hook_in", "attn.q.hook_in"]
    if has_mlps(model):
        points += [_mlp_entry(model), "hook_mlp_out"]
    if norm := ResidualWrites.of(model).norm:
        points += [f"{norm}.hook_in", f"{norm}.hook_out"]
    names = [f"blocks.{layer}.{point}" for layer in layers for point in points]
    return [*[EMBEDDED] * (first == 0), *names], [_last(model)]


def corrupt_hooks(model: Model) -> list[str]:
    """Hook points of the corrupt prompts that :func:`written` needs."""
    norm = ResidualWrites.of(model).norm
    ends = [f"{norm}.hook_{end}" for end in ("in", "out")] if norm else []
    return [EMBEDDED, *(f"blocks.{layer}.{end}" for layer in range(model.cfg.n_layers) for end in ends)]


def edge_tape(model: Model, first: int = 0) -> ActivationTape:
    """A tape for a forward of the clean prompts from layer ``first`` on."""
    return ActivationTape(*edge_hooks(model, first))


@dataclass(frozen=True)
class Receivers:
    """Gradients of the metric at the inputs of every receiver, for one clean-side forward on a tape; ``outputs`` are
    those at ``hook_z`` and ``hook_mlp_out`` of the layers asked for, by hook name."""

    model: Model
    graph: ComponentGraph
    tape: ActivationTape
    outputs: Mapping[str, Tensor]

    def heads(self, layer: int) -> Float[Tensor, "batch receiver pos d_model"]:
        """At q, k and v of the layer's first head, then of the next."""
        attn = self.model.blocks[layer].attn
        at_normed = []
        for name, gradient in zip("qkv", self._queries_keys_values(layer), strict=True):
            weight = getattr(attn, f"W_{name.upper()}").detach()
            weight = weight.repeat_interleave(self.graph.n_heads // len(weight), 0)
            at_normed.append(torch.einsum("bphc,hdc->hbpd", gradient, weight))
        rows = torch.stack(at_normed, 1).flatten(0, 1)
        normed, read = self._at(layer, "attn.q.hook_in"), self._at(layer, "ln1.hook_in")
        (gradients,) = torch.autograd.grad(normed, read, rows, retain_graph=True, is_grads_batched=True)
        return gradients.float().transpose(0, 1)

    def mlp(self, layer: int) -> Float[Tensor, "batch pos d_model"]:
        """At the residual stream that the layer's MLP reads."""
        read = self._at(layer, _mlp_entry(self.model))
        written = f"blocks.{layer}.hook_mlp_out"
        (gradient,) = torch.autograd.grad(self.tape[written], read, self.outputs[written], retain_graph=True)
        return gradient.float()

    def logits(self) -> Float[Tensor, "batch pos d_model"]:
        """At the last residual stream, before the final norm."""
        return self.tape.gradients[_last(self.model)].float()

    def _queries_keys_values(self, layer: int) -> list[Float[Tensor, "batch pos head d_head"]]:
        """Gradient at each query head's own query, key and value."""
        z, gradient = self._at(layer, "attn.hook_z"), self.outputs[f"blocks.{layer}.attn.hook_z"]
        inputs = [self._at(layer, f"attn.hook_{name}") for name in "qkv"]
        sharing = self.graph.n_heads // inputs[1].shape[2]
        member = torch.arange(self.graph.n_heads, device=z.device) % sharing
        shares = [gradient * (member == place)[:, None].to(gradient.dtype) for place in range(sharing)]
        parts = [torch.autograd.grad(z, inputs, share, retain_graph=True) for share in shares]
        queries, keys, values = zip(*parts, strict=True)
        # query head h reads key-value head h // sharing
        return [sum(queries), torch.stack(keys, 3).flatten(2, 3), torch.stack(values, 3).flatten(2, 3)]

    def _at(self, layer: int, point: str) -> Tensor:
        return self.tape[f"blocks.{layer}.{point}"]


Sides = tuple[ActivationTape | dict[str, Tensor], ActivationTape | dict[str, Tensor]]
"""What stood at hook points on the clean and on the corrupt prompts."""


def written(
    model: Model, graph: ComponentGraph, batch: PairBatch, sides: Sides
) -> Float[Tensor, "batch sender pos d_model"]:
    """What every sender adds to the residual stream on the clean prompts less what it adds on the corrupt ones."""
    clean, corrupt = sides
    parts = [(clean[EMBEDDED].detach() - corrupt[EMBEDDED].detach()).float()[:, None]]
    for layer in range(graph.n_layers):
        parts.append(_written_by_heads(model, layer, batch, sides).transpose(1, 2))
        if graph.mlps:
            parts.append((batch.clean.mlp[layer] - batch.corrupt.mlp[layer]).float()[:, None])
    return torch.cat(parts, 1)


def _written_by_heads(
    model: Model, layer: int, batch: PairBatch, sides: Sides
) -> Float[Tensor, "batch pos head d_model"]:
    residual_writes = ResidualWrites.of(model)
    weight = residual_writes.output_weight(model, layer)
    clean, corrupt = batch.clean.z[layer], batch.corrupt.z[layer]
    if residual_writes.norm is None:
        return torch.einsum("bphc,hcd->bphd", clean - corrupt, weight).float()
    # a norm stands between the heads and the residual stream: each head's share of it, its scale held on either side
    name = f"blocks.{layer}.{residual_writes.norm}"
    norm = LinearNorm.of(getattr(model.blocks[layer], residual_writes.norm), model.cfg.d_model, weight)
    shares = []
    for z, side in zip((clean, corrupt), sides, strict=True):
        inputs, outputs = (side[f"{name}.hook_{end}"].detach().float() for end in ("in", "out"))
        direction = norm.direction(torch.einsum("bphc,hcd->bphd", z, weight).float())
        shares.append(direction * norm.factor(inputs, outputs)[:, :, None])
    return shares[0] - shares[1]


def edge_products(
    receivers: Receivers,
    written: Float[Tensor, "batch sender pos d_model"],
    *,
    senders: slice = slice(None),
    receiving: Collection[tuple[str, int]] | None = None,
    layer: int = 0,
) -> Float[Tensor, "batch receiver sender"]:
    """Σ over positions of what a sender wrote · the gradient at what a receiver read; zero where no edge is, and in the
    columns of other ``senders``.

    ``receiving`` are (``attn`` or ``mlp``, layer) of the receivers that are scored: all, and the logits, if not given.
    ``layer`` is the first that the receivers' forward ran.
    """
    graph = receivers.graph
    begin, end, _ = senders.indices(len(graph.senders))
    products = written.new_zeros(len(written), len(graph.receivers), len(graph.senders))

    def fill(first: int, read: int, gradient: Float[Tensor, "batch receiver pos d_model"]) -> None:
        read_senders = slice(begin, min(end, read))
        rows = slice(first, first + gradient.shape[1])
        products[:, rows, read_senders] = gradient.flatten(2) @ written[:, read_senders].flatten(2).mT

    for k in range(layer, graph.n_layers):
        heads, mlp = Receiver("attn", k, 0, "q"), Receiver("mlp", k)
        first = k * (3 * graph.n_heads + graph.mlps)
        if graph.reads(heads) > begin and (receiving is None or ("attn", k) in receiving):
            fill(first, graph.reads(heads), receivers.heads(k))
        if graph.mlps and graph.reads(mlp) > begin and (receiving is None or ("mlp", k) in receiving):
            fill(first + 3 * graph.n_heads, graph.reads(mlp), receivers.mlp(k)[:, None])
    if receiving is None:
        fill(len(graph.receivers) - 1, len(graph.senders), receivers.logits()[:, None])
    return products


def _mlp_entry(model: Model) -> str:
    return "ln2.hook_in" if has_hook(model, "blocks.0.ln2.hook_in") else "ln1.hook_in"


def _last(model: Model) -> str:
    return f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
