"""Edges of the ``codes`` finder: codes and gradients propose, path patching decides where it is uncertain.

Directed edges from a head to the query, key or value of a head in a later layer:

1. **Propose** (16 forward-pass equivalents a pair): every edge's attribution, the same in the space of codes, half-way
   to the corrupt prompt, and with all heads half off (:mod:`interp.scores.edge_proposals`); and how much the sender's
   code tells of the receiver's on prompts of one side (:mod:`interp.scores.co_occurrence`).
2. **Measure** (``budget`` more): path patching of single edges on single pairs (:mod:`interp.scores.edge_swaps`), spent
   on those edges among the ``candidates`` best of which it is open whether their effect is above ``threshold`` of the
   gap. What the mean of attribution at the clean prompt and half-way gets wrong on the pairs measured corrects it on
   all (:mod:`interp.scores.uncertainty`).

An edge's score is the size that its effect is expected to have, as far as it is above the threshold
(:mod:`interp.scores.membership`), with the sign of its effect; edges with no effect of their own follow, by what they
have half-way and with others off. Codes do not enter the score: they tell what an edge carries (docs/codes.md says how
they rank edges by themselves).

When it misleads: as single-edge patching does. Of two edges that carry the same, neither has an effect; only the order
of those without one then tells. Where a norm or a factor stands between heads and the residual stream, or attention is
of an unknown kind, nothing is measured and attribution is all there is.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from interp.activations.stream import BASE_COST, FORWARD_AND_BACKWARD, MetricConsumer, Progress
from interp.defaults import THRESHOLD
from interp.models import Model, Site
from interp.scores.co_occurrence import co_occurrence
from interp.scores.eap import WITHIN_LAYERS, EdgeRun, edge_runs
from interp.scores.edge_proposals import (
    EdgeList,
    edge_products_among,
    halfway_products,
    partial_products,
    written_codes,
)
from interp.scores.edge_swaps import EdgeSwaps
from interp.scores.head_codes import HeadCodes
from interp.scores.percent import percent
from interp.scores.result import Cost, EdgeScore, Scores
from interp.scores.swaps import Swaps
from interp.scores.uncertainty import TIE_BREAK, EffectEstimates
from interp.tasks.errors import InputError
from interp.tasks.pairs import PromptPairs

REDUNDANCY_WEIGHT = 0.01
"""How an effect half-way or with others off counts beside one at the clean prompt: enough to order the others."""
PATCHED_EDGE_PAIRS = 16
"""Pairs that edges are scored on where heads are scored on more."""
PROPOSING_COST = BASE_COST + WITHIN_LAYERS + 2 * (FORWARD_AND_BACKWARD + WITHIN_LAYERS)
PROPOSING = 0.5  # of the time, roughly; path patching takes the other half


@dataclass(frozen=True)
class CodeEdgesConfig:
    """
    Attributes:
        threshold: share of the clean–corrupt gap from which on an edge's effect counts.
        budget: forward-pass equivalents a pair for path patching; the default makes 26 in all, EAP-IG's cost.
        candidates: edges that may be measured, the best by attribution at the clean prompt or half-way.
        edges: how many of the best edges the result holds.
        batch_size: pairs per forward; a batch holds its graph and what every component writes.
        seed: of the order in which each edge's pairs are measured.
    """

    threshold: float = THRESHOLD
    budget: float = 10.0
    candidates: int = 1000
    edges: int = 1000
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold {self.threshold}: it is a share of the gap, above 0 and below 1")
        if not self.budget >= 0:
            raise InputError(f"budget {self.budget}: forward passes a pair, 0 or more")
        for name in ("candidates", "edges"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: at least 1")


@dataclass(frozen=True)
class EdgeEvidence:
    """What speaks for an edge.

    Attributes:
        attribution: to first order, over all positions.
        codes: to first order, between the sender's codes at the roles; ``None`` without codes.
        co_occurrence: bits that the two heads' codes tell of each other given the side; ``None`` without codes.
        effect: estimated mean effect.
        error: its standard error; ``None`` where the edge was no candidate.
        probability: that the effect is above the threshold; 0 where the edge was no candidate.
        measured: pairs on which the edge was patched.
    """

    attribution: float
    codes: float | None
    co_occurrence: float | None
    effect: float
    error: float | None
    probability: float
    measured: int


@dataclass(frozen=True)
class CodeEdges:
    """Edges, best first, the evidence for each in the same order, and what was spent."""

    edges: tuple[EdgeScore, ...]
    evidence: tuple[EdgeEvidence, ...]
    cost: Cost
    config: dict


def edges_of_codes(
    model: Model,
    pairs: PromptPairs,
    scores: Scores,
    *,
    sites: Sequence[Site] | None = None,
    seed: int = 0,
    batch_size: int = CodeEdgesConfig.batch_size,
    progress: Progress | None = None,
) -> CodeEdges:
    """:func:`code_edges` on the first :data:`PATCHED_EDGE_PAIRS`, with codes that the finder read on the same pairs.

    Args:
        scores: of the finder, whose threshold is that of edges too.
        batch_size: smaller than usual where memory is short; a larger one is not taken.
    """
    some = pairs.subset(range(min(PATCHED_EDGE_PAIRS, len(pairs))))
    config = CodeEdgesConfig(
        threshold=scores.config["threshold"],
        seed=seed,
        batch_size=min(batch_size, CodeEdgesConfig.batch_size),
    )
    return code_edges(model, some, scores.codes, config, sites=sites, progress=progress)


def code_edges(
    model: Model,
    pairs: PromptPairs,
    codes: HeadCodes | None = None,
    config: CodeEdgesConfig = CodeEdgesConfig(),
    *,
    sites: Sequence[Site] | None = None,
    progress: Progress | None = None,
) -> CodeEdges:
    """Score the edges among heads (module docstring).

    Args:
        codes: of the ``codes`` finder; its first pairs are ``pairs``.
        sites: the heads; all if not given.
        progress: told hundredths of the work.

    Raises:
        InputError: fewer than 2 pairs, an MLP among the sites, codes of fewer pairs, or no gap on these pairs.
    """
    if sites is None:
        layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
        sites = [Site("attn", layer, head) for layer in layers for head in heads]
    if len(pairs) < 2:
        raise InputError(f"{len(pairs)} pair: at least 2 are needed to know how much pairs differ")
    if others := [str(site) for site in sites if site.kind != "attn"]:
        raise InputError(f"{others[0]}: edges are measured between heads only")
    if codes is not None and codes.ids.shape[1] < len(pairs):
        raise InputError(f"codes of {codes.ids.shape[1]} pairs, and {len(pairs)} pairs to score edges on")
    tell, edges = percent(progress), EdgeList.among(sites)
    if not len(edges):
        tell(1.0)
        return CodeEdges((), (), Cost(0.0, {}), asdict(config))
    begin = time.perf_counter()
    proposed = _propose(model, pairs, edges, codes, config, lambda share: tell(PROPOSING * share))
    between = time.perf_counter()
    promise = np.maximum(np.abs(proposed.attribution.mean(0)), np.abs(proposed.path.mean(0)))
    chosen = np.sort(np.argsort(-promise, kind="stable")[: config.candidates])
    estimates = EffectEstimates(
        proposed.path[:, chosen], proposed.gap, config.threshold, np.arange(len(pairs)), config.seed
    )
    prefix = 0.0
    if proposed.exact is not None and config.budget:
        prefix = proposed.swaps.prefix_cost(range(len(pairs)))
        budget = config.budget * len(pairs) - prefix
        _measure(estimates, edges.subset(chosen), proposed, budget, lambda done: tell((1 + done) * PROPOSING))
    tell(1.0)
    seconds = {"proposals": between - begin, "path patching": time.perf_counter() - between}
    cost = Cost(PROPOSING_COST * len(pairs) + prefix + proposed.swaps.forwards, seconds)
    bits = None if codes is None else co_occurrence(edges, codes, len(pairs))
    return _result(edges, chosen, estimates, proposed, bits, cost, config)


@dataclass(frozen=True)
class _Proposed:
    """First-order effects of all edges, and the base runs that edges are measured from.

    Attributes:
        path: mean of the attributions at the clean prompt and half-way.
        exact: ``None`` where the model's edges cannot be measured.
    """

    attribution: Float[np.ndarray, "pair edge"]
    path: Float[np.ndarray, "pair edge"]
    partial: Float[np.ndarray, "pair edge"]
    by_codes: Float[np.ndarray, "pair edge"] | None
    gap: float
    swaps: Swaps
    exact: EdgeSwaps | None


def _propose(
    model: Model,
    pairs: PromptPairs,
    edges: EdgeList,
    codes: HeadCodes | None,
    config: CodeEdgesConfig,
    tell: Callable[[float], None],
) -> _Proposed:
    shape = (len(pairs), len(edges))
    attribution, path, partial, by_codes = (np.zeros(shape, dtype=np.float32) for _ in range(4))
    metrics, swaps = MetricConsumer(len(pairs)), Swaps(model, pairs, range(len(pairs)))
    exact, done = EdgeSwaps(model, swaps), 0
    with swaps:
        for run in edge_runs(model, pairs, batch_size=config.batch_size, consumers=[metrics, swaps]):
            rows = list(run.batch.indices)
            versions = [edges.written(run)]
            if codes is not None:
                versions.append(written_codes(run, edges, codes))
            attribution[rows], *of_codes = edge_products_among(run.at_clean(), edges, versions)
            if of_codes:
                by_codes[rows] = of_codes[0]
            path[rows] = (attribution[rows] + halfway_products(run, edges)) / 2
            partial[rows] = partial_products(run, edges)
            exact = _kept(exact, run)
            done += len(rows)
            tell(done / len(pairs))
    gap = float((metrics.metric_[0] - metrics.metric_[1]).mean())
    return _Proposed(attribution, path, partial, None if codes is None else by_codes, gap, swaps, exact)


def _kept(exact: EdgeSwaps | None, run: EdgeRun) -> EdgeSwaps | None:
    if exact is None:
        return None
    try:
        exact.keep(run)
    except InputError:  # attention of a kind that cannot be written out: its edges keep their attribution
        return None
    return exact


def _measure(
    estimates: EffectEstimates,
    edges: EdgeList,
    proposed: _Proposed,
    budget: float,
    tell: Callable[[float], None],
) -> None:
    """Spend the budget where it is open whether an edge's effect is above the threshold."""
    cost = proposed.swaps.cost(range(len(estimates.attribution)))[edges.of_receivers("layer")]

    def patch(rows: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, float]:
        return proposed.exact.effects(rows, edges.subset(chosen))

    estimates.spend(cost, budget, patch, tell)


def _result(
    edges: EdgeList,
    chosen: np.ndarray,
    estimates: EffectEstimates,
    proposed: _Proposed,
    bits: Float[np.ndarray, " edge"] | None,
    cost: Cost,
    config: CodeEdgesConfig,
) -> CodeEdges:
    attribution, path = (part.mean(0, dtype=float) for part in (proposed.attribution, proposed.path))
    effect, error = path.copy(), np.full(len(edges), np.nan)
    expected, probability, measured = np.zeros((3, len(edges)))
    member = estimates.membership()
    effect[chosen], variance = estimates.estimate()
    error[chosen] = np.sqrt(variance)
    expected[chosen], probability[chosen] = member.expected, member.probability
    measured[chosen] = estimates.swapped
    elsewhere = np.abs(path) + np.abs(proposed.partial.mean(0))
    size = expected + TIE_BREAK * np.abs(effect) + REDUNDANCY_WEIGHT * elsewhere
    by_codes = None if proposed.by_codes is None else proposed.by_codes.mean(0)
    names, found = [str(site) for site in edges.sites], []
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
        found.append((edge, evidence))
    best, why = zip(*found, strict=True)
    return CodeEdges(best, why, cost, asdict(config))
