"""Attribution proposes, activation patching decides where membership is open: the finder that this package recommends.

1. **Run once** (4 forward-pass equivalents a pair): clean and corrupt prompts and one backward pass give every head's
   attribution (:mod:`interp.scores.attribution`).
2. **Ask what others hide**: gradients in runs with all heads partly off (:mod:`.partial_ablation`) find arms of
   OR-gates and backups, which have no effect by themselves, and steady the ranking of those that have one.
3. **Patch where it is uncertain** (with 2, ``budget`` more): single heads on single pairs, spent on the heads of which
   it is open whether they are members (:mod:`.posterior`). What attribution gets wrong on the pairs patched
   corrects it on all.

A head's score is the size that its effect is expected to have, as far as it is above ``threshold`` of the gap
(:mod:`.posterior`), with the sign of its effect; and a fifth of the same for its value while others are half off
(:data:`HALF_WEIGHT`), which ranks heads that are no members by themselves and helps where membership is open.
Circuits that are to do the task alone are another question, which :mod:`.nested` answers. p-values come from permuted
labels: under the null hypothesis clean and corrupt could change places in any pair, which turns the sign of its effect.

It misleads where the reference asks another question: it looks for single heads whose patch changes the metric by a
stated share of the gap, by resampling from the given counterfactual. benchmarks/REPORT.md says what each step buys.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval
from jaxtyping import Float

from interp import THRESHOLD
from interp.activations.stream import FORWARD_AND_BACKWARD, Consumer
from interp.errors import InputError
from interp.interventions.clean_run import CleanRun
from interp.models import Site
from interp.scores.adaptive_patching.edges import PatchedEdgesConfig, edges_by_patching
from interp.scores.adaptive_patching.nested import NestedCircuitsConfig, nested_circuits
from interp.scores.adaptive_patching.partial_ablation import HALF_ON, QUARTER_ON, PartialGradients
from interp.scores.adaptive_patching.posterior import (
    TIE_BREAK,
    EffectEstimates,
    Membership,
    membership,
    moderated_variance,
)
from interp.scores.attribution import AttributionConsumer
from interp.scores.method import Context, MethodConfig, Rank, method
from interp.scores.result import Evidence, Scores

PASS_SHARE = 0.5  # of the work, roughly; patches take about as long again
MOST_BUDGET = 10**6
BUDGET_PAIRS = 50  # pairs beyond which more get no more patches: what attribution gets wrong is known by then
PARTIAL_RUNS, PARTIAL_SHARE = 10, 2 / 3
"""Pairs that are run with all heads partly off, at most, and the share of the budget that they may take: beyond them
patches tell more."""
QUARTER_RUNS = 0.3  # share of those pairs on which a quarter of every head stays on, and not a half
HALF_WEIGHT, QUARTER_WEIGHT = 0.2, 0.06
"""How a value while others are partly off counts beside an effect of one's own (chosen in benchmarks/REPORT.md)."""
HIDDEN_TIE_BREAK = 0.01  # how a value that is surely below the threshold counts beside one above it
LIKELY = 0.5  # probability of membership from which on a head has evidence


@dataclass(frozen=True)
class AdaptivePatchingConfig(MethodConfig):
    # share of the clean–corrupt gap from which on an effect makes a member
    threshold: Annotated[float, Interval(gt=0, lt=1)] = THRESHOLD
    # forward-pass equivalents a pair beyond attribution's 4, for up to `BUDGET_PAIRS` pairs; the default makes twice
    # attribution's cost there
    budget: Annotated[float, Interval(ge=0, le=MOST_BUDGET)] = 4.0
    seed: Annotated[int, Ge(0)] = 0  # of the pairs that are run partly off


def _subsets(context: Context) -> Rank:
    """Attribution and runs to patch in, of every pair; patches are run as subsets ask for them."""
    base = AdaptivePatchingBase(context, kept=range(len(context.pairs)))

    def rank(indices: list[int], config: AdaptivePatchingConfig) -> tuple[np.ndarray, float]:
        ranking = base.rank(indices, config)
        return ranking.heads, ranking.forwards

    return rank


@method(
    config=AdaptivePatchingConfig,
    subsets=_subsets,
    edges=edges_by_patching,
    edges_config=PatchedEdgesConfig,
    nested=nested_circuits,
    nested_config=NestedCircuitsConfig,
    by_batch=True,  # a batch skips what all its prompts begin with in common, which says what a patch costs
    version=6,  # all heads are patched on the same pairs, and in four rounds
)
def adaptive_patching(context: Context) -> Scores:
    """Score heads by the expected size of their effects (module docstring); at least 2 pairs."""
    pairs, config = context.pairs, context.config
    base = AdaptivePatchingBase(context)
    ranking = base.rank(
        range(len(pairs)),
        config,
        report_progress=lambda share: context.report_progress(PASS_SHARE + (1 - PASS_SHARE) * share),
    )
    context.forwards += ranking.forwards
    mlps = base.scorer.mlps_
    return Scores(
        ranking.heads,
        mlps=None if mlps is None else expected_of_mlps(mlps, ranking.member.threshold),
        mlps_per_pair=mlps,
        probability=ranking.member.probability.reshape(ranking.heads.shape),
        evidence=_evidence(ranking, config.seed),
    )


def expected_of_mlps(attribution: Float[np.ndarray, "pair layer"], threshold: float) -> Float[np.ndarray, " layer"]:
    """Of MLPs, which are not patched: the expected size that a head's score begins with, by attribution alone;
    ``threshold`` is in units of the metric.

    Heads' scores also have what they do with others partly off, and the error of attribution: beside them MLPs are
    ranked roughly.
    """
    mean = attribution.mean(0)
    variance = moderated_variance(attribution) / len(attribution)
    size = membership(mean, variance, gap=1.0, threshold=threshold).expected + TIE_BREAK * np.abs(mean)
    return np.where(mean < 0, -1.0, 1.0) * size


