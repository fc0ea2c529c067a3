"""Edge attribution patching: every edge's effect estimated from one backward pass.

Syed et al. 2023 (arXiv 2310.10348), eq. 2; with a pair's own corrupt run as the replacement.

    score(u → v) = Σ_positions (z_u − z'_u) · ∂m/∂x_v |clean      mean over pairs; positive = the edge helps

z_u is what u adds to the residual stream, z' its value on the corrupt prompt, x_v the residual stream as v reads it,
before v's norm. Positions and pairs are summed before any absolute value. Edges run from the input, heads and MLPs into
q, k, v of heads, MLPs and the logits. Heads and MLPs are scored by a fold of their edges (:data:`.edge_fold.Fold`).

When it misleads: as attribution patching does (:mod:`.attribution`), edge by edge: saturated attention hides edges into
queries and keys, and the norm's scale is followed to first order only. An edge's estimate is not bounded by its node's:
large edges may cancel. ``fold="max"`` is a noisy maximum where there are few pairs, and has no value per pair; any of
the pairs can be folded again from :func:`edge_scores`. With ``fold="out"`` nodes are scored as by attribution patching,
but for heads behind a norm after attention (Gemma, GLM-4): what one writes is its share of that norm, whose scale is
held on either side; attribution patching follows it.

Scores of heads and MLPs from the scores of all their edges.

Edge attribution among chosen components: which output feeds which query, key, value or MLP input.

Edge attribution patching (:mod:`.eap`; Syed et al. 2023, arXiv 2310.10348), restricted to the components of a circuit.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.activation_tape import ActivationTape
from interp.activations.stream import (
    BASE_COST,
    BATCH_SIZE,
    Consumer,
    PairBatch,
    Progress,
    equal_length_batches,
    run_batch,
)
from interp.errors import InputError, check_fields
from interp.models import Model, Site, hooked
from interp.models.residual_writes import ResidualWrites
from interp.prompts.pairs import PromptPairs
from interp.scores.component_graph import ComponentGraph
from interp.scores.edge_gradients import Receivers, edge_products, edge_tape, written
from interp.scores.result import Cost, EdgeScore, Scores

Fold = Literal["max", "out"]
"""How a node's score comes from its edges.

