"""Information flow routes: how much of what END becomes passed through each head, by closeness of vectors.

Ferrando & Voita 2024 (arXiv 2403.00824). No corrupt prompt and no gradient: one forward of the clean prompts.

1. Each residual vector is a sum of parts, y = Σ_j z_j: after attention, the vector before it and one part per head
   and source position, α_ij v_j W_O (v as the model computes it, so norms are exact and frozen; query heads that share
   values have parts of their own); after the MLP, the vector before it and the MLP's output.
2. proximity(z, y) = max(0, ‖y‖₁ − ‖y − z‖₁); importance = proximity / Σ of the proximities of all parts of y.
   The layer's output bias is no part, as in the authors' code.
3. Top-down from END after the last layer: the route at threshold τ holds every edge of importance > τ whose upper end
   is in the route. A component's score is the largest τ at which it still is (``combine="threshold"``): the widest
   path. ``combine="flow"`` lets END's importance of 1 run down, divided by the importances, and sums what passes.

Edges: sender → value input of a head, → MLP, → logits: importance of the sender's output in the residual vector that is
read, combined with how far that reader is in the route (the product for ``flow``, the smaller for ``threshold``).
Patterns are taken as given, so nothing is said about queries and keys.

When it misleads: it answers "what is END made of", not "what makes the difference to the answer": heads that serve
any prompt (the first layers, attention to BOS) score as high as the task's own, a long vector counts although nothing
reads it, inhibition heads act through queries and get no credit for that, and a head that writes *against* the sum has
proximity 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.stream import Consumer, PairBatch
from interp.interventions.edges import ComponentGraph, Receiver
from interp.models import Model
from interp.models.residual_writes import ResidualWrites
from interp.scores.method import Context, MethodConfig, method
from interp.scores.result import Scores


@dataclass(frozen=True)
class FlowRoutesConfig(MethodConfig):
    # `threshold`: the largest threshold at which the component is in the route; `flow`: the share of END that passed
    # through it
    combine: Literal["threshold", "flow"] = "threshold"


@method(config=FlowRoutesConfig)
def flow_routes(context: Context) -> Scores:
    """Score heads, MLPs and edges by information flow routes (module docstring); the corrupt prompts are run for the
    metric only."""
    routes = _Routes(context.model, len(context.pairs), context.config.combine)
    context.run(routes)
    return Scores.from_pairs(
        routes.heads,
        routes.mlps if routes.graph.mlps else None,
        signed=False,
        edges=routes.graph.edges(routes.edges / len(context.pairs)),
    )


def importances(
    parts: Float[Tensor, "pos part d_model"], whole: Float[Tensor, "pos d_model"]
) -> Float[Tensor, "pos part"]:
    """Proximity of each part to the whole, over the sum of all parts' (all zero where no part is near)."""
    return _shares(_near(parts, whole))


def _near(parts: Float[Tensor, "pos part d_model"], whole: Float[Tensor, "pos d_model"]) -> Tensor:
    # a position at a time: its differences stay in the processor's cache, ten times as fast
    return torch.stack([_proximity(part - y, y) for part, y in zip(parts, whole, strict=True)])


def _proximity(difference: Float[Tensor, "part d_model"], whole: Float[Tensor, " d_model"]) -> Tensor:
    """max(0, ‖whole‖₁ − ‖part − whole‖₁); ``difference`` is part − whole or its negative, and is overwritten."""
    return (whole.abs().sum() - difference.abs_().sum(-1)).clamp_min_(0)


def _shares(near: Tensor) -> Tensor:
    return near / near.sum(-1, keepdim=True).clamp_min(torch.finfo(near.dtype).tiny)


