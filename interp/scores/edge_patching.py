"""Runs of the clean prompts with any set of edges removed: the receiver sees the sender's corrupt output.

Path patching of many edges at once (Conmy et al. 2023, section 3; Wang et al. 2022 for one):

    input of v = (its input in the corrupt run) + Σ over kept edges u → v of (u's output now − u's corrupt output)

so a removed edge carries the fixed corrupt run and a kept one what its sender does *now*, after the removals below it.
Heads read queries, keys and values from inputs of their own, per query head (:mod:`interp.models.blockwise`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.stream import Activations, PairBatch
from interp.models import Model, hooked
from interp.models.blockwise import Blockwise, output_bias, require_whole_blocks
from interp.scores.component_graph import ComponentGraph
from interp.scores.divergence import Divergence
from interp.tasks.pairs import PromptPairs


@dataclass(frozen=True)
class _Kept:
    batch: PairBatch
    blocks: Blockwise
    clean: Float[Tensor, "batch pos sender d_model"]
    corrupt: Float[Tensor, "batch pos sender d_model"]
    logits: Float[Tensor, "batch d_vocab"]


class EdgePatching:
    """A consumer that keeps every component's output on both sides, and then measures removals of edges.

    Edges are numbered by their place in ``graph.exists`` (receiver × sender, flattened).

    Raises:
        InputError: the model's blocks cannot be run apart; on the first batch, when attention is of a kind that is
            not known (see ``Blockwise``).
    """

    needs_gradients = False
    needs_patterns = False
    purpose = "edge-level acdc"

    def __init__(self, model: Model, pairs: PromptPairs, divergence: Divergence) -> None:
        self.model, self.pairs, self.divergence = model, pairs, divergence
        self.wiring = require_whole_blocks(model, self.purpose)
        self.graph = ComponentGraph.of(model)
        self.kept: list[_Kept] = []
        self.forwards = 0.0
        self._embedded: list[Tensor] = []
        self._blocks: dict[int, Blockwise] = {}

    def watching(self):
        """The context in which the batches must be run."""
        return hooked(
            self.model, {"blocks.0.hook_resid_pre": lambda x: self._embedded.append(x.detach().clone())}
        )

    def update(self, batch: PairBatch) -> None:
        corrupt, clean = self._embedded[-2:]  # run in this order
        self._embedded.clear()
        length = batch.clean.tokens.shape[1]
        if length not in self._blocks:
            self._blocks[length] = Blockwise(self.model, length, self.purpose)
        kept = _Kept(
            batch,
            self._blocks[length],
            self._written(clean, batch.clean),
            self._written(corrupt, batch.corrupt),
            self._logits(batch.clean.resid_end),
        )
        nothing = torch.zeros(1, *self.graph.exists.shape, dtype=torch.bool)
        kept.blocks.check(self.end_residual(kept, 0, nothing)[0], batch.clean.resid_end)
        self.kept.append(kept)

    def damage(self, layer: int, removed: Sequence[frozenset[int]]) -> list[float]:
        """Mean damage over pairs of each set of removed edges, whose receivers all lie at ``layer`` or above."""
        gone = torch.zeros(len(removed), self.graph.exists.size, dtype=torch.bool)
        for row, trial in enumerate(removed):
            gone[row, list(trial)] = True
        gone = gone.view(len(removed), *self.graph.exists.shape)
        total = sum(self.values(kept, layer, gone).sum(1) for kept in self.kept)
        return (total / len(self.pairs)).tolist()

    @torch.no_grad()
    def values(
        self, kept: _Kept, layer: int, gone: Bool[Tensor, "set receiver sender"]
    ) -> Float[Tensor, "set batch"]:
        """Damage to every pair of a batch by each set of removed edges."""
        logits = self._logits(self.end_residual(kept, layer, gone)).flatten(0, 1)
        n, copies = len(kept.batch.indices), len(gone)
        self.forwards += copies * n * (1 - layer / self.graph.n_layers)
        before, pairs = kept.logits.repeat(copies, 1), kept.batch.pairs * copies
        return self.divergence(before, logits, pairs).view(copies, n).cpu()

    @torch.no_grad()
    def end_residual(
        self, kept: _Kept, layer: int, gone: Bool[Tensor, "set receiver sender"]
    ) -> Float[Tensor, "set batch d_model"]:
        """The final residual stream at END, as the logits see it; layers below ``layer`` are as in the clean run."""
        graph, blocks, corrupt = self.graph, kept.blocks, kept.corrupt
        keep = (~gone).to(corrupt.device, corrupt.dtype)
        moved = (kept.clean - corrupt).expand(len(gone), *corrupt.shape).clone()
        rows = {receiver: row for row, receiver in enumerate(graph.receivers)}

        def inputs(receivers: list) -> Float[Tensor, "set_batch pos receiver d_model"]:
            count = graph.reads(receivers[0])
            kept_edges = keep[:, [rows[r] for r in receivers], :count]
            changed = torch.einsum("cru,cbpud->cbprd", kept_edges, moved[:, :, :, :count])
            base = corrupt[:, :, :count].sum(2) + self._biases(receivers[0])
            return (base[:, :, None] + changed).flatten(0, 1)

        for above in range(layer, graph.n_layers):
            heads = [r for r in graph.receivers if (r.kind, r.layer) == ("attn", above)]
            # [set × batch, pos, head, q/k/v, d_model]
            reads = inputs(heads).unflatten(2, (graph.n_heads, 3))
            q, k, v = (blocks.read(above, into, reads[:, :, :, i]) for i, into in enumerate("qkv"))
            out = blocks.write(above, blocks.attend(q, k, v)).unflatten(0, moved.shape[:2])
            first = graph.head_sender(above, 0)
            own = slice(first, first + graph.n_heads)
            moved[:, :, :, own] = out - corrupt[:, :, own]
            if graph.mlps:
                own = graph.mlp_sender(above)
                mlp = [r for r in graph.receivers if (r.kind, r.layer) == ("mlp", above)]
                out = blocks.mlp(above, inputs(mlp)[:, :, 0]).unflatten(0, moved.shape[:2])
                moved[:, :, :, own] = out - corrupt[:, :, own]
        return inputs([graph.receivers[-1]])[:, -1, 0].unflatten(0, moved.shape[:2])

    def _biases(self, receiver) -> Tensor | float:
        """Sum of the attention layers' output biases that the receiver reads; they belong to no head."""
        own = receiver.kind == "mlp" and self.graph.sequential
        layers = range(receiver.layer + own)
        return sum((output_bias(self.model, layer) for layer in layers), 0.0)

    def _written(self, embedded: Tensor, side: Activations) -> Float[Tensor, "batch pos sender d_model"]:
        parts = [embedded[:, :, None]]
        for layer, z in enumerate(side.z):
            parts.append(torch.einsum("bphd,hdm->bphm", z, self.model.blocks[layer].attn.W_O))
            if side.mlp:
                parts.append(side.mlp[layer][:, :, None])
        return torch.cat(parts, 2)

    @torch.no_grad()
    def _logits(self, resid: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_vocab"]:
        flat = resid.reshape(-1, 1, resid.shape[-1])
        return self.wiring.logits(self.model, self.model.ln_final(flat)).view(*resid.shape[:-1], -1)
