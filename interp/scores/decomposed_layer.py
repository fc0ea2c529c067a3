"""One block of contextual decomposition: the whole activations of some prompts, and parts of them passed through."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from interp.models.blockwise import Blockwise, mlp_norm, output_bias
from interp.models.linear_norm import LinearNorm
from interp.scores import decomposition_rules as rules
from interp.tasks.errors import InputError

AttentionRule = Literal["frozen", "paper", "shared"]


@dataclass(frozen=True)
class Norms:
    """A block's norms; ``mlp`` is ``None`` in attention-only models."""

    attn: LinearNorm
    mlp: LinearNorm | None


class DecomposedLayer:
    """Parts are [source, batch, later pos, …]: they are zero at positions before ``first`` and not kept there.

    Attributes:
        whole_out: residual stream after the layer, [batch, pos, d_model].
    """

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
        self.norms, self.attention = norms, attention
        block = blocks.model.blocks[layer]
        self.whole, self.normed = whole, block.ln1(whole)
        self.qkv = {}
        for into in ("q", "k", "v"):
            bias = blocks.bias(layer, into)
            linear = blocks.project(layer, into, self.normed)
            self.qkv[into] = linear if bias is None else linear + bias
        self.q, self.k = blocks.rotate(self.qkv["q"]), blocks.rotate(self.qkv["k"])
        self.v = self.qkv["v"]
        self.scores = blocks.masked(blocks.scores(self.q, self.k))
        self.pattern = self.scores.softmax(-1)
        bias = output_bias(blocks.model, layer)
        self.attn_out = blocks.write(layer, blocks.mix(self.pattern, self.v)).sum(-2) + bias
        self.whole_out = whole + self.attn_out
        self.mlp = None
        if blocks.mlps:
            self.mlp_in = self.whole_out if blocks.sequential else whole
            self.mlp_normed = mlp_norm(blocks.model, layer)(self.mlp_in)
            self.mlp = _DecomposedMLP(
                block.mlp, blocks.model.cfg.act_fn, self.mlp_normed[:, first:].contiguous()
            )
            self.whole_out = self.whole_out + block.mlp(self.mlp_normed)

    def propagate(
        self, part: Float[Tensor, "source batch later d_model"]
    ) -> Float[Tensor, "source batch later d_model"]:
        """The part of the layer's output that comes from a part of its input."""
        return self._finish(part, self._attend(part))

    def inject(
        self, z: Float[Tensor, "source batch later head d_head"]
    ) -> Float[Tensor, "source batch later d_model"]:
        """The part of the layer's output that comes from a part of its heads' z, the input having none."""
        return self._finish(z.new_zeros(*z.shape[:3], self.whole.shape[-1]), z)

    def _finish(self, part: Tensor, z: Tensor) -> Tensor:
        """The layer after its z: W_O, residual sum, MLP."""
        bias = output_bias(self.blocks.model, self.layer)
        written = self.blocks.write(self.layer, z).sum(-2)
        written = rules.share_bias(
            written, self._later(self.attn_out), bias if isinstance(bias, Tensor) else None
        )
        after = part + written
        if self.mlp is None:
            return after
        read = after if self.blocks.sequential else part
        normed = rules.norm(read, self._later(self.mlp_in), self._later(self.mlp_normed), self.norms.mlp)
        return after + self.mlp.propagate(normed)

    def _attend(self, part: Tensor) -> Tensor:
        blocks, first = self.blocks, self.first
        normed = rules.norm(part, self._later(self.whole), self._later(self.normed), self.norms.attn)
        found = {}
        for into in ("q", "k", "v") if self.attention != "frozen" else ("v",):
            linear = blocks.project(self.layer, into, normed)
            found[into] = rules.share_bias(linear, self._later(self.qkv[into]), blocks.bias(self.layer, into))
        v = self._from_the_start(found["v"])
        pattern = self.pattern[..., first:, :]
        if self.attention == "frozen":
            return blocks.mix(pattern, v)
        q = blocks.rotate(found["q"], first)
        k = self._from_the_start(blocks.rotate(found["k"], first))
        if self.attention == "paper":
            return blocks.mix(blocks.masked(blocks.scores(q, k)).softmax(-1), v)
        scores = rules.product(q, self._later(self.q), k, self.k, blocks.scores)
        part_pattern = rules.softmax(scores, self.scores[..., first:, :])
        return rules.product(part_pattern, pattern, v, self.v, blocks.mix)

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
        self.function = ACT2FN[activation]
        self.maps = {name: _Linear(parts[name]) for name in ("in", "gate", "out") if name in parts}
        self.gated = "gate" in self.maps
        self.value = parts["in"](normed)
        self.gate = parts["gate"](normed) if self.gated else None
        inner = self.function(self.gate) * self.value if self.gated else self.function(self.value)
        self.out = parts["out"](inner)

    def propagate(self, part: Tensor) -> Tensor:
        value = self.maps["in"](part, self.value)
        if not self.gated:
            return self.maps["out"](rules.activation(value, self.value, self.function), self.out)
        opened = rules.activation(self.maps["gate"](part, self.gate), self.gate, self.function)
        inner = rules.product(opened, self.function(self.gate), value, self.value)
        return self.maps["out"](inner, self.out)


class _Linear:
    """A linear module with the bias rule."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.bias = getattr(module, "bias", None)

    def __call__(self, part: Tensor, whole: Tensor) -> Tensor:
        moved = self.module(part.contiguous())  # GPT-2's Conv1D takes no strided input
        if self.bias is None:
            return moved
        return rules.share_bias(moved - self.bias, whole, self.bias)
