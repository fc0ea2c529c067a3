"""The graph of a model's components: who reads whose output in the residual stream.

Senders, in the order in which they write: the embeddings (``input``), then each layer's heads and MLP. Receivers: each
head's query, key and value input, each MLP, the ``logits``. A receiver reads a *prefix* of the senders.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from interp.models import Model, has_mlps
from interp.models.hooks import has_hook
from interp.models.partial_forward import QKV, Into

EMBEDDED = "blocks.0.hook_resid_pre"
"""Where the embedded prompt enters the first block."""


@dataclass(frozen=True)
class EdgeScore:
    """One directed edge from a sender's output to a receiver's query, key or value input.

    ``into`` is ``None`` where the receiver is an MLP, or where the method does not tell the inputs apart.
    """

    sender: str
    receiver: str
    into: str | None
    score: float


@dataclass(frozen=True)
class Receiver:
    """One input: ``kind`` is ``attn`` (with ``head`` and ``into``), ``mlp``, or ``logits`` (after the last layer)."""

    kind: str
    layer: int
    head: int | None = None
    into: Into | None = None

    def __str__(self) -> str:
        if self.kind == "logits":
            return "logits"
        return f"m{self.layer}" if self.kind == "mlp" else f"a{self.layer}.h{self.head}"


@dataclass(frozen=True)
class ComponentGraph:
    """
    Attributes:
        sequential: whether an MLP reads what the heads of its own layer wrote.
    """

    n_layers: int
    n_heads: int
    mlps: bool
    sequential: bool

    @classmethod
    def of(cls, model: Model) -> "ComponentGraph":
        sequential = has_hook(model, "blocks.0.hook_resid_mid")
        return cls(model.cfg.n_layers, model.cfg.n_heads, has_mlps(model), sequential)

    @cached_property
    def senders(self) -> tuple[str, ...]:
        names = ["input"]
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)]
            names += [f"m{layer}"] * self.mlps
        return tuple(names)

    @cached_property
    def receivers(self) -> tuple[Receiver, ...]:
        found = []
        for layer in range(self.n_layers):
            found += [Receiver("attn", layer, head, into) for head in range(self.n_heads) for into in QKV]
            found += [Receiver("mlp", layer)] * self.mlps
        return (*found, Receiver("logits", self.n_layers))

    def head_sender(self, layer: int, head: int) -> int:
        """Where a head stands among the senders."""
        return 1 + layer * (self.n_heads + self.mlps) + head

    def mlp_sender(self, layer: int) -> int:
        """Where a layer's MLP stands among the senders."""
        return self.head_sender(layer, self.n_heads)

    def reads(self, receiver: Receiver) -> int:
        """How many of the first senders the receiver reads."""
        own_heads = self.n_heads if receiver.kind == "mlp" and self.sequential else 0
        return self.head_sender(receiver.layer, own_heads)

    @cached_property
    def exists(self) -> Bool[np.ndarray, "receiver sender"]:
        """Which edges there are."""
        columns = np.arange(len(self.senders))
        return np.stack([columns < self.reads(receiver) for receiver in self.receivers])

    def edges(self, scores: Float[np.ndarray, "receiver sender"]) -> tuple[EdgeScore, ...]:
        """The edges that have a score (NaN: none), largest absolute score first; ties in writing order."""
        rows, columns = np.nonzero(self.exists & ~np.isnan(scores))
        order = np.argsort(-np.abs(scores[rows, columns]), kind="stable")
        return tuple(
            EdgeScore(
                self.senders[columns[k]],
                str(self.receivers[rows[k]]),
                self.receivers[rows[k]].into,
                float(scores[rows[k], columns[k]]),
            )
            for k in order
        )
