"""Edges removed: what a receiver reads, without what one sender changed (path patching).

Wang et al. 2022 (arXiv 2211.00593), section 3; of many edges at once Conmy et al. 2023 (arXiv 2304.14997). A removed
edge carries what its sender wrote on the corrupt prompt. Heads read queries, keys and values from inputs of their own,
per query head (:mod:`interp.models.partial_forward`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, reduce

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.metric import Divergence
from interp.activations.stream import Activations, Consumer, PairBatch
from interp.interventions.clean_run import PATCH_ROWS, CleanRun
from interp.models import Model, Site, has_mlps
from interp.models.hooks import has_hook
from interp.models.partial_forward import QKV, Blockwise, Into, require_whole_blocks
from interp.models.residual_writes import output_bias
from interp.prompts.pairs import PromptPairs

EMBEDDED = "blocks.0.hook_resid_pre"  # where the embedded prompt enters the first block


@dataclass(frozen=True)
class EdgeScore:
    """One directed edge from a sender's output to a receiver's query, key or value input; ``into`` is ``None`` where
    the receiver is an MLP, or where the method does not tell the inputs apart."""

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
    """The components of a model, and which reads what the others write; ``sequential`` if an MLP reads what the heads
    of its own layer wrote."""

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
        receivers = []
        for layer in range(self.n_layers):
            receivers += [Receiver("attn", layer, head, into) for head in range(self.n_heads) for into in QKV]
            receivers += [Receiver("mlp", layer)] * self.mlps
        return (*receivers, Receiver("logits", self.n_layers))

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
        edges = []
        for row, column in zip(rows[order], columns[order], strict=True):
            receiver, score = self.receivers[row], float(scores[row, column])
            edges.append(EdgeScore(self.senders[column], str(receiver), receiver.into, score))
        return tuple(edges)


@dataclass(frozen=True)
class EdgeList:
    """All edges from a head to the query, key or value of a later layer's head, among ``sites`` in reading order;
    ``sender`` and ``receiver`` are places there of each edge's ends."""

    sites: tuple[Site, ...]
    sender: np.ndarray
    receiver: np.ndarray
    into: np.ndarray

    @classmethod
    def among(cls, sites: Sequence[Site]) -> "EdgeList":
        sites = tuple(sorted(set(sites), key=lambda site: (site.layer, site.head)))
        layers = np.array([site.layer for site in sites], dtype=int)
        ends = np.argwhere(layers[:, None] > layers)
        receiver, sender = np.repeat(ends, len(QKV), axis=0).T
        return cls(sites, sender, receiver, np.tile(QKV, len(ends)))

    def __len__(self) -> int:
        return len(self.sender)

    def of_receivers(self, attribute: str) -> np.ndarray:
        """``layer`` or ``head`` of every edge's receiver."""
        return np.array([getattr(site, attribute) for site in self.sites], dtype=int)[self.receiver]

    def subset(self, chosen: np.ndarray) -> "EdgeList":
        """Some of the edges."""
        return EdgeList(self.sites, self.sender[chosen], self.receiver[chosen], self.into[chosen])


