"""Attention-only models with hand-written heads: what a head attends to and what it moves.

The residual stream is a sum of orthogonal subspaces in a randomly rotated basis, so that nothing lines up
with a neuron. There is no norm, no MLP and no bias: every logit is exactly the sum of what the heads and the
embedding write (the setting of Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

Rows = Float[Tensor, "_ d_model"]
"""Directions of the residual stream."""


@dataclass(frozen=True)
class Match:
    """A term of the attention score: ``weight`` times the dot product of what query and key carry there.

    ``query`` and ``key`` have one row per compared feature; row i of the one meets row i of the other.
    """

    query: Float[Tensor, "row d_model"]
    key: Float[Tensor, "row d_model"]
    weight: float


@dataclass(frozen=True)
class Move:
    """A term of the head's output: what the source carries in ``read`` is written along ``write``."""

    read: Float[Tensor, "row d_model"]
    write: Float[Tensor, "row d_model"]


@dataclass(frozen=True)
class Head:
    """Attention score = sum of the matches; output = sum of the moves."""

    matches: tuple[Match, ...]
    moves: tuple[Move, ...]


class Subspaces:
    """Hands out orthonormal rows of a random rotation of R^d_model, each row once."""

    def __init__(self, d_model: int, generator: torch.Generator) -> None:
        self._rows = _rotation(d_model, generator)
        self._next = 0

    def take(self, size: int) -> Rows:
        """The next ``size`` unused directions."""
        if self._next + size > len(self._rows):
            raise ValueError(f"{size} directions asked for, {len(self._rows) - self._next} left")
        self._next += size
        return self._rows[self._next - size : self._next]


def build_model(
    *,
    heads: Mapping[tuple[int, int], Head],
    embedding: Float[Tensor, "token d_model"],
    positions: Float[Tensor, "place d_model"],
    unembedding: Float[Tensor, "token d_model"],
    n_layers: int,
    n_heads: int,
    d_head: int,
    generator: torch.Generator,
) -> TransformerBridge:
    """Return the model whose heads (layer, head) are these; heads not given are zero.

    The channels inside each head are rotated too, so that z is no more axis-aligned than a trained head's.
    """
    model = TransformerBridge.boot_native(
        TransformerBridgeConfig(
            d_model=embedding.shape[1],
            d_head=d_head,
            n_heads=n_heads,
            n_layers=n_layers,
            n_ctx=len(positions),
            d_vocab=len(embedding),
            act_fn="relu",
            attn_only=True,
            normalization_type=None,
            positional_embedding_type="standard",
            tokenizer_prepends_bos=False,
            seed=0,
        )
    )
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    state["embed.weight"] = embedding
    state["pos_embed.weight"] = positions
    state["unembed.weight"] = unembedding
    for (layer, head), spec in heads.items():
        rows = slice(head * d_head, (head + 1) * d_head)
        # the model divides scores by sqrt(d_head)
        scaled = [(match, math.sqrt(match.weight * math.sqrt(d_head))) for match in spec.matches]
        query = torch.cat([match.query * scale for match, scale in scaled])
        key = torch.cat([match.key * scale for match, scale in scaled])
        read, write = (torch.cat([getattr(move, end) for move in spec.moves]) for end in ("read", "write"))
        q, k = _into_channels((query, key), d_head, generator)
        v, o = _into_channels((read, write), d_head, generator)
        attn = f"blocks.{layer}.attn"
        state[f"{attn}.q.weight"][rows] = q
        state[f"{attn}.k.weight"][rows] = k
        state[f"{attn}.v.weight"][rows] = v
        state[f"{attn}.o.weight"][:, rows] = o.T
    model.load_state_dict(state)
    model.eval()
    model.requires_grad_(False)
    return model


def _into_channels(pair: tuple[Rows, Rows], d_head: int, generator: torch.Generator) -> tuple[Rows, Rows]:
    """Spread the paired rows over d_head channels; the products of the pair do not change."""
    size = len(pair[0])
    if size > d_head:
        raise ValueError(f"{size} features in a head of {d_head} channels")
    mix = _rotation(d_head, generator)[:, :size]
    return mix @ pair[0], mix @ pair[1]


def _rotation(size: int, generator: torch.Generator) -> Float[Tensor, "size size"]:
    return torch.linalg.qr(torch.randn(size, size, generator=generator)).Q
