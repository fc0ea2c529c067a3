"""Edges of the finder ``adaptive-patching``: gradients propose, path patching decides where it is uncertain.

Directed edges from a head to the query, key or value of a head in a later layer:

1. **Propose** (16 forward-pass equivalents a pair): the effect of every edge u → v to first order, from one batch of
   runs. *Attribution* is Σ over positions (z_u − z'_u) W_O · ∂m/∂x_v (:mod:`interp.scores.eap`). *Codes* is the same
   between u's codes at the roles in place of its outputs. *Half-way* takes the gradient at the mean of the clean and
   the corrupt prompt's embeddings, the inner point of integrated gradients with two steps
   (:mod:`interp.scores.eap_ig`). *Partial* takes it in a run where every head is half off (:mod:`.partial_ablation`).
   The last two see edges into saturated softmaxes and into gates that another edge holds open; the first two are blind
   there.
2. **Measure** (``budget`` more): path patching of single edges on single pairs (``EdgePatcher``), spent on
   those edges among the ``candidates`` best of which it is open whether their effect is above ``threshold`` of the gap.
   What the mean of attribution at the clean prompt and half-way gets wrong on the pairs measured corrects it on all
   (:mod:`.posterior`).

An edge's score is the size that its effect is expected to have, as far as it is above the threshold
(:mod:`.posterior`), with the sign of its effect; edges with no effect of their own follow, by what they have half-way
and with others off. Codes do not enter the score: they tell what an edge carries, as does the information that the
sender's code gives about the receiver's (:func:`conditional_information`).

When it misleads: as single-edge patching does. Of two edges that carry the same, neither has an effect; only the order
of those without one then tells. Where a norm or a factor stands between heads and the residual stream, or attention is
of an unknown kind, nothing is measured and attribution is all there is.
"""

import contextlib
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Interval
from jaxtyping import Float, Int
from torch import Tensor

from interp import THRESHOLD
from interp.activations.stream import BASE_COST, FORWARD_AND_BACKWARD, Progress
from interp.errors import InputError
from interp.interventions.clean_run import CleanRun
from interp.interventions.edges import EMBEDDED, EdgeList, EdgePatcher, EdgeScore
from interp.models import HookFunction, Model, Site
from interp.models.residual_writes import ResidualWrites
from interp.models.sites import components
from interp.prompts.pairs import PromptPairs
from interp.scores.adaptive_patching.partial_ablation import HALF_ON
from interp.scores.adaptive_patching.posterior import TIE_BREAK, EffectEstimates
from interp.scores.adaptive_patching.role_codes import RoleCodes
from interp.scores.eap import WITHIN_LAYERS, EdgeRun, attributed_edges, edge_runs, path_points
from interp.scores.gradients import Receivers, clean_metric, edge_tape, written
from interp.scores.method import Context, MethodConfig
from interp.scores.result import Cost, EdgeEvidence, ScoredEdges, Scores

PARTIAL_WEIGHT = 0.01
"""How an effect half-way or with others off counts beside one at the clean prompt: enough to order the others."""
PROPOSING_COST = BASE_COST + WITHIN_LAYERS + 2 * (FORWARD_AND_BACKWARD + WITHIN_LAYERS)
DISCOVERY_BUDGET = 4.0
"""Of a discovery, which takes 20 passes a pair for edges: on IOI it ranks them as 10 do (benchmarks/REPORT.md)."""
PROPOSING = 0.5  # of the time, roughly; path patching takes the other half


