"""Codes propose, causality decides: the finder that this package recommends.

1. **Run once** (4 forward-pass equivalents a pair): clean and corrupt prompts and one backward pass give every head's
   attribution (:mod:`interp.scores.attribution`) and its outputs at the task's roles.
2. **Patch where it is uncertain** (``budget`` more): activation patching of single heads on single pairs, spent on the
   heads of which it is open whether they are members (:mod:`interp.scores.adaptive_patching.control_variate`). What attribution gets wrong
   on the pairs patched corrects it on all.
3. **Ask what others hide**: gradients in runs with all heads partly off (:mod:`interp.scores.adaptive_patching.partial_ablation`) find arms of
   OR-gates and backups, which have no effect by themselves, and steady the ranking of those that have one.
4. **Read codes**: each head's outputs at the roles become codes of its own codebook (:mod:`interp.scores.adaptive_patching.role_codes`);
   for the likely members, which change of code the effect comes from, and the effect of setting those codes.

A head's score is the size that its effect is expected to have, as far as it is above ``threshold`` of the gap
(:mod:`interp.scores.adaptive_patching.posterior`), with the sign of its effect; and a fifth of the same for its value while others are
half off (:data:`HALF_WEIGHT`), which ranks heads that are no members by themselves and helps where membership is open.
Circuits that are to do the task alone are another question, which :mod:`interp.scores.adaptive_patching.nested` answers. p-values come
from permuted labels: under the null hypothesis clean and corrupt could change places in any pair, which turns the sign
of its effect.

It misleads where the reference asks another question: it looks for single heads whose patch changes the metric by a
stated share of the gap, by resampling from the given counterfactual. benchmarks/REPORT.md says what each step buys.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from interp.activations.stream import (
    BASE_COST,
    BATCH_SIZE,
    FORWARD_AND_BACKWARD,
    Consumer,
    Progress,
    feed,
)
from interp.defaults import THRESHOLD
from interp.errors import InputError
from interp.models import Model, Site
from interp.prompts.pairs import PromptPairs
from interp.scores.adaptive_patching.control_variate import TIE_BREAK, EffectEstimates
from interp.scores.adaptive_patching.partial_ablation import HALF_ON, QUARTER_ON, PartialGradients
from interp.scores.adaptive_patching.posterior import Membership, membership, moderated_variance
from interp.scores.adaptive_patching.role_codes import RoleCodes, RoleOutputs
from interp.scores.attribution import AttributionConsumer
from interp.scores.patch_runner import PatchRunner
from interp.scores.result import Cost, Evidence, Scores

MOST_KEPT = 128
"""Pairs whose base runs are kept for patches."""
CODES_SHARE = 0.15
"""Share of the budget."""
PARTIAL_RUNS, PARTIAL_SHARE = 10, 2 / 3
"""Pairs that are run with all heads partly off, at most, and the share of the budget that they may take: beyond them
patches tell more."""
QUARTER_RUNS = 0.3
"""Share of those pairs on which a quarter of every head stays on, and not a half."""
HALF_WEIGHT, QUARTER_WEIGHT = 0.2, 0.06
"""How a value while others are partly off counts beside an effect of one's own (chosen in benchmarks/REPORT.md)."""
HIDDEN_TIE_BREAK = 0.01
"""How a value that is surely below the threshold counts beside one above it."""
CHANGES = 8
"""Changes of code that are told of a head."""
LIKELY = 0.5
"""Probability of membership from which on a head's codes are set."""
SET_PAIRS = 8
VECTORS_PER_CODE = 4
"""Fewer would give every prompt codes of its own."""


@dataclass(frozen=True)
class AdaptivePatchingConfig:
    """
    Attributes:
        threshold: share of the clean–corrupt gap from which on an effect makes a member.
        budget: forward-pass equivalents a pair beyond attribution's 4; the default makes twice attribution's cost.
        n_codes: codes of each head, fewer where there are few prompts.
        batch_size: pairs per forward.
        seed: of the order of patches, the heads that are off, and k-means.
    """

    threshold: float = THRESHOLD
    budget: float = 4.0
    n_codes: int = 64
    batch_size: int = BATCH_SIZE
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold {self.threshold}: it is a share of the gap, above 0 and below 1")
        if not 0 <= self.budget < float("inf"):
            raise InputError(f"budget {self.budget}: forward passes a pair, 0 or more")
        if self.n_codes < 1:
            raise InputError(f"n_codes {self.n_codes}: at least 1 is needed")
        if self.seed < 0:
            raise InputError(f"seed {self.seed}: it must be 0 or more")


