"""Edge attribution patching: every edge's effect estimated from one backward pass.

Syed et al. 2023 (arXiv 2310.10348), eq. 2; with a pair's own corrupt run as the replacement.

    score(u → v) = Σ_positions (z_u − z'_u) · ∂m/∂x_v |clean      mean over pairs; positive = the edge helps

z_u is what u adds to the residual stream, z' its value on the corrupt prompt, x_v the residual stream as v reads it,
before v's norm. Positions and pairs are summed before any absolute value. Edges run from the input, heads and MLPs into
q, k, v of heads, MLPs and the logits. Heads and MLPs are scored by a fold of their edges (:data:`Fold`). Among the
members of a circuit the same scores say which output feeds which input (:func:`attributed_edges`).

When it misleads: as attribution patching does (:mod:`.attribution`), edge by edge: saturated attention hides edges into
queries and keys, and the norm's scale is followed to first order only. An edge's estimate is not bounded by its node's:
large edges may cancel. ``fold="max"`` is a noisy maximum where there are few pairs, and has no value per pair.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from interp.activations.stream import BATCH_SIZE, ActivationTape, Consumer, PairBatch, Progress
from interp.interventions.edges import ComponentGraph
from interp.models import Model, Site
from interp.models.residual_writes import ResidualWrites
from interp.prompts.pairs import PromptPairs
from interp.scores.gradients import (
    Receivers,
    clean_metric,
    corrupt_hooks,
    edge_hooks,
    edge_products,
    edge_tape,
    in_place,
    inner_points,
    output_hooks,
    written,
)
from interp.scores.method import Context, MethodConfig, Rank, method
from interp.scores.result import Cost, ScoredEdges, Scores

Fold = Literal["max", "out"]
"""How a node's score comes from its edges.