class EdgePatcher:
    """Single edges removed on single pairs.

    Removing one edge u → v's query, key or value changes what v writes and nothing else at v's layer:

        z_v(edge removed) = attention of v, its one input read from x − (z_u − z'_u) W_O

    Everything after v follows. So v's output is computed in one small attention of its own and patched in, at the cost
    of a patch of v. Edges into many receivers of a layer share a batch. It equals :class:`EdgeSets` of one edge.

    Raises:
        InputError: attention is of a kind that is not known, or a norm or a factor stands after it (``Blockwise``).
    """

    purpose = "path patching of edges"

    def __init__(self, clean: CleanRun) -> None:
        self.clean, self.model = clean, clean.model
        self.blocks = Blockwise(self.model, clean.tokens.shape[1], self.purpose)
        last = clean.n_layers - 1
        longest = max(clean.kept, key=lambda pair: len(clean.pairs[pair].clean_tokens))
        place = clean.places(np.array([longest]))  # of which no position is padding
        with torch.no_grad():
            z = self.blocks.attend(*(self._clean(last, into, place) for into in QKV))
        self.blocks.check(z, clean.z[last][place])

    def effects(self, pairs: Int[np.ndarray, " edge"], edges: EdgeList) -> tuple[Float[np.ndarray, " edge"], float]:
        """Fall of the metric when one edge is removed on one pair, an edge and a pair a row; and the cost."""
        layers, heads, inputs = edges.of_receivers("layer"), edges.of_receivers("head"), edges.into
        replacements = self.clean.z.new_empty(len(pairs), *self.clean.z.shape[2::2])
        for layer, into in sorted(set(zip(layers.tolist(), inputs.tolist(), strict=True))):
            group = np.flatnonzero((layers == layer) & (inputs == into))
            for begin in range(0, len(group), PATCH_ROWS):
                chunk = group[begin : begin + PATCH_ROWS]
                senders = [edges.sites[place] for place in edges.sender[chunk]]
                places = self.clean.places(pairs[chunk])
                replacements[chunk] = self._without(layer, into, places, heads[chunk], senders)
        return self.clean.effects(pairs, layers, heads, replacements)

    @torch.no_grad()
    def at_token(
        self, pair: int, receiver: Site, position: int, senders: Sequence[tuple[Site, int]]
    ) -> Float[Tensor, "sender d_head"]:
        """What a head writes at a token on a pair's clean prompt when one sender, a head of an earlier layer at a token
        that is not later, is taken from its input.

        Query, keys and values read x − (z_u − z'_u) W_O at the sender's position; all else is clean.
        """
        layer, head, clean, blocks = receiver.layer, receiver.head, self.clean, self.blocks
        place = clean.places(np.array([pair]))
        rows, at = torch.arange(len(senders)), torch.tensor([at for _, at in senders])
        index = [site.layer for site, _ in senders], place, at, [site.head for site, _ in senders]
        outputs = torch.stack([self.model.blocks[site.layer].attn.W_O[site.head] for site, _ in senders])
        written = torch.einsum("sd,sdm->sm", clean.z[index] - clean.corrupt_z[index], outputs)
        normed = self.model.blocks[layer].ln1((clean.resid[layer, place, at] - written)[None])[0]
        parts = []
        for into in QKV:
            part = self._clean(layer, into, place)[:, :, head].repeat(len(senders), 1, 1)
            part[rows, at] = self._read(layer, into, normed)[:, head]
            parts.append(part[:, :, None])
        q, k = (blocks.rotate(part)[:, : position + 1] for part in parts[:2])
        scores = blocks.scores(q[:, position:], k)
        return blocks.mix(scores.softmax(-1), parts[2][:, : position + 1])[:, 0, 0]

    @torch.no_grad()
    def _without(
        self, layer: int, into: Into, places: np.ndarray, heads: np.ndarray, senders: Sequence[Site]
    ) -> Float[Tensor, "edge pos d_head"]:
        receiver, blocks, clean = torch.from_numpy(heads), self.blocks, self.clean
        index = [site.layer for site in senders], places, slice(None), [site.head for site in senders]
        outputs = torch.stack([self.model.blocks[site.layer].attn.W_O[site.head] for site in senders])
        reads = clean.resid[layer, places] - (clean.z[index] - clean.corrupt_z[index]) @ outputs
        weight, _ = blocks.weight(layer, into)
        changed = self.model.blocks[layer].ln1(reads) @ blocks.per_query_head(weight, 0)[receiver]
        changed = changed + blocks.bias(layer, into)[receiver, None]
        distinct, rows = np.unique(places, return_inverse=True)
        parts = {name: self._clean(layer, name, distinct)[rows, :, receiver] for name in QKV if name != into}
        parts[into] = changed
        # each row is attention of one head
        return blocks.attend(*(parts[name][:, :, None] for name in QKV))[:, :, 0]

    def _clean(self, layer: int, into: Into, places: np.ndarray) -> Float[Tensor, "pair pos head d_head"]:
        return self._read(layer, into, self.model.blocks[layer].ln1(self.clean.resid[layer, places]))

    def _read(self, layer: int, into: Into, normed: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any head d_head"]:
        return self.blocks.project(layer, into, normed) + self.blocks.bias(layer, into)


@dataclass(frozen=True)
class _Written:
    """What every component wrote on both sides of a batch."""

    batch: PairBatch
    blocks: Blockwise
    clean: Float[Tensor, "batch pos sender d_model"]
    corrupt: Float[Tensor, "batch pos sender d_model"]
    logits: Float[Tensor, "batch d_vocab"]


class EdgeSets(Consumer):
    """Keeps every component's output on both sides, and then measures the clean prompts with any set of edges removed.

        input of v = (its input in the corrupt run) + Σ over kept edges u → v of (u's output now − u's corrupt output)

    So a removed edge carries the fixed corrupt run and a kept one what its sender does *now*, after the removals below
    it. Edges are numbered by their place in ``graph.exists`` (receiver × sender, flattened).

    Raises:
        InputError: the model's blocks cannot be run apart; on the first batch, when attention is of a kind that is
            not known (see ``Blockwise``).
    """

    needs_hooks = needs_corrupt_hooks = (EMBEDDED,)

    def __init__(
        self, model: Model, pairs: PromptPairs, divergence: Divergence, purpose: str = "removing sets of edges"
    ) -> None:
        self.purpose = purpose
        self.model, self.pairs, self.divergence = model, pairs, divergence
        self.residual_writes = require_whole_blocks(model, self.purpose)
        self.graph = ComponentGraph.of(model)
        self.kept: list[_Written] = []
        self.forwards = 0.0
        self._blocks = cache(lambda length: Blockwise(model, length, self.purpose))

    def update(self, batch: PairBatch) -> None:
        kept = _Written(
            batch,
            self._blocks(batch.clean.tokens.shape[1]),
            self._written(batch.tape[EMBEDDED].detach(), batch.clean),
            self._written(batch.tape.corrupt[EMBEDDED], batch.corrupt),
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
        total = reduce(torch.add, (self.values(kept, layer, gone).sum(1) for kept in self.kept))
        return (total / len(self.pairs)).tolist()

    @torch.no_grad()
    def values(
        self, kept: _Written, layer: int, gone: Bool[Tensor, "set receiver sender"]
    ) -> Float[Tensor, "set batch"]:
        """Damage to every pair of a batch by each set of removed edges."""
        logits = self._logits(self.end_residual(kept, layer, gone)).flatten(0, 1)
        n, copies = len(kept.batch.indices), len(gone)
        self.forwards += copies * n * (1 - layer / self.graph.n_layers)
        before, pairs = kept.logits.repeat(copies, 1), kept.batch.pairs * copies
        return self.divergence(before, logits, pairs).view(copies, n).cpu()

    @torch.no_grad()
    def end_residual(
        self, kept: _Written, layer: int, gone: Bool[Tensor, "set receiver sender"]
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
            q, k, v = (blocks.read(above, into, reads[:, :, :, i]) for i, into in enumerate(QKV))
            out = blocks.write(above, blocks.attend(q, k, v)).unflatten(0, moved.shape[:2])
            first = graph.head_sender(above, 0)
            heads_here = slice(first, first + graph.n_heads)
            moved[:, :, :, heads_here] = out - corrupt[:, :, heads_here]
            if graph.mlps:
                mlp_sender = graph.mlp_sender(above)
                mlp = [r for r in graph.receivers if (r.kind, r.layer) == ("mlp", above)]
                out = blocks.mlp(above, inputs(mlp)[:, :, 0]).unflatten(0, moved.shape[:2])
                moved[:, :, :, mlp_sender] = out - corrupt[:, :, mlp_sender]
        return inputs([graph.receivers[-1]])[:, -1, 0].unflatten(0, moved.shape[:2])

    def _biases(self, receiver: Receiver) -> Tensor | float:
        """Sum of the attention layers' output biases that the receiver reads; they belong to no head."""
        own_heads = receiver.kind == "mlp" and self.graph.sequential
        layers = range(receiver.layer + own_heads)
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
        return self.residual_writes.logits(self.model, self.model.ln_final(flat)).view(*resid.shape[:-1], -1)