def adaptive_patching(
    model: Model,
    pairs: PromptPairs,
    config: AdaptivePatchingConfig = AdaptivePatchingConfig(),
    *,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score heads by the expected size of their effects (module docstring).

    Args:
        consumers: fed by the same forward passes.
        progress: told of every pair's base run; the patches, about as long again, come after that.

    Raises:
        InputError: fewer than 2 pairs.
    """
    outputs = RoleOutputs(pairs)
    base = AdaptivePatchingBase(
        model, pairs, batch_size=config.batch_size, consumers=[outputs, *consumers], progress=progress
    )
    everything = range(len(pairs))
    ranking = base.rank(everything, config)
    begin = time.perf_counter()
    vectors = 2 * len(pairs) * len(outputs.roles_)
    role_codes = RoleCodes(outputs, max(2, min(config.n_codes, vectors // VECTORS_PER_CODE)), config.seed)
    spent = base.runner.forwards
    left = config.budget * len(pairs) - ranking.forwards
    evidence = _evidence(pairs, base.runner, ranking, role_codes, left, config.seed)
    seconds = {**base.seconds, **ranking.seconds, "codes": time.perf_counter() - begin}
    forwards = BASE_COST * len(pairs) + ranking.forwards + base.runner.forwards - spent
    scorer = base.scorer
    return Scores(
        method="adaptive-patching",
        heads=ranking.heads,
        mlps=None if scorer.mlps_ is None else expected_of_mlps(scorer.mlps_, ranking.member.threshold),
        mlps_per_pair=scorer.mlps_,
        signed=True,
        cost=Cost(forwards, seconds),
        config=asdict(config),
        metric_clean=scorer.metric_[0],
        metric_corrupt=scorer.metric_[1],
        provenance=pairs.provenance(),
        codes=role_codes.head_codes(seconds["codes"]),
        probability=ranking.member.probability.reshape(ranking.heads.shape),
        evidence=evidence,
    )


def expected_of_mlps(
    attribution: Float[np.ndarray, "pair layer"], threshold: float
) -> Float[np.ndarray, " layer"]:
    """Of MLPs, which are not patched: the expected size that a head's score begins with, by attribution alone.

    Heads' scores also have what they do with others partly off, and the error of attribution: beside them MLPs are
    ranked roughly.

    Args:
        threshold: in units of the metric.
    """
    mean = attribution.mean(0)
    variance = moderated_variance(attribution) / len(attribution)
    size = membership(mean, variance, gap=1.0, threshold=threshold).expected + TIE_BREAK * np.abs(mean)
    return np.where(mean < 0, -1.0, 1.0) * size


@dataclass(frozen=True)
class Ranking:
    """Heads ranked from some pairs.

    Attributes:
        hidden: size of every head's value with others partly off, weighted, in units of the metric.
        forwards: spent on patches and redundancy, the passes of the base not included.
    """

    heads: Float[np.ndarray, "layer head"]
    member: Membership
    hidden: Float[np.ndarray, "layer head"]
    estimates: EffectEstimates
    forwards: float
    seconds: dict[str, float]


class AdaptivePatchingBase:
    """The base runs of a pool of pairs, from which any of its subsets can be ranked: steps 1 to 3 of the method.

    Patches that several subsets ask for are run once, and counted for each of them.
    """

    forwards_a_pair = BASE_COST

    def __init__(
        self,
        model: Model,
        pairs: PromptPairs,
        *,
        batch_size: int = BATCH_SIZE,
        kept: Sequence[int] | None = None,
        consumers: Sequence[Consumer] = (),
        progress: Progress | None = None,
    ) -> None:
        if len(pairs) < 2:
            raise InputError(f"{len(pairs)} pair: at least 2 are needed to know how much pairs differ")
        begin = time.perf_counter()
        self.scorer = AttributionConsumer(len(pairs))
        self.runner = PatchRunner(model, pairs, _kept(range(len(pairs)), 0) if kept is None else kept)
        self.redundancy = PartialGradients(model, self.runner)
        with self.runner:
            feed(
                model, pairs, [self.scorer, self.runner, *consumers], batch_size=batch_size, progress=progress
            )
        self.seconds = {"attribution": time.perf_counter() - begin}

    def rank(self, indices: Sequence[int], config: AdaptivePatchingConfig) -> Ranking:
        """Rank the heads from the pairs at ``indices``."""
        begin, spent = time.perf_counter(), self.runner.forwards
        indices = list(indices)
        attribution = self.scorer.heads_[indices]
        shape = attribution.shape[1:]
        gap = float((self.scorer.metric_[0] - self.scorer.metric_[1])[indices].mean())
        kept = [row for row, index in enumerate(indices) if self.runner.keeps(index)]
        estimates = EffectEstimates(
            attribution.reshape(len(indices), -1), gap, config.threshold, np.array(kept), config.seed
        )
        prefix = self.runner.prefix_cost([indices[row] for row in kept])
        budget = config.budget * len(indices) * (1 - CODES_SHARE) - prefix
        hidden = self._redundancy([indices[row] for row in kept], budget, gap, config)
        between = time.perf_counter()
        self._patch_uncertain(estimates, indices, budget + spent - self.runner.forwards)
        member = estimates.membership()
        mean, _ = estimates.estimate()
        size = member.expected + TIE_BREAK * np.abs(mean) + hidden.ravel()
        return Ranking(
            (np.where(mean < 0, -1.0, 1.0) * size).reshape(shape),
            member,
            hidden,
            estimates,
            prefix + self.runner.forwards - spent,
            {"redundancy": between - begin, "patches": time.perf_counter() - between},
        )

    def _patch_uncertain(self, estimates: EffectEstimates, indices: list[int], budget: float) -> None:
        """Spend the budget where membership is open."""
        heads = self.scorer.heads_.shape[2]
        cost = np.repeat(self.runner.cost([i for i in indices if self.runner.keeps(i)]), heads)
        pool = np.array(indices)

        def patch(rows: np.ndarray, flat: np.ndarray) -> tuple[np.ndarray, float]:
            return self.runner.priced(pool[rows], flat // heads, flat % heads)

        estimates.spend(cost, budget, patch)

    def _redundancy(
        self, kept: list[int], budget: float, gap: float, config: AdaptivePatchingConfig
    ) -> Float[np.ndarray, "layer head"]:
        """``hidden`` of :class:`Ranking`: the values as far as they are expected to be above the threshold.

        From :func:`partial_runs` pairs; zero where that is fewer than two.
        """
        hidden = np.zeros(self.scorer.heads_.shape[1:])
        runs = partial_runs(len(kept), budget, FORWARD_AND_BACKWARD * self.runner.share(kept), PARTIAL_SHARE)
        order = np.random.default_rng(config.seed + 1).permutation(kept)[:runs].tolist()
        quarter = round(QUARTER_RUNS * len(order))
        parts = (
            (HALF_ON, HALF_WEIGHT, order[quarter:] if quarter > 1 else order),
            (QUARTER_ON, QUARTER_WEIGHT, order[:quarter]),
        )
        for share, weight, pairs in parts:
            if len(pairs) < 2:
                continue
            values = self.redundancy.of(pairs, share)
            flat = values.reshape(len(pairs), -1)
            variance = moderated_variance(flat) / len(pairs)
            found = membership(flat.mean(0), variance, gap=gap, threshold=config.threshold)
            size = found.expected + HIDDEN_TIE_BREAK * np.abs(found.mean)
            hidden += weight * size.reshape(hidden.shape)
        return hidden


def partial_runs(n: int, budget: float, cost: float, share: float) -> int:
    """Of n pairs, how many are run with all heads partly off.

    Args:
        budget, cost: of all there is to spend, and of one run, in forward-pass equivalents.
        share: of the budget that the runs may take; two are run where it pays for two, as one says nothing of its
            error.
    """
    affordable = max(budget / cost, 0)
    return min(PARTIAL_RUNS, n, int(max(share * affordable, min(affordable, 2))))


def _kept(indices: Sequence[int], seed: int) -> list[int]:
    return sorted(np.random.default_rng(seed).permutation(indices)[:MOST_KEPT].tolist())


def _evidence(
    pairs: PromptPairs, runner: PatchRunner, ranking: Ranking, role_codes: RoleCodes, budget: float, seed: int
) -> dict[str, Evidence]:
    """What speaks for each likely member; codes are set on pairs that were patched, best heads first."""

    def with_codes(pair: int, layer: int, head: int):
        clean = runner.clean(pair, layer, head)
        return role_codes.replaced(pairs, pair, layer, head, clean, runner.first_position(pair))

    found = {}
    estimates, probability = ranking.estimates, ranking.member.probability
    estimate, variance = estimates.estimate()
    p_values = estimates.p_values(seed)
    for flat in np.argsort(-probability * np.abs(estimate), kind="stable"):
        if probability[flat] < LIKELY:
            continue
        layer, head = divmod(int(flat), ranking.heads.shape[1])
        done = np.flatnonzero(np.isfinite(estimates.exact[:, flat]))[:SET_PAIRS]
        set_effect = whole = None
        if len(done) and (cost := len(done) * runner.cost(done.tolist())[layer]) <= budget:
            same = np.full(len(done), 1)
            given = [with_codes(pair, layer, head) for pair in done.tolist()]
            effects = runner.effects(done, layer * same, head * same, given)
            set_effect, whole = float(effects.mean()), float(estimates.exact[done, flat].mean())
            budget -= cost
        found[str(Site("attn", layer, head))] = Evidence(
            effect=float(estimate[flat]),
            error=float(np.sqrt(variance[flat])),
            probability=float(probability[flat]),
            p_value=float(p_values[flat]),
            patched=int(estimates.patched[flat]),
            changes=tuple(role_codes.changes(layer, head, CHANGES)),
            set_codes=set_effect,
            whole=whole,
        )
    return found