class _Routes(Consumer):
    """Follows each clean prompt's route down from END, one prompt at a time."""

    needs_patterns = True

    def __init__(self, model: Model, n_pairs: int, combine: str) -> None:
        self.residual_writes = ResidualWrites.of(model)
        self.residual_writes.require_additive(model, "flow-routes")
        self.model, self.graph = model, ComponentGraph.of(model)
        self.along = torch.minimum if combine == "threshold" else torch.mul
        self.over = torch.amax if combine == "threshold" else torch.sum
        self.heads = np.zeros((n_pairs, self.graph.n_layers, self.graph.n_heads))
        self.mlps = np.zeros((n_pairs, self.graph.n_layers))
        self.edges = np.full((len(self.graph.receivers), len(self.graph.senders)), np.nan)
        self.rows = {receiver: row for row, receiver in enumerate(self.graph.receivers)}
        self.edges[[row for receiver, row in self.rows.items() if receiver.into in ("v", None)]] = 0.0
        layers = range(self.graph.n_layers)
        points = ["hook_resid_pre", "attn.hook_v"]
        points += ["hook_resid_mid"] * (self.graph.mlps and self.graph.sequential)
        self.needs_hooks = [f"blocks.{layer}.{point}" for layer in layers for point in points]
        self.needs_hooks.append(f"blocks.{layers[-1]}.hook_resid_post")

    def update(self, batch: PairBatch) -> None:
        for row, index in enumerate(batch.indices):
            self._route(batch, row, index)

    @torch.no_grad()
    def _route(self, batch: PairBatch, row: int, index: int) -> None:
        graph, last = self.graph, self.graph.n_layers - 1
        post = batch.tape[f"blocks.{last}.hook_resid_post"][row].float()
        written = self._written(batch, row)
        reach = torch.zeros(len(post), device=post.device)
        reach[-1] = 1.0
        self._add_edges(graph.receivers[-1:], post, written, reach[:, None])
        for layer in range(last, -1, -1):
            pre = batch.tape[f"blocks.{layer}.hook_resid_pre"][row].float()
            mlp = batch.clean.mlp[layer][row].float() if graph.mlps else None
            if mlp is not None and graph.sequential:
                mid = batch.tape[f"blocks.{layer}.hook_resid_mid"][row].float()
                through = self.along(reach[:, None], importances(torch.stack([mid, mlp], 1), post))
                self._mlp(index, layer, through[:, 1], mid, written)
                reach, post, mlp = self.over(through, 1), mid, None
            # in a parallel block one vector is the sum of all three kinds of part
            others = torch.stack([pre] if mlp is None else [pre, mlp], 1)
            near = torch.cat([self._near_heads(batch, row, layer, post), _near(others, post)], 1)
            through = self.along(reach[:, None], _shares(near))
            heads, others = through.split([near.shape[1] - others.shape[1], others.shape[1]], 1)
            by_head = heads.unflatten(1, (len(pre), graph.n_heads))
            reads = self.over(by_head, 0)  # [key, head]
            self.heads[index, layer] = self.over(reads, 0).cpu().numpy()
            receivers = [r for r in graph.receivers if r.layer == layer and r.into == "v"]
            self._add_edges(receivers, pre, written, reads)
            if mlp is not None:
                self._mlp(index, layer, others[:, 1], pre, written)
            reach, post = self.over(torch.cat([others, self.over(reads, 1)[:, None]], 1), 1), pre

    def _mlp(self, index: int, layer: int, through: Tensor, read: Tensor, written: Tensor) -> None:
        self.mlps[index, layer] = self.over(through, 0).item()
        receivers = [r for r in self.graph.receivers if r.layer == layer and r.kind == "mlp"]
        self._add_edges(receivers, read, written, through[:, None])

    def _add_edges(self, receivers: Sequence[Receiver], read: Tensor, written: Tensor, reach: Tensor) -> None:
        """Add edges into receivers that read one residual stream; ``reach`` is [pos, receiver]."""
        count = self.graph.reads(receivers[0])
        shares = importances(written[:, :count], read)  # [pos, sender]
        flow = self.over(self.along(reach[:, :, None], shares[:, None]), 0)
        self.edges[[self.rows[r] for r in receivers], :count] += flow.cpu().numpy()

    def _written(self, batch: PairBatch, row: int) -> Float[Tensor, "pos sender d_model"]:
        """What each sender adds to the residual stream."""
        parts = [batch.tape["blocks.0.hook_resid_pre"][row, :, None]]
        for layer in range(self.graph.n_layers):
            weight = self.residual_writes.output_weight(self.model, layer)
            parts.append(torch.einsum("phd,hdm->phm", batch.clean.z[layer][row], weight))
            if self.graph.mlps:
                parts.append(batch.clean.mlp[layer][row, :, None])
        return torch.cat([part.float() for part in parts], 1)

    def _near_heads(
        self, batch: PairBatch, row: int, layer: int, whole: Float[Tensor, "query d_model"]
    ) -> Float[Tensor, "query key_head"]:
        """Proximity of what each head brings from each position, α v W_O, to what stands at the later one."""
        v = batch.tape[f"blocks.{layer}.attn.hook_v"][row]
        v = v.repeat_interleave(self.graph.n_heads // v.shape[1], 1)
        weight = self.residual_writes.output_weight(self.model, layer)
        sources = torch.einsum("khd,hdm->khm", v, weight).float().flatten(0, 1)
        pattern = batch.clean.pattern[layer][row].float().permute(1, 2, 0).flatten(1)  # [query, key × head]
        near = torch.zeros_like(pattern)
        for query, y in enumerate(whole):
            reached = (query + 1) * self.graph.n_heads
            difference = torch.addcmul(y, sources[:reached], pattern[query, :reached, None], value=-1)
            near[query, :reached] = _proximity(difference, y)
        return near