``max``: the largest |edge| into or out of the node, after the mean over pairs; of the usual folds the one that ranks
heads best in the published edge scores of GPT-2's IOI. ``out``: the sum of the edges out of it, with their signs; a
node's gradient is the sum of what its readers pass back, so this is attribution of the node's output again. Not so for
heads behind a norm after attention (Gemma, GLM-4): what one writes is its share of that norm, whose scale is held on
either side; attribution follows it.
"""

NodeScores = tuple[Float[np.ndarray, "*any layer head"], Float[np.ndarray, "*any layer"] | None]
"""Scores of heads, and of MLPs if there are any."""


def fold_edges(graph: ComponentGraph, matrix: Float[np.ndarray, "*any receiver sender"], fold: Fold) -> NodeScores:
    """Node scores from a matrix of edge scores that holds zero where no edge is."""
    if fold == "out":
        return by_component(graph, matrix.sum(-2))
    size = np.abs(matrix)
    largest = size.max(-2)
    into = size.max(-1)[..., :-1].reshape(*size.shape[:-2], graph.n_layers, -1)
    heads, mlps = into[..., : 3 * graph.n_heads], into[..., 3 * graph.n_heads :]
    per_head = heads.reshape(*heads.shape[:-1], graph.n_heads, 3).max(-1)
    nodes = np.concatenate([per_head, mlps], axis=-1).reshape(*size.shape[:-2], -1)
    largest[..., 1:] = np.maximum(largest[..., 1:], nodes)
    return by_component(graph, largest)


def by_component(graph: ComponentGraph, per_sender: Float[np.ndarray, "*any sender"]) -> NodeScores:
    """Values of all senders as those of heads and of MLPs; the input is left out."""
    per_layer = per_sender[..., 1:].reshape(*per_sender.shape[:-1], graph.n_layers, -1)
    return per_layer[..., : graph.n_heads], per_layer[..., -1] if graph.mlps else None


@dataclass(frozen=True)
class EAPConfig(MethodConfig):
    fold: Fold = "max"  # how heads and MLPs are scored from their edges: `max` or `out`
    edges: Annotated[int, Ge(1)] = 1000  # how many of the best edges the result holds
    batch_size: int = 8  # pairs per forward; a batch holds what every sender writes


@dataclass(frozen=True)
class EdgeRun:
    """One batch of pairs, run with its graph kept: what estimators of edges start from."""

    model: Model
    pairs: PromptPairs
    graph: ComponentGraph
    batch: PairBatch
    written: Float[Tensor, "batch sender pos d_model"]

    @property
    def tape(self) -> ActivationTape:
        return self.batch.tape

    def at_clean(self) -> Receivers:
        """Gradients at the clean prompts."""
        gradients = (*self.batch.z_gradient, *self.batch.mlp_gradient)
        outputs = dict(zip(output_hooks(self.model), gradients, strict=True))
        return Receivers(self.model, self.graph, self.tape, outputs)


Estimated = tuple[Float[Tensor, "batch receiver sender"], float]
"""Scores of all edges for the pairs of a batch, and the forward-pass equivalents spent on each beyond the base runs."""
Estimator = Callable[[EdgeRun], Estimated]


def edge_runs(context: Context, *consumers: Consumer, share: float = 1.0) -> Iterator[EdgeRun]:
    """Run all pairs, batch by batch, with gradients; see :meth:`Context.batches`. Raises :class:`InputError` where
    edges cannot be attributed in this model (:class:`ResidualWrites`)."""
    model = context.model
    ResidualWrites.of(model).require_edges(model)
    graph = ComponentGraph.of(model)
    hooks, watch = edge_hooks(model)
    for batch in context.batches(
        *consumers,
        gradients=True,
        share=share,
        hooks=hooks,
        corrupt_hooks=corrupt_hooks(model),
        watch=watch,
        keep_graph=True,
    ):
        change = written(model, graph, batch, (batch.tape, batch.tape.corrupt))
        yield EdgeRun(model, context.pairs, graph, batch, change)


def path_points(
    run: EdgeRun, hook: str, clean: Tensor, corrupt: Tensor, steps: int, layer: int = 0
) -> Iterator[Receivers]:
    """Gradients of the clean prompts with what passes at ``hook`` at the path's points short of clean."""
    resid_pre = run.tape[f"blocks.{layer}.ln1.hook_in"].detach()
    outputs = ["attn.hook_z", *["hook_mlp_out"] * run.graph.mlps]
    names = [f"blocks.{k}.{name}" for k in range(layer, run.graph.n_layers) for name in outputs]
    for leaf in inner_points(clean, corrupt, steps):
        tape = edge_tape(run.model, layer)
        hooks = {**tape.hooks, hook: in_place(leaf)}
        values = clean_metric(run.model, run.batch, run.pairs.metric, hooks, layer=layer, resid_pre=resid_pre)
        # what lies beside or before the leaf is no part of its graph
        wanted = [name for name in names if name != hook and tape[name].requires_grad]
        # the leaf too: after the last layer's heads there may be nothing else, and the tape watches what is passed
        at_leaf_and = [leaf, *(tape[name] for name in wanted)]
        gradients = torch.autograd.grad(values.sum(), at_leaf_and, retain_graph=True)
        yield Receivers(run.model, run.graph, tape, dict(zip(wanted, gradients[1:], strict=True)))


@dataclass
class EdgeScores:
    """Scores of all edges: ``matrix`` is the mean over pairs; ``out`` the sum over receivers for each pair;
    ``per_pair``, where it was asked for, every pair's matrix: 1 MB a pair with 30 layers of 9 heads."""

    graph: ComponentGraph
    matrix: Float[np.ndarray, "receiver sender"]
    out: Float[np.ndarray, "pair sender"]
    per_pair: Float[np.ndarray, "pair receiver sender"] | None = None


