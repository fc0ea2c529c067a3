"""Path patching of single edges, from one set of base runs: for whoever chooses edges as he goes.

Removing one edge u → v's query, key or value changes what v writes and nothing else at v's layer:

    z_v(edge removed) = attention of v, its one input read from x − (z_u − z'_u) W_O

(Wang et al. 2022, arXiv 2211.00593, section 3; everything after v follows.) So an edge is measured as a head is
swapped: v's output is computed in one small attention of its own and put in the place of its clean one, and only the
layers from v's on are run (:class:`~interp.scores.swaps.Swaps`). An edge therefore costs what a swap of its receiver
costs, and edges into many receivers of a layer share a batch.

Equals :class:`~interp.scores.edge_patching.EdgePatching` of sets of one edge, which runs every component apart and so
takes any set.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models import Model, Site
from interp.models.blockwise import Blockwise
from interp.scores.eap import EdgeRun
from interp.scores.edge_proposals import EdgeList
from interp.scores.patching import SWAP_ROWS
from interp.scores.swaps import Swaps

PURPOSE = "path patching of edges"


@dataclass(frozen=True)
class _Kept:
    blocks: Blockwise
    resid: Float[Tensor, "layer batch pos d_model"]
    difference: Float[Tensor, "layer batch pos head d_head"]


class EdgeSwaps:
    """Exact effects of single edges between heads.

    Args:
        swaps: fed by the same runs that :meth:`keep` is given.
    """

    def __init__(self, model: Model, swaps: Swaps) -> None:
        self.model, self.swaps = model, swaps
        self._kept: list[_Kept] = []
        self._where: dict[int, tuple[int, int]] = {}
        self._blocks: dict[int, Blockwise] = {}

    def keep(self, run: EdgeRun) -> None:
        """Keep what a batch's edges need: residual streams, and what the senders' outputs differ by.

        Raises:
            InputError: attention is of a kind that is not known, or a norm or a factor stands after it (see
                ``Blockwise``).
        """
        length = run.batch.clean.tokens.shape[1]
        if length not in self._blocks:
            self._blocks[length] = Blockwise(self.model, length, PURPOSE)
        layers = range(self.model.cfg.n_layers)
        resid = torch.stack([run.tape[f"blocks.{layer}.ln1.hook_in"].detach() for layer in layers])
        sides = (torch.stack(side.z) for side in (run.batch.clean, run.batch.corrupt))
        kept = _Kept(self._blocks[length], resid, next(sides) - next(sides))
        last = len(layers) - 1
        z = kept.blocks.attend(*(self._clean(kept, last, into) for into in "qkv"))
        kept.blocks.check(z, run.batch.clean.z[last])
        for row, index in enumerate(run.batch.indices):
            self._where[index] = (len(self._kept), row)
        self._kept.append(kept)

    def effects(
        self,
        pairs: Int[np.ndarray, " edge"],
        edges: EdgeList,
    ) -> tuple[Float[np.ndarray, " edge"], float]:
        """Fall of the metric when one edge is removed on one pair, an edge and a pair a row; and the cost."""
        layers, heads, inputs = edges.of_receivers("layer"), edges.of_receivers("head"), edges.into
        batches = np.array([self._where[int(pair)][0] for pair in pairs], dtype=int)
        groups = sorted(set(zip(batches.tolist(), layers.tolist(), inputs.tolist(), strict=True)))
        given: list[Tensor] = [torch.empty(0)] * len(pairs)
        for batch, layer, into in groups:
            some = np.flatnonzero((batches == batch) & (layers == layer) & (inputs == into))
            for begin in range(0, len(some), SWAP_ROWS):
                chunk = some[begin : begin + SWAP_ROWS]
                rows = [self._where[int(pair)][1] for pair in pairs[chunk]]
                senders = [edges.sites[place] for place in edges.sender[chunk]]
                z = self._replaced(self._kept[batch], layer, into, rows, heads[chunk], senders)
                for place, one in zip(chunk, z, strict=True):
                    given[place] = one[self.swaps.first_position(int(pairs[place])) :]
        return self.swaps.priced(pairs, layers, heads, given)

    @torch.no_grad()
    def _replaced(
        self, kept: _Kept, layer: int, into: str, rows: list[int], heads: np.ndarray, senders: list[Site]
    ) -> Float[Tensor, "edge pos d_head"]:
        chosen, blocks = torch.from_numpy(heads), kept.blocks
        below, of = [site.layer for site in senders], [site.head for site in senders]
        outputs = torch.stack([self.model.blocks[site.layer].attn.W_O[site.head] for site in senders])
        reads = kept.resid[layer, rows] - kept.difference[below, rows, :, of] @ outputs
        weight, _ = blocks.weight(layer, into)
        of_head = blocks.per_query_head(weight, 0)[chosen]
        changed = self.model.blocks[layer].ln1(reads) @ of_head
        bias = blocks.bias(layer, into)
        if bias is not None:
            changed = changed + bias[chosen, None]
        parts = {name: self._clean(kept, layer, name)[rows, :, chosen] for name in "qkv" if name != into}
        parts[into] = changed
        # each row is attention of one head
        return blocks.attend(*(parts[name][:, :, None] for name in "qkv"))[:, :, 0]

    @torch.no_grad()
    def _clean(self, kept: _Kept, layer: int, into: str) -> Float[Tensor, "batch pos head d_head"]:
        found = kept.blocks.project(layer, into, self.model.blocks[layer].ln1(kept.resid[layer]))
        bias = kept.blocks.bias(layer, into)
        return found if bias is None else found + bias
