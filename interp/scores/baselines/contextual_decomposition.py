"""Contextual decomposition (CD-T): follow what one head adds, forward, through every later operation to the logits.

Hsu et al. 2024 (arXiv 2407.00886). Every activation is split into β, which is due to the source head, and γ, the rest.
At the source β = z − z', γ = z' with z' its value on the corrupt prompt (the paper: its mean over a reference set), and
β = 0 everywhere before. score = m(logits) − m(logits − β), the task metric of β itself where the metric is linear.

Rules, with β + γ = the model's own activation after each:

- linear maps: β' = Wβ, biases shared by size; residual sums: added
- LayerNorm, RMSNorm (final norm too): scale frozen at the whole input's, then linear
- rotary positions: linear
- MLP nonlinearity: β' = f(β + γ) − f(γ)
- gated MLP (SwiGLU), which the paper has not: the gate by that rule, gate × value with cross terms halved
- attention, ``attention="frozen"``: the pattern is the model's own and only values are split, as in the released
  code. ``"paper"``: scores β_q·β_k, pattern softmax(β scores), β_z = β pattern × β_v, everything else γ, as in the
  text. ``"shared"`` (ours): the products with cross terms halved, softmax as a game of two players; the only one of the
  three in which a part that changes *queries or keys alone* goes on.

One pass per source head; sources of a chunk share a batch, positions before the first token that differs are
skipped (β is 0 there), and totals are computed once per layer for all. The paper then takes the heads found as targets
of further rounds; here all relevance is to the logits, and no edges are scored.

When it misleads: β is a bookkeeping, not an intervention; what a later head *would* do without the source is not run.
With ``frozen`` and ``paper``, heads that act through patterns (inhibition, previous token) vanish.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from interp.activations.metric import task_metric
from interp.activations.stream import Consumer, PairBatch
from interp.errors import InputError
from interp.models import Model, has_mlps
from interp.models.partial_forward import QKV, Blockwise, Into, mlp_norm, require_whole_blocks
from interp.models.residual_writes import LinearNorm, output_bias
from interp.prompts.pairs import Metric
from interp.scores.gradients import EMBEDDED
from interp.scores.method import Context, MethodConfig, method
from interp.scores.result import Scores

Vectors = Float[Tensor, "*#any d"]
SourceParts = Float[Tensor, "source batch later d_model"]
AttentionRule = Literal["frozen", "paper", "shared"]

ROWS = 64  # source × pair prompts that pass through a layer together


@dataclass(frozen=True)
class ContextualDecompositionConfig(MethodConfig):
    attention: AttentionRule = "shared"  # the rule for attention (module docstring)


@method(config=ContextualDecompositionConfig, scores_mlps=False, most_pairs=10, most_seeds=10)
def contextual_decomposition(context: Context) -> Scores:
    """Score heads by contextual decomposition (module docstring)."""
    model, pairs, rule = context.model, context.pairs, context.config.attention
    decomposition = Decomposition(model, pairs.metric, len(pairs), rule, context.report_progress)
    context.run(decomposition, share=0.0)
    context.forwards += decomposition.forwards
    return Scores.from_pairs(decomposition.heads)


class Decomposition(Consumer):
    """Decomposes every batch of pairs; ``seen`` is called after each layer with (layer, β of all sources so far, the
    whole) at positions that differ."""

    needs_hooks = (EMBEDDED,)
    purpose = "contextual-decomposition"

    def __init__(
        self,
        model: Model,
        metric: Metric,
        n_pairs: int,
        attention: AttentionRule,
        report_progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.model, self.metric, self.attention = model, metric, attention
        self.report_progress = report_progress
        self.residual_writes = require_whole_blocks(model, self.purpose)
        self.n_layers, self.n_heads = model.cfg.n_layers, model.cfg.n_heads
        self.heads = np.zeros((n_pairs, self.n_layers, self.n_heads))
        self.forwards, self.done = 0.0, 0
        self.seen: Callable[[int, Tensor, Tensor], None] = lambda _layer, _part, _whole: None
        self._blocks = cache(lambda length: Blockwise(model, length, self.purpose))
        like, d_model = next(model.parameters()), model.cfg.d_model
        self._norms: list[Norms] = [
            (
                LinearNorm.of(block.ln1, d_model, like),
                LinearNorm.of(mlp_norm(model, layer), d_model, like) if has_mlps(model) else None,
            )
            for layer, block in enumerate(model.blocks)
        ]
        self._final = LinearNorm.of(model.ln_final, d_model, like)

    @torch.no_grad()
    def update(self, batch: PairBatch) -> None:
        n, length = batch.clean.tokens.shape
        blocks, whole = self._blocks(length), batch.tape[EMBEDDED].detach()
        differs = (batch.clean.tokens != batch.corrupt.tokens).any(0)
        first = int(differs.nonzero()[0]) if differs.any() else length - 1
        part = whole.new_zeros(self.n_layers * self.n_heads, n, length - first, whole.shape[-1])
        for layer in range(self.n_layers):
            step = DecomposedLayer(blocks, layer, whole, first, self._norms[layer], self.attention)
            for rows in _chunks(layer * self.n_heads, n):
                part[rows] = step.propagate(part[rows])
            active = (layer + 1) * self.n_heads
            part[active - self.n_heads : active] = step.inject(self._sources(batch, layer, first))
            whole = step.whole_out
            self.seen(layer, part[:active], whole[:, first:])
            self.forwards += n * (1 + active * (1 - first / length)) / self.n_layers
            self.report_progress((self.done + n * (layer + 1) / self.n_layers) / len(self.heads))
        self.done += n
        blocks.check(whole[:, -1], batch.clean.resid_end)
        effects = torch.cat(list(self._effects(part[:, :, -1], whole[:, -1], batch)))
        self.heads[list(batch.indices)] = effects.T.reshape(n, self.n_layers, self.n_heads).cpu().numpy()

    def _sources(self, batch: PairBatch, layer: int, first: int) -> Float[Tensor, "head batch later head d_head"]:
        """z − z' of one head of the layer at a time, the other heads 0."""
        difference = (batch.clean.z[layer] - batch.corrupt.z[layer])[:, first:]
        one_head = torch.eye(self.n_heads, device=difference.device, dtype=difference.dtype)
        return difference * one_head[:, None, None, :, None]

    def _effects(
        self, part: Float[Tensor, "source batch d_model"], whole: Float[Tensor, "batch d_model"], batch: PairBatch
    ) -> Iterator[Float[Tensor, "source batch"]]:
        """m(logits) − m(logits − β) of every source, some sources at a time."""
        normed = self.model.ln_final(whole[:, None])[:, 0]
        logits = self.residual_writes.logits(self.model, normed[:, None])[:, 0]
        bias = self.residual_writes.logits(self.model, torch.zeros_like(normed[:1, None]))[0, 0]
        before = task_metric(logits, batch.pairs, self.metric)
        for rows in _chunks(len(part), len(whole)):
            moved = norm_rule(part[rows], whole, normed, self._final)
            moved = share_bias(self.residual_writes.logits(self.model, moved) - bias, logits, bias)
            without = (logits - moved).flatten(0, 1)
            after = task_metric(without, batch.pairs * len(moved), self.metric)
            yield before - after.view(len(moved), -1)