def edge_scores(context: Context, estimator: Estimator, *, per_pair: bool = False) -> EdgeScores:
    """Run all pairs and let ``estimator`` score their edges; ``per_pair`` keeps every pair's matrix, in float32."""
    graph, n = ComponentGraph.of(context.model), len(context.pairs)
    shape = (len(graph.receivers), len(graph.senders))
    kept = np.zeros((n, *shape), dtype=np.float32) if per_pair else None
    scores = EdgeScores(graph, np.zeros(shape), np.zeros((n, shape[1])), kept)
    for run in edge_runs(context):
        rows = list(run.batch.indices)
        products, spent = estimator(run)
        scores.matrix += products.cpu().sum(0, dtype=torch.float64).numpy() / n
        scores.out[rows] = products.sum(1).cpu().numpy()
        if kept is not None:
            kept[rows] = products.cpu().numpy()
        context.forwards += len(rows) * spent
    return scores


WITHIN_LAYERS = 2.0
"""From z and MLP outputs back to every receiver's input: each layer's backward pass once more, not chained."""


def at_clean(run: EdgeRun) -> Estimated:
    """The estimator of edge attribution patching: gradients at the clean prompts."""
    return edge_products(run.at_clean(), run.written), WITHIN_LAYERS


def subsets_of(context: Context, estimator: Estimator) -> Rank:
    """Every pair's edges; heads are folded from each subset's mean edges."""
    scores = edge_scores(context, estimator, per_pair=True)
    per_pair = scores.per_pair
    assert per_pair is not None

    def rank(indices: list[int], config: EAPConfig) -> tuple[np.ndarray, float]:
        mean = per_pair[indices].mean(0, dtype=np.float64)
        return fold_edges(scores.graph, mean, config.fold)[0], 0.0

    return rank


def scored_by_edges(context: Context, estimator: Estimator) -> Scores:
    """The result of an edge method: its best edges, and heads and MLPs folded from all of them."""
    scores, config = edge_scores(context, estimator), context.config
    edges = scores.graph.edges(scores.matrix)[: config.edges]
    heads, mlps = fold_edges(scores.graph, scores.matrix, config.fold)
    if config.fold != "out":
        return Scores(heads, mlps=mlps, signed=False, edges=edges)
    heads_per_pair, mlps_per_pair = by_component(scores.graph, scores.out)
    return Scores(heads, heads_per_pair, mlps, mlps_per_pair, edges=edges)


@method(config=EAPConfig, subsets=lambda context: subsets_of(context, at_clean))
def eap(context: Context) -> Scores:
    """Score all edges, and heads and MLPs by them (module docstring)."""
    return scored_by_edges(context, at_clean)


ATTRIBUTED_EDGE_PAIRS = 32
"""Pairs that edge attribution is averaged over: they rank edges among members, which are already checked."""


def attributed_edges(
    model: Model,
    pairs: PromptPairs,
    _scores: Scores | None = None,
    *,
    sites: Sequence[Site],
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> ScoredEdges:
    """Score every directed edge among ``sites`` by attribution, largest absolute score first, from the first
    :data:`ATTRIBUTED_EDGE_PAIRS`; no edges where they cannot be attributed in this model."""
    begin, subset = time.perf_counter(), pairs.subset(range(min(ATTRIBUTED_EDGE_PAIRS, len(pairs))))
    context = Context(model, subset, MethodConfig(batch_size), progress=progress)
    if not sites or not ResidualWrites.of(model).has_edges:
        context.report_progress(1.0)
        return ScoredEdges()
    names = {str(site) for site in sites}
    receiving = {(site.kind, site.layer) for site in sites}
    scores = edge_scores(
        context, lambda run: (edge_products(run.at_clean(), run.written, receiving=receiving), WITHIN_LAYERS)
    )
    rows = np.array([str(receiver) in names for receiver in scores.graph.receivers])
    columns = np.array([sender in names for sender in scores.graph.senders])
    edges = scores.graph.edges(np.where(rows[:, None] & columns, scores.matrix, np.nan))
    return ScoredEdges(edges, cost=Cost(context.forwards, time.perf_counter() - begin))