@dataclass(frozen=True)
class RankedHeads:
    """Heads ranked from some pairs; ``forwards`` were spent on patches and on runs with heads partly off."""

    heads: Float[np.ndarray, "layer head"]
    member: Membership
    estimates: EffectEstimates
    forwards: float


class AdaptivePatchingBase:
    """One pass over a pool of pairs, from which any of its subsets can be ranked: steps 1 to 3 of the method.

    Patches that several subsets ask for are run once, and counted for each of them. The pairs ``kept`` can be patched:
    as many of the first as memory allows if not given.
    """

    def __init__(self, context: Context, *consumers: Consumer, kept: Sequence[int] | None = None) -> None:
        n = len(context.pairs)
        if n < 2:
            raise InputError(f"{n} pair: at least 2 are needed to know how much pairs differ")
        shared = context.shared(CleanRun) if kept is None else None
        if kept is None:
            self.clean = shared or CleanRun.of_first(context.model, context.pairs)
        else:
            self.clean = CleanRun(context.model, context.pairs, kept)
        self.scorer = AttributionConsumer(n)
        self.partial = PartialGradients(self.clean)
        context.run(self.scorer, *([] if shared else [self.clean]), *consumers, share=PASS_SHARE)
        assert context.metric is not None
        self.gaps = context.metric[0] - context.metric[1]

    def rank(
        self,
        indices: Sequence[int],
        config: AdaptivePatchingConfig,
        report_progress: Callable[[float], None] = lambda _share: None,
    ) -> RankedHeads:
        """Rank the heads from the pairs at ``indices``; ``report_progress`` is told which share of the budget is
        spent."""
        indices = list(indices)
        attribution = self.scorer.heads_[indices]
        shape = attribution.shape[1:]
        gap = float(self.gaps[indices].mean())
        kept = [row for row, index in enumerate(indices) if index in self.clean.kept]
        flat = attribution.reshape(len(indices), -1)
        estimates = EffectEstimates(flat, gap, config.threshold, np.array(kept))
        pairs = [indices[row] for row in kept]
        prefix = self.clean.prefix_cost(pairs)
        budget = config.budget * min(len(indices), BUDGET_PAIRS) - prefix
        hidden, spent = self._hidden(pairs, budget, gap, config)
        cost, pool = np.repeat(self.clean.cost(pairs), shape[1]), np.array(indices)
        spent += estimates.patch_until(
            cost,
            budget - spent,
            lambda rows, flat: self.clean.effects(pool[rows], flat // shape[1], flat % shape[1]),
            report_progress,
        )
        member = estimates.membership()
        mean, _ = estimates.estimate()
        size = member.expected + TIE_BREAK * np.abs(mean) + hidden.ravel()
        heads = (np.where(mean < 0, -1.0, 1.0) * size).reshape(shape)
        return RankedHeads(heads, member, estimates, prefix + spent)

    def _hidden(
        self, kept: list[int], budget: float, gap: float, config: AdaptivePatchingConfig
    ) -> tuple[Float[np.ndarray, "layer head"], float]:
        """Weighted size of every head's value with others partly off, as far as it is expected to be above the
        threshold, in units of the metric; and its cost. From :func:`partial_runs` pairs; zero where that is fewer than
        two."""
        hidden, spent = np.zeros(self.scorer.heads_.shape[1:]), 0.0
        runs = partial_runs(len(kept), budget, FORWARD_AND_BACKWARD * self.clean.share(kept), PARTIAL_SHARE)
        order = np.random.default_rng(config.seed + 1).permutation(kept)[:runs].tolist()
        quarter = round(QUARTER_RUNS * len(order))
        parts = (
            (HALF_ON, HALF_WEIGHT, order[quarter:] if quarter > 1 else order),
            (QUARTER_ON, QUARTER_WEIGHT, order[:quarter]),
        )
        for share, weight, pairs in parts:
            if len(pairs) < 2:
                continue
            values, cost = self.partial.of(pairs, share)
            flat, spent = values.reshape(len(pairs), -1), spent + cost
            variance = moderated_variance(flat) / len(pairs)
            member = membership(flat.mean(0), variance, gap=gap, threshold=config.threshold)
            size = member.expected + HIDDEN_TIE_BREAK * np.abs(member.mean)
            hidden += weight * size.reshape(hidden.shape)
        return hidden, spent


def partial_runs(n: int, budget: float, cost: float, share: float) -> int:
    """Of n pairs, how many are run with all heads partly off; two where the budget pays for two, as one says nothing of
    its error. Budget and cost of a run are in forward-pass equivalents; ``share`` of the budget may go to the runs."""
    affordable = max(budget / cost, 0)
    return min(PARTIAL_RUNS, n, int(max(share * affordable, min(affordable, 2))))


def _evidence(ranking: RankedHeads, seed: int) -> dict[str, Evidence]:
    """What speaks for each likely member."""
    estimates, probability = ranking.estimates, ranking.member.probability
    estimate, variance = estimates.estimate()
    p_values = estimates.p_values(seed)
    evidence = {}
    for flat in np.flatnonzero(probability >= LIKELY):
        layer, head = divmod(int(flat), ranking.heads.shape[1])
        evidence[str(Site("attn", layer, head))] = Evidence(
            effect=float(estimate[flat]),
            error=float(np.sqrt(variance[flat])),
            probability=float(probability[flat]),
            p_value=float(p_values[flat]),
            patched=int(estimates.patched[flat]),
        )
    return evidence