def _chunks(n_sources: int, n_pairs: int) -> Iterator[slice]:
    """Sources whose prompts pass through a layer together."""
    size = max(1, ROWS // n_pairs)
    for begin in range(0, n_sources, size):
        yield slice(begin, min(begin + size, n_sources))


# Rules: how a part β of an activation passes through one operation. Each is given β and the whole, and returns the β of
# the result, so that β + γ is the whole by construction (Murdoch et al. 2018; Singh et al. 2019).


def share_bias(part: Vectors, whole: Vectors, bias: Vectors) -> Vectors:
    """Linear map: β' = Wβ + b |Wβ| / (|Wβ| + |Wγ|), elementwise; ``part`` is Wβ, ``whole`` is W(β + γ) + b."""
    if not bias.any():
        return part
    size = part.abs()
    rest = (whole - bias - part).abs()
    return part + bias * size / (size + rest).clamp_min(torch.finfo(part.dtype).tiny)


def norm_rule(part: Vectors, whole_in: Vectors, whole_out: Vectors, linear: LinearNorm) -> Vectors:
    """LayerNorm and RMSNorm: linear, with the scale of the whole input; the bias is shared as in :func:`share_bias`."""
    moved = linear.direction(part) * linear.factor(whole_in, whole_out)
    shared = share_bias(moved, whole_out, linear.bias) if linear.scaled else moved
    return shared.to(part.dtype)  # the norm was measured in float32


def nonlinearity(
    part: Float[Tensor, "*#any"], whole: Float[Tensor, "*#any"], function: Callable[[Tensor], Tensor]
) -> Float[Tensor, "*#any"]:
    """Nonlinearity: β' = f(β + γ) − f(γ)."""
    return function(whole) - function(whole - part)


def product(
    part_a: Float[Tensor, "*#a"],
    whole_a: Float[Tensor, "*#a"],
    part_b: Float[Tensor, "*#b"],
    whole_b: Float[Tensor, "*#b"],
    times: Callable[[Tensor, Tensor], Tensor] = torch.mul,
) -> Float[Tensor, "*product"]:
    """A bilinear product, its cross terms halved between β and γ: β' = β_a β_b + ½ (β_a γ_b + γ_a β_b)."""
    return (times(part_a, whole_b) + times(whole_a, part_b)) / 2


def softmax(part: Float[Tensor, "*#any key"], whole: Float[Tensor, "*#any key"]) -> Float[Tensor, "*#any key"]:
    """The last dimension's softmax as a game of two players: β' is the mean of what β adds to γ and what it adds to 0.

    Masked keys are −inf in ``whole``; the players start from even attention to the others. The literal
    softmax(β) would give a part that is absent (β = 0) that even attention.
    """
    masked = whole.isinf()
    alone = part.masked_fill(masked, float("-inf"))
    nothing = torch.zeros_like(whole).masked_fill(masked, float("-inf"))
    without = whole - part
    return (whole.softmax(-1) - without.softmax(-1) + alone.softmax(-1) - nothing.softmax(-1)) / 2


Norms = tuple[LinearNorm, LinearNorm | None]  # a block's: before attention, and before the MLP if there is one


class DecomposedLayer:
    """Parts are [source, batch, later pos, …]: they are zero at positions before ``first`` and not kept there.
    ``whole_out`` is the residual stream after the layer, [batch, pos, d_model]."""

    def __init__(
        self,
        blocks: Blockwise,
        layer: int,
        whole: Float[Tensor, "batch pos d_model"],
        first: int,
        norms: Norms,
        attention: AttentionRule,
    ) -> None:
        self.blocks, self.layer, self.first = blocks, layer, first
        (self.attn_norm, self.mlp_norm), self.attention = norms, attention
        block = blocks.model.blocks[layer]
        self.whole, self.normed = whole, block.ln1(whole)
        self.qkv = {into: blocks.project(layer, into, self.normed) + blocks.bias(layer, into) for into in QKV}
        self.q, self.k = blocks.rotate(self.qkv["q"]), blocks.rotate(self.qkv["k"])
        self.v = self.qkv["v"]
        self.scores = blocks.masked(blocks.scores(self.q, self.k))
        self.pattern = self.scores.softmax(-1)
        mixed = blocks.write(layer, blocks.mix(self.pattern, self.v)).sum(-2)
        self.attn_out = mixed + output_bias(blocks.model, layer)
        self.whole_out = whole + self.attn_out
        self.mlp = None
        if blocks.mlps:
            self.mlp_in = self.whole_out if blocks.sequential else whole
            self.mlp_normed = mlp_norm(blocks.model, layer)(self.mlp_in)
            later = self.mlp_normed[:, first:].contiguous()
            self.mlp = _DecomposedMLP(block.mlp, blocks.model.cfg.act_fn, later)
            self.whole_out = self.whole_out + block.mlp(self.mlp_normed)

    def propagate(self, part: SourceParts) -> SourceParts:
        """The part of the layer's output that comes from a part of its input."""
        return self._finish(part, self._attend(part))

    def inject(self, z: Float[Tensor, "source batch later head d_head"]) -> SourceParts:
        """The part of the layer's output that comes from a part of its heads' z, the input having none."""
        return self._finish(z.new_zeros(*z.shape[:3], self.whole.shape[-1]), z)

    def _finish(self, part: Tensor, z: Tensor) -> Tensor:
        """The layer after its z: W_O, residual sum, MLP."""
        bias = output_bias(self.blocks.model, self.layer)
        written = self.blocks.write(self.layer, z).sum(-2)
        written = share_bias(written, self._later(self.attn_out), bias)
        after = part + written
        if self.mlp is None or self.mlp_norm is None:
            return after
        read = after if self.blocks.sequential else part
        normed = norm_rule(read, self._later(self.mlp_in), self._later(self.mlp_normed), self.mlp_norm)
        return after + self.mlp.propagate(normed)

    def _attend(self, part: Tensor) -> Tensor:
        blocks, first = self.blocks, self.first
        normed = norm_rule(part, self._later(self.whole), self._later(self.normed), self.attn_norm)

        def projected(into: Into) -> Tensor:
            linear = blocks.project(self.layer, into, normed)
            return share_bias(linear, self._later(self.qkv[into]), blocks.bias(self.layer, into))

        v = self._from_the_start(projected("v"))
        pattern = self.pattern[..., first:, :]
        if self.attention == "frozen":
            return blocks.mix(pattern, v)
        q = blocks.rotate(projected("q"), first)
        k = self._from_the_start(blocks.rotate(projected("k"), first))
        if self.attention == "paper":
            return blocks.mix(blocks.masked(blocks.scores(q, k)).softmax(-1), v)
        scores = product(q, self._later(self.q), k, self.k, blocks.scores)
        part_pattern = softmax(scores, self.scores[..., first:, :])
        return product(part_pattern, pattern, v, self.v, blocks.mix)

    def _later(self, whole: Tensor) -> Tensor:
        return whole[:, self.first :]

    def _from_the_start(self, part: Float[Tensor, "source batch later head d_head"]) -> Tensor:
        """With the zeros at the positions that are not kept."""
        return nn.functional.pad(part, (0, 0, 0, 0, self.first, 0))


class _DecomposedMLP:
    """A plain or gated MLP; ``normed`` is its whole input at the later positions."""

    def __init__(self, mlp: nn.Module, activation: str, normed: Tensor) -> None:
        parts = dict(mlp.named_children())
        if activation not in ACT2FN or not {"in", "out"} <= set(parts):
            raise InputError(
                f"contextual-decomposition does not know this model's MLP ({activation}); "
                "attribution and patching work on every model"
            )
        self.parts, self.function = parts, ACT2FN[activation]
        entries = [name for name in ("in", "gate") if name in parts]
        self.whole: dict[str, Tensor] = {name: parts[name](normed) for name in entries}
        value, gate = self.whole["in"], self.whole.get("gate")
        inner = self.function(value) if gate is None else self.function(gate) * value
        self.whole["out"] = parts["out"](inner)

    def propagate(self, part: Tensor) -> Tensor:
        value, whole, gate = self._linear("in", part), self.whole["in"], self.whole.get("gate")
        if gate is None:
            return self._linear("out", nonlinearity(value, whole, self.function))
        opened = nonlinearity(self._linear("gate", part), gate, self.function)
        return self._linear("out", product(opened, self.function(gate), value, whole))

    def _linear(self, name: str, part: Tensor) -> Tensor:
        """A linear module with the bias rule."""
        bias = getattr(self.parts[name], "bias", None)
        moved = self.parts[name](part.contiguous())  # GPT-2's Conv1D takes no strided input
        return moved if bias is None else share_bias(moved - bias, self.whole[name], bias)