``max``: the largest |edge| into or out of the node, after the mean over pairs; of the usual folds the one that ranks
heads best in the published edge scores of GPT-2's IOI. ``out``: the sum of the edges out of it, with their signs; a
node's gradient is the sum of what its readers pass back, so this is attribution of the node's output again. Not so for
heads behind a norm after attention (Gemma, GLM-4): their edges hold the norm's scale, which attribution follows.
"""

NodeScores = tuple[Float[np.ndarray, "*any layer head"], Float[np.ndarray, "*any layer"] | None]
"""Scores of heads, and of MLPs if there are any."""


def fold_edges(
    graph: ComponentGraph, matrix: Float[np.ndarray, "*any receiver sender"], fold: Fold
) -> NodeScores:
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
class EAPConfig:
    """
    Attributes:
        fold: how heads and MLPs are scored from their edges: ``max`` or ``out``.
        edges: how many of the best edges the result holds.
        batch_size: pairs per forward; a batch holds what every sender writes.
    """

    fold: Fold = "max"
    edges: int = 1000
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_fields(self)
        if self.edges < 1:
            raise InputError(f"edges {self.edges}: at least 1")


@dataclass(frozen=True)
class EdgeRun:
    """One batch of pairs, run with its graph kept: what estimators of edges start from."""

    model: Model
    pairs: PromptPairs
    graph: ComponentGraph
    batch: PairBatch
    tape: ActivationTape
    written: Float[Tensor, "batch sender pos d_model"]

    def at_clean(self) -> Receivers:
        """Gradients at the clean prompts."""
        outputs = {f"blocks.{k}.attn.hook_z": gradient for k, gradient in enumerate(self.batch.z_gradient)}
        outputs |= {
            f"blocks.{k}.hook_mlp_out": gradient for k, gradient in enumerate(self.batch.mlp_gradient)
        }
        return Receivers(self.model, self.graph, self.tape, outputs)


Estimator = Callable[[EdgeRun], tuple[Float[Tensor, "batch receiver sender"], float]]
"""Scores of all edges for the pairs of a batch, and the forward-pass equivalents spent on each beyond the base runs."""


def edge_runs(
    model: Model, pairs: PromptPairs, *, batch_size: int, consumers: Sequence[Consumer] = ()
) -> Iterator[EdgeRun]:
    """Run all pairs, batch by batch, each at :data:`BASE_COST` a pair, and update the consumers.

    Raises:
        InputError: edges cannot be attributed in this model (:class:`ResidualWrites`).
    """
    ResidualWrites.of(model).require_edges(model)
    graph = ComponentGraph.of(model)
    for indices in equal_length_batches(pairs, batch_size):
        tape = edge_tape(model)
        with hooked(model, tape.hooks):
            batch = run_batch(
                model,
                pairs,
                indices,
                gradients=True,
                patterns=any(consumer.needs_patterns for consumer in consumers),
                keep_graph=True,
            )
        for consumer in consumers:
            consumer.update(batch)
        yield EdgeRun(model, pairs, graph, batch, tape, written(model, graph, batch, tape))


@dataclass
class EdgeScores:
    """Scores of all edges.

    Attributes:
        matrix: mean over pairs.
        per_pair: every pair's matrix, where it was asked for: 1 MB a pair with 30 layers of 9 heads.
        out: for each pair the sum over receivers, so ``fold="out"`` before the mean.
        metric: side 0 is clean, 1 corrupt.
    """

    graph: ComponentGraph
    matrix: Float[np.ndarray, "receiver sender"]
    out: Float[np.ndarray, "pair sender"]
    metric: Float[np.ndarray, "side pair"]
    per_pair: Float[np.ndarray, "pair receiver sender"] | None = None
    forwards: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)


def edge_scores(
    model: Model,
    pairs: PromptPairs,
    estimator: Estimator,
    *,
    batch_size: int = EAPConfig.batch_size,
    per_pair: bool = False,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> EdgeScores:
    """Run all pairs and let ``estimator`` score their edges.

    Args:
        per_pair: keep every pair's matrix, in float32.
    """
    begin = time.perf_counter()
    graph, n = ComponentGraph.of(model), len(pairs)
    shape = (len(graph.receivers), len(graph.senders))
    scores = EdgeScores(
        graph,
        np.zeros(shape),
        np.zeros((n, shape[1])),
        np.zeros((2, n)),
        np.zeros((n, *shape), dtype=np.float32) if per_pair else None,
    )
    for run in edge_runs(model, pairs, batch_size=batch_size, consumers=consumers):
        batch, rows = run.batch, list(run.batch.indices)
        products, spent = estimator(run)
        scores.matrix += products.cpu().sum(0, dtype=torch.float64).numpy() / n
        scores.out[rows] = products.sum(1).cpu().numpy()
        if scores.per_pair is not None:
            scores.per_pair[rows] = products.cpu().numpy()
        for side, activations in enumerate((batch.clean, batch.corrupt)):
            scores.metric[side, rows] = activations.metric.cpu().numpy()
        scores.forwards += len(rows) * (BASE_COST + spent)
        if progress is not None:
            progress(len(rows))
    scores.seconds["edges"] = time.perf_counter() - begin
    return scores


WITHIN_LAYERS = 2.0
"""From z and MLP outputs back to every receiver's input: each layer's backward pass once more, not chained."""


def at_clean(run: EdgeRun) -> tuple[Float[Tensor, "batch receiver sender"], float]:
    """The estimator of edge attribution patching: gradients at the clean prompts."""
    return edge_products(run.at_clean(), run.written), WITHIN_LAYERS


def eap(
    model: Model,
    pairs: PromptPairs,
    config: EAPConfig = EAPConfig(),
    *,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score all edges, and heads and MLPs by them (module docstring).

    Args:
        consumers: fed by the same forward passes.

    Raises:
        InputError: edges cannot be attributed in this model.
    """
    found = edge_scores(
        model, pairs, at_clean, batch_size=config.batch_size, consumers=consumers, progress=progress
    )
    return node_scores("eap", found, pairs, config)


def node_scores(method: str, found: EdgeScores, pairs: PromptPairs, config: EAPConfig) -> Scores:
    """The result of an edge method: its best edges, and heads and MLPs folded from all of them."""
    heads, mlps = fold_edges(found.graph, found.matrix, config.fold)
    heads_per_pair = mlps_per_pair = None
    if config.fold == "out":
        heads_per_pair, mlps_per_pair = by_component(found.graph, found.out)
    return Scores(
        method=method,
        heads=heads,
        heads_per_pair=heads_per_pair,
        mlps=mlps,
        mlps_per_pair=mlps_per_pair,
        signed=config.fold == "out",
        cost=Cost(found.forwards, found.seconds),
        config=asdict(config),
        edges=found.graph.edges(found.matrix)[: config.edges],
        metric_clean=found.metric[0],
        metric_corrupt=found.metric[1],
        provenance=pairs.provenance(),
    )


def edge_attribution(
    model: Model,
    pairs: PromptPairs,
    sites: Sequence[Site],
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> tuple[EdgeScore, ...]:
    """Score every directed edge among ``sites`` (heads and MLPs), largest absolute score first.

    ``progress`` is told how many pairs a batch had once it is done.
    """
    if not sites:
        if progress is not None:
            progress(len(pairs))
        return ()
    names = {str(site) for site in sites}
    receiving = {(site.kind, site.layer) for site in sites}
    found = edge_scores(
        model,
        pairs,
        lambda run: (edge_products(run.at_clean(), run.written, receiving=receiving), 0.0),
        batch_size=batch_size,
        progress=progress,
    )
    rows = np.array([str(receiver) in names for receiver in found.graph.receivers])
    columns = np.array([sender in names for sender in found.graph.senders])
    return found.graph.edges(np.where(rows[:, None] & columns, found.matrix, np.nan))