@dataclass(frozen=True)
class PatchedEdgesConfig(MethodConfig):
    """
    Attributes:
        threshold: share of the clean–corrupt gap from which on an edge's effect counts.
        budget: forward-pass equivalents a pair for path patching; the default makes 26 in all, EAP-IG's cost.
        candidates: edges that may be measured, the best by attribution at the clean prompt or half-way.
        edges: how many of the best edges the result holds.
        least_pairs, most_pairs: of a discovery, which scores edges on a third of its pairs: heads cost a third as much
            a pair.
        batch_size: pairs per forward; a batch holds its graph and what every component writes.
    """

    threshold: Annotated[float, Interval(gt=0, lt=1)] = THRESHOLD
    budget: Annotated[float, Ge(0)] = 10.0
    candidates: Annotated[int, Ge(1)] = 1000
    edges: Annotated[int, Ge(1)] = 1000
    least_pairs: Annotated[int, Ge(1)] = 5
    most_pairs: Annotated[int, Ge(1)] = 16
    batch_size: int = 8

    def n_pairs(self, available: int) -> int:
        """How many of a discovery's pairs its edges are scored on."""
        return min(self.most_pairs, max(self.least_pairs, available // 3), available)


def written_among(run: EdgeRun, edges: EdgeList) -> Float[Tensor, "batch site pos d_model"]:
    """What each head writes on the clean prompts less what it writes on the corrupt ones."""
    return run.written[:, [run.graph.head_sender(site.layer, site.head or 0) for site in edges.sites]]


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
            products = torch.einsum("bric,bsc->bris", gradients, version[:, :before])
            table[:, here, :, :before] = products.detach().cpu().numpy()
    into = np.array(["qkv".index(letter) for letter in edges.into], dtype=int)
    return [table[:, edges.receiver, into, edges.sender] for table in tables]


def written_codes(run: EdgeRun, edges: EdgeList, codes: RoleCodes) -> Float[Tensor, "batch site pos d_model"]:
    """What each head's change of codes at the roles writes; nothing elsewhere. The first pairs of ``codes`` are those
    of the run."""
    pairs, rows = run.batch.pairs, list(run.batch.indices)
    # the last token has no role
    positions = torch.tensor([[pair.positions.get(role, -1) for role in codes.roles] for pair in pairs])
    residual_writes = ResidualWrites.of(run.model)
    weights = [residual_writes.output_weight(run.model, site.layer)[site.head] for site in edges.sites]
    shape = (len(pairs), len(edges.sites), len(pairs[0].clean_tokens), weights[0].shape[1])
    changes = weights[0].new_zeros(shape)
    for place, (site, weight) in enumerate(zip(edges.sites, weights, strict=True)):
        clean, corrupt = codes.vectors(site.layer, site.head or 0)[:, rows]
        change = (clean - corrupt).to(weight) @ weight
        changes[torch.arange(len(pairs))[:, None], place, positions] = change
    return changes.float()


def halfway_products(run: EdgeRun, edges: EdgeList) -> Float[np.ndarray, "batch edge"]:
    """Attribution of edges with the gradient half-way from the corrupt to the clean prompts."""
    (halfway,) = path_points(run, EMBEDDED, run.tape[EMBEDDED], run.tape.corrupt[EMBEDDED], 2)
    return edge_products_among(halfway, edges, [written_among(run, edges)])[0]


def partial_products(run: EdgeRun, edges: EdgeList, share: float = HALF_ON) -> Float[np.ndarray, "batch edge"]:
    """Attribution of edges in a clean run where ``share`` of each head stays on, the rest being its corrupt output."""
    model, graph, corrupt = run.model, run.graph, run.batch.corrupt.z
    tape = edge_tape(model)

    def mix(layer: int) -> HookFunction:
        watch = tape.hooks[f"blocks.{layer}.attn.hook_z"]

        def hook(z: Tensor) -> Tensor:
            watched = watch(z)
            return torch.lerp(corrupt[layer].to(z.dtype), z if watched is None else watched, share)

        return hook

    def begin(embedded: Tensor) -> Tensor | None:
        # every parameter is frozen: the graph begins at the first block's input
        return tape.hooks[EMBEDDED](embedded.detach().requires_grad_(True))

    names = [f"blocks.{layer}.attn.hook_z" for layer in range(graph.n_layers)]
    hooks = {**tape.hooks, EMBEDDED: begin, **{name: mix(layer) for layer, name in enumerate(names)}}
    metric = clean_metric(model, run.batch, run.pairs.metric, hooks)
    live = [tape[name] for name in names]
    # of the mixture: what is live holds only its share of that
    gradients = [g / share for g in torch.autograd.grad(metric.sum(), live, retain_graph=True)]
    receivers = Receivers(model, graph, tape, dict(zip(names, gradients, strict=True)))
    mixed = replace(run.batch, clean=replace(run.batch.clean, z=tuple(z.detach() for z in live)))
    differences = replace(run, batch=mixed, written=written(model, graph, mixed, (tape, tape)).detach())
    return edge_products_among(receivers, edges, [written_among(differences, edges)])[0]


def conditional_information(
    ids: Int[np.ndarray, "side pair slot head"],
) -> Float[np.ndarray, "head slot other other_slot"]:
    """Information of every head's code at every slot about every other's, given the side, in bits: the mean of both.

    Clean and corrupt prompts differ in many heads at once, so two heads' codes agree across the sides whether or not
    one listens to the other; what is left within a side is I(u at role s; v at role r | side). The bias of few prompts
    is taken off to first order (Miller 1955; Panzeri & Treves 1996, *Network* 7:87). It is a correlation: two heads
    that read the same token go together and no edge joins them.
    """
    sides, pairs, slots, heads = ids.shape
    if pairs < 2:
        raise InputError(f"{pairs} pairs: co-occurrence of codes needs at least 2")
    total = sum(_information(side.transpose(2, 1, 0).reshape(heads * slots, pairs)) for side in ids)
    return (total / sides).reshape(heads, slots, heads, slots)


def co_occurrence(edges: EdgeList, ids: Int[np.ndarray, "side pair role site"]) -> Float[np.ndarray, " edge"]:
    """Bits of every edge, from the codes of its heads.

    Into a query: the most over roles, both heads' codes at the same one. Into a key or value: over pairs of roles of
    which the sender's is not named after the receiver's. So it tells queries from the rest, and not keys from values.
    """
    bits = conditional_information(ids)
    slots = np.arange(bits.shape[1])
    at_one = bits[:, slots, :, slots].max(0)
    not_after = np.where((slots[:, None] <= slots)[:, None], bits, 0.0).max((1, 3))
    query = edges.into == "q"
    return np.where(query, at_one[edges.sender, edges.receiver], not_after[edges.sender, edges.receiver])


def _information(ids: Int[np.ndarray, "variable pair"]) -> Float[np.ndarray, "variable variable"]:
    variables, n = ids.shape
    entropy = np.full((variables, variables), np.log2(n))
    distinct = np.zeros((variables, variables))
    same = (ids[:, :, None] == ids[:, None, :]).astype(np.float32)
    for pair in range(n):
        # on how many prompts both variables have the codes that they have on this one
        alike = (same[:, pair] @ same[:, pair].T).astype(np.float64)
        entropy -= np.log2(alike) / n
        distinct += 1 / alike
    alone, kinds = np.diag(entropy), np.diag(distinct)
    information = alone[:, None] + alone - entropy
    bias = (distinct - kinds[:, None] - kinds + 1) / (2 * n * np.log(2))
    return np.maximum(information - bias, 0.0)


def edges_by_patching(
    model: Model,
    pairs: PromptPairs,
    scores: Scores,
    *,
    sites: Sequence[Site] | None = None,
    batch_size: int = PatchedEdgesConfig.batch_size,
    progress: Progress | None = None,
    clean: CleanRun | None = None,
    codes: RoleCodes | None = None,
) -> ScoredEdges:
    """:func:`patched_edges` on the first third of the pairs, with the threshold of ``scores``; ``clean`` and ``codes``
    are of these pairs.

    Edges of MLPs, too, are attributed; none are scored where they cannot be attributed in this model. A ``batch_size``
    larger than usual is not taken.
    """
    if sites is not None and any(site.kind != "attn" for site in sites):
        return attributed_edges(model, pairs, sites=sites, batch_size=batch_size, progress=progress)
    if not ResidualWrites.of(model).has_edges:
        return ScoredEdges()
    config = PatchedEdgesConfig(
        threshold=scores.config["threshold"],
        budget=DISCOVERY_BUDGET,
        batch_size=min(batch_size, PatchedEdgesConfig.batch_size),
    )
    subset = pairs.subset(range(config.n_pairs(len(pairs))))
    return patched_edges(model, subset, codes, config, sites=sites, progress=progress, clean=clean)


def patched_edges(
    model: Model,
    pairs: PromptPairs,
    codes: RoleCodes | None = None,
    config: PatchedEdgesConfig = PatchedEdgesConfig(),
    *,
    sites: Sequence[Site] | None = None,
    progress: Progress | None = None,
    clean: CleanRun | None = None,
) -> ScoredEdges:
    """Score the edges among heads (module docstring), all of them if no sites are given.

    ``pairs`` are the first of ``codes`` and ``clean``, if given; ``progress`` is told hundredths of the work. Raises
    :class:`InputError` for fewer than 2 pairs, an MLP among the sites, codes of fewer pairs, and where there is no gap.
    """
    begin = time.perf_counter()
    sites = components(model, mlps=False) if sites is None else sites
    if len(pairs) < 2:
        raise InputError(f"{len(pairs)} pair: at least 2 are needed to know how much pairs differ")
    if others := [str(site) for site in sites if site.kind != "attn"]:
        raise InputError(f"{others[0]}: edges are measured between heads only")
    if codes is not None and codes.outputs.n_pairs < len(pairs):
        raise InputError(f"codes of {codes.outputs.n_pairs} pairs, and {len(pairs)} pairs to score edges on")
    context, edges = Context(model, pairs, config, progress=progress), EdgeList.among(sites)
    if not len(edges):
        context.report_progress(1.0)
        return ScoredEdges()
    if clean is not None and not clean.kept.issuperset(range(len(pairs))):
        clean = None
    proposed = _propose(context, edges, codes, clean)
    context.forwards += (PROPOSING_COST - BASE_COST) * len(pairs)
    promise = np.maximum(np.abs(proposed.attribution.mean(0)), np.abs(proposed.path.mean(0)))
    chosen = np.sort(np.argsort(-promise, kind="stable")[: config.candidates])
    order = np.arange(len(pairs))
    estimates = EffectEstimates(proposed.path[:, chosen], context.gap, config.threshold, order)
    if proposed.exact is not None and config.budget:
        _measure(context, estimates, edges.subset(chosen), proposed.exact)
    context.report_progress(1.0)
    bits = None
    if codes is not None:
        ids = [codes.of(site.layer, site.head or 0)[:, : len(pairs)] for site in edges.sites]
        bits = co_occurrence(edges, np.stack(ids, -1))
    cost = Cost(context.forwards, time.perf_counter() - begin)
    return _result(edges, chosen, estimates, proposed, bits, cost, config)


@dataclass(frozen=True)
class _Proposed:
    """First-order effects of all edges, and the runs that they are measured from: ``path`` is the mean of the
    attributions at the clean prompt and half-way; ``exact`` is ``None`` where the model's edges cannot be measured."""

    attribution: Float[np.ndarray, "pair edge"]
    path: Float[np.ndarray, "pair edge"]
    partial: Float[np.ndarray, "pair edge"]
    by_codes: Float[np.ndarray, "pair edge"] | None
    exact: EdgePatcher | None


def _propose(context: Context, edges: EdgeList, codes: RoleCodes | None, clean: CleanRun | None) -> _Proposed:
    model, pairs = context.model, context.pairs
    shape = (len(pairs), len(edges))
    attribution, path, partial, by_codes = (np.zeros(shape, dtype=np.float32) for _ in range(4))
    consumers: list[CleanRun] = []
    if clean is None:
        consumers.append(clean := CleanRun(model, pairs))
    for run in edge_runs(context, *consumers, share=PROPOSING):
        rows = list(run.batch.indices)
        versions = [written_among(run, edges)]
        if codes is not None:
            versions.append(written_codes(run, edges, codes))
        attribution[rows], *of_codes = edge_products_among(run.at_clean(), edges, versions)
        if of_codes:
            by_codes[rows] = of_codes[0]
        path[rows] = (attribution[rows] + halfway_products(run, edges)) / 2
        partial[rows] = partial_products(run, edges)
    exact = None
    # attention that cannot be written out: its edges keep their attribution
    with contextlib.suppress(InputError):
        exact = EdgePatcher(clean)
    return _Proposed(attribution, path, partial, None if codes is None else by_codes, exact)


def _measure(context: Context, estimates: EffectEstimates, edges: EdgeList, exact: EdgePatcher) -> None:
    """Spend the budget where it is open whether an edge's effect is above the threshold."""
    everything = range(len(context.pairs))
    prefix = exact.clean.prefix_cost(everything)
    spent = estimates.patch_until(
        exact.clean.cost(everything)[edges.of_receivers("layer")],
        context.config.budget * len(everything) - prefix,
        lambda rows, chosen: exact.effects(rows, edges.subset(chosen)),
        lambda done: context.report_progress(PROPOSING + (1 - PROPOSING) * done),
    )
    context.forwards += prefix + spent


def _result(
    edges: EdgeList,
    chosen: np.ndarray,
    estimates: EffectEstimates,
    proposed: _Proposed,
    bits: Float[np.ndarray, " edge"] | None,
    cost: Cost,
    config: PatchedEdgesConfig,
) -> ScoredEdges:
    attribution, path = (part.mean(0, dtype=float) for part in (proposed.attribution, proposed.path))
    effect, error = path.copy(), np.full(len(edges), np.nan)
    expected, probability, measured = np.zeros((3, len(edges)))
    member = estimates.membership()
    effect[chosen], variance = estimates.estimate()
    error[chosen] = np.sqrt(variance)
    expected[chosen], probability[chosen] = member.expected, member.probability
    measured[chosen] = estimates.patched
    elsewhere = np.abs(path) + np.abs(proposed.partial.mean(0))
    size = expected + TIE_BREAK * np.abs(effect) + PARTIAL_WEIGHT * elsewhere
    by_codes = None if proposed.by_codes is None else proposed.by_codes.mean(0)
    names, scored = [str(site) for site in edges.sites], []
    for k in np.argsort(-size, kind="stable")[: config.edges].tolist():
        score = float(-size[k] if effect[k] < 0 else size[k])
        edge = EdgeScore(names[edges.sender[k]], names[edges.receiver[k]], str(edges.into[k]), score)
        evidence = EdgeEvidence(
            attribution=float(attribution[k]),
            codes=None if by_codes is None else float(by_codes[k]),
            co_occurrence=None if bits is None else float(bits[k]),
            effect=float(effect[k]),
            error=None if np.isnan(error[k]) else float(error[k]),
            probability=float(probability[k]),
            measured=int(measured[k]),
        )
        scored.append((edge, evidence))
    best, evidence_of_best = zip(*scored, strict=True)
    return ScoredEdges(best, evidence_of_best, cost)
