"""First-order effects of the edges among heads, four ways, from one batch of runs.

1. **Attribution**: Σ over positions (z_u − z'_u) W_O · ∂m/∂x_v (:mod:`interp.scores.eap`).
2. **Code vectors**: the same between u's codes at the roles, c(clean) − c(corrupt), in place of its outputs.
3. **Half-way**: attribution with the gradient taken at the mean of the clean and the corrupt prompt's embeddings, the
   inner point of the shortest path of integrated gradients (:mod:`interp.scores.eap_ig` with two steps).
4. **With others off**: attribution in a run where every head is half off (:mod:`.redundancy`).

The last two see edges into saturated softmaxes and into gates that another edge holds open, where 1 and 2 are blind.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.models import Site
from interp.models.wiring import Wiring
from interp.scores.component_graph import ComponentGraph
from interp.scores.eap import EdgeRun
from interp.scores.eap_ig import path_points
from interp.scores.edge_gradients import EMBEDDED, Receivers, edge_tape, written
from interp.scores.head_codes import HeadCodes
from interp.scores.interpolation import clean_metric
from interp.scores.redundancy import HALF_ON


@dataclass(frozen=True)
class EdgeList:
    """All edges from a head to the query, key or value of a later layer's head, among chosen heads.

    Attributes:
        sites: the heads, in reading order.
        sender, receiver: places in ``sites`` of each edge's ends.
        into: ``q``, ``k`` or ``v`` of each edge.
    """

    sites: tuple[Site, ...]
    sender: np.ndarray
    receiver: np.ndarray
    into: np.ndarray

    @classmethod
    def among(cls, sites: Sequence[Site]) -> "EdgeList":
        sites = tuple(sorted(set(sites), key=lambda site: (site.layer, site.head)))
        ends = [
            (u, v, into)
            for v, receiver in enumerate(sites)
            for u, sender in enumerate(sites)
            if sender.layer < receiver.layer
            for into in "qkv"
        ]
        sender, receiver, into = (np.array(part) for part in zip(*ends, strict=True)) if ends else _nothing()
        return cls(sites, sender, receiver, into)

    def __len__(self) -> int:
        return len(self.sender)

    def of_receivers(self, attribute: str) -> np.ndarray:
        """``layer`` or ``head`` of every edge's receiver."""
        return np.array([getattr(site, attribute) for site in self.sites], dtype=int)[self.receiver]

    def written(self, run: EdgeRun) -> Float[Tensor, "batch site pos d_model"]:
        """What each head writes on the clean prompts less what it writes on the corrupt ones."""
        return run.written[:, self._senders(run.graph)]

    def _senders(self, graph: ComponentGraph) -> list[int]:
        return [graph.head_sender(site.layer, site.head) for site in self.sites]

    def subset(self, chosen: np.ndarray) -> "EdgeList":
        """Some of the edges."""
        return replace(
            self, sender=self.sender[chosen], receiver=self.receiver[chosen], into=self.into[chosen]
        )


def _nothing() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.empty(0, dtype=int), np.empty(0, dtype=int), np.empty(0, dtype=str)


def edge_products_among(
    receivers: Receivers, edges: EdgeList, written: Sequence[Float[Tensor, "batch site pos d_model"]]
) -> list[Float[np.ndarray, "batch edge"]]:
    """Σ over positions of what each edge's sender wrote, in each of some versions, · the gradient at its receiver."""
    sites, flat = len(edges.sites), [version.flatten(2) for version in written]
    tables = [np.zeros((len(flat[0]), sites, 3, sites), dtype=np.float32) for _ in flat]
    layers = [site.layer for site in edges.sites]
    for layer in sorted({layers[place] for place in edges.receiver}):
        here, before = slice(layers.index(layer), bisect_right(layers, layer)), layers.index(layer)
        heads = [site.head for site in edges.sites[here]]
        gradients = receivers.heads(layer).unflatten(1, (-1, 3))[:, heads].flatten(3)
        for table, version in zip(tables, flat, strict=True):
            found = torch.einsum("bric,bsc->bris", gradients, version[:, :before])
            table[:, here, :, :before] = found.detach().cpu().numpy()
    into = np.array(["qkv".index(one) for one in edges.into], dtype=int)
    return [table[:, edges.receiver, into, edges.sender] for table in tables]


def written_codes(run: EdgeRun, edges: EdgeList, codes: HeadCodes) -> Float[Tensor, "batch site pos d_model"]:
    """What each head's change of codes at the roles writes; nothing elsewhere.

    Args:
        codes: of each head's own codebook; its first pairs are those of the run.
    """
    pairs, rows = run.batch.pairs, list(run.batch.indices)
    where = torch.tensor(
        [
            [pair.positions.get(role, -1) for role in codes.roles] for pair in pairs
        ]  # the last token has no role
    )
    wiring = Wiring.of(run.model)
    weights = [wiring.output_weight(run.model, site.layer)[site.head] for site in edges.sites]
    found = weights[0].new_zeros(len(pairs), len(edges.sites), len(pairs[0].clean_tokens), len(weights[0][0]))
    for place, (site, weight) in enumerate(zip(edges.sites, weights, strict=True)):
        book = codes.dictionary.codes[site.layer * run.graph.n_heads + site.head].detach()
        vectors = book[torch.from_numpy(codes.ids[:, rows][..., site.layer, site.head].astype(np.int64))]
        change = (vectors[0] - vectors[1]).to(weight) @ weight
        found[torch.arange(len(pairs))[:, None], place, where] = change
    return found.float()


def halfway_products(run: EdgeRun, edges: EdgeList) -> Float[np.ndarray, "batch edge"]:
    """Attribution of edges with the gradient half-way from the corrupt to the clean prompts."""
    (halfway,) = path_points(run, EMBEDDED, run.tape[EMBEDDED], run.tape.first(EMBEDDED), 2)
    return edge_products_among(halfway, edges, [edges.written(run)])[0]


def partial_products(
    run: EdgeRun, edges: EdgeList, share: float = HALF_ON
) -> Float[np.ndarray, "batch edge"]:
    """Attribution of edges in a clean run where ``share`` of each head stays on, the rest being its corrupt output."""
    model, graph, corrupt = run.model, run.graph, run.batch.corrupt.z
    tape = edge_tape(model)

    def mix(layer: int):
        watch = tape.hooks[f"blocks.{layer}.attn.hook_z"]

        def hook(z: Tensor) -> Tensor:
            return torch.lerp(corrupt[layer].to(z.dtype), watch(z), share)

        return hook

    def begin(embedded: Tensor) -> Tensor:
        # every parameter is frozen: the graph begins at the first block's input
        return tape.hooks[EMBEDDED](embedded.detach().requires_grad_(True))

    names = [f"blocks.{layer}.attn.hook_z" for layer in range(graph.n_layers)]
    hooks = {**tape.hooks, EMBEDDED: begin, **{name: mix(layer) for layer, name in enumerate(names)}}
    metric = clean_metric(model, run.batch, run.pairs.metric, hooks)
    live = [tape[name] for name in names]
    # of the mixture: what is live holds only its share of that
    gradients = [g / share for g in torch.autograd.grad(metric.sum(), live, retain_graph=True)]
    receivers = Receivers(model, graph, tape, dict(zip(names, gradients, strict=True)))
    there = replace(run.batch, clean=replace(run.batch.clean, z=tuple(z.detach() for z in live)))
    differences = replace(run, batch=there, written=written(model, graph, there, tape).detach())
    return edge_products_among(receivers, edges, [edges.written(differences)])[0]
