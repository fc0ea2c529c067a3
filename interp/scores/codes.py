"""Codes propose, causality decides: the finder that this package recommends.

1. **Run once** (4 forward-pass equivalents a pair): clean and corrupt prompts and one backward pass give every head's
   attribution (:mod:`interp.scores.attribution`) and its outputs at the task's roles.
2. **Swap where it is uncertain** (``budget`` more): exact interchange of single heads on single pairs, spent on the
   heads of which it is open whether they are members (:mod:`interp.scores.uncertainty`). What attribution gets wrong
   on the pairs swapped corrects it on all.
3. **Ask what others hide**: gradients in runs with random heads off (:mod:`interp.scores.redundancy`) find arms of
   OR-gates and backups, which have no effect by themselves.
4. **Read codes**: each head's outputs at the roles become codes of its own codebook (:mod:`interp.scores.role_codes`);
   for the likely members, which change of code the effect comes from, and the effect of setting those codes.

A head's score is the size that its effect is expected to have, as far as it is above ``threshold`` of the gap
(:mod:`interp.scores.membership`), with the sign of its effect. Heads that are no members by themselves follow in the
order of their part in redundancies. p-values come from permuted labels: under the null hypothesis clean and corrupt
could change places in any pair, which turns the sign of its effect.

It misleads where the reference asks another question: it looks for single heads whose swap changes the metric by a
stated share of the gap, by resampling from the given counterfactual. docs/codes.md says what each step buys.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from jaxtyping import Float

from interp.activations.stream import BATCH_SIZE, Consumer, Progress, feed
from interp.models import Model, Site
from interp.scores.attribution import AttributionConsumer
from interp.scores.membership import Membership, membership, moderated_variance
from interp.scores.redundancy import COST, masked_gradients
from interp.scores.result import Cost, Evidence, Scores
from interp.scores.role_codes import RoleCodes, RoleOutputs
from interp.scores.swaps import Swaps
from interp.scores.uncertainty import EffectEstimates
from interp.tasks.errors import InputError
from interp.tasks.pairs import PromptPairs

ROUNDS = 16
"""Swaps are chosen this many times; more rounds choose better and batch worse."""
STEP = 3
"""Pairs that a chosen head is swapped on before the next look."""
MOST_KEPT = 128
"""Pairs whose base runs are kept for swaps."""
REDUNDANCY_SHARE = 0.15
CODES_SHARE = 0.15
"""Shares of the budget."""
REDUNDANCY_WEIGHT = 0.01
"""How a part in redundancies counts beside an effect of one's own: enough to order heads that have none."""
FLIPS = 4000
CHANGES = 8
"""Changes of code that are told of a head."""
LIKELY = 0.5
"""Probability of membership from which on a head's codes are set."""
SET_PAIRS = 8
VECTORS_PER_CODE = 4
"""Fewer would give every prompt codes of its own."""


@dataclass(frozen=True)
class CodesConfig:
    """
    Attributes:
        threshold: share of the clean–corrupt gap from which on an effect makes a member.
        budget: forward-pass equivalents a pair beyond attribution's 4; the default makes twice attribution's cost.
        n_codes: codes of each head, fewer where there are few prompts.
        batch_size: pairs per forward.
        seed: of the order of swaps, the heads that are off, and k-means.
    """

    threshold: float = 0.02
    budget: float = 4.0
    n_codes: int = 64
    batch_size: int = BATCH_SIZE
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold {self.threshold}: it is a share of the gap, above 0 and below 1")
        if not self.budget >= 0:
            raise InputError(f"budget {self.budget}: forward passes a pair, 0 or more")
        if self.n_codes < 1:
            raise InputError(f"n_codes {self.n_codes}: at least 1 is needed")


def codes(
    model: Model,
    pairs: PromptPairs,
    config: CodesConfig = CodesConfig(),
    *,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score heads by the expected size of their effects (module docstring).

    Args:
        consumers: fed by the same forward passes.
        progress: told of every pair's base run; the swaps, about as long again, come after that.

    Raises:
        InputError: fewer than 2 pairs.
    """
    if len(pairs) < 2:
        raise InputError(f"{len(pairs)} pair: at least 2 are needed to know how much pairs differ")
    clock = _Clock()
    generator = np.random.default_rng(config.seed)
    kept = np.sort(generator.permutation(len(pairs))[:MOST_KEPT])
    scorer, outputs = AttributionConsumer(len(pairs)), RoleOutputs(pairs)
    swaps = Swaps(model, pairs, kept.tolist())
    with swaps:
        forwards = feed(
            model,
            pairs,
            [scorer, outputs, swaps, *consumers],
            batch_size=config.batch_size,
            progress=progress,
        )
    clock("attribution")
    shape = scorer.heads_.shape[1:]
    gap = float((scorer.metric_[0] - scorer.metric_[1]).mean())
    estimates = EffectEstimates(
        scorer.heads_.reshape(len(pairs), -1), gap, config.threshold, kept, config.seed
    )
    budget = config.budget * len(pairs)
    _swap_uncertain(swaps, estimates, shape, budget * (1 - REDUNDANCY_SHARE - CODES_SHARE))
    clock("swaps")
    redundancy = _redundancy(model, swaps, kept, budget * (1 - CODES_SHARE), gap, config)
    clock("redundancy")
    vectors = 2 * len(pairs) * len(outputs.roles_)
    role_codes = RoleCodes(outputs, max(2, min(config.n_codes, vectors // VECTORS_PER_CODE)), config.seed)
    member = estimates.membership()
    p_values = permutation_p_values(estimates.per_pair(), config.seed)
    evidence = _evidence(pairs, swaps, estimates, member, p_values, role_codes, shape, budget)
    clock("codes")

    mean, _ = estimates.estimate()
    size = member.expected + 1e-6 * np.abs(mean)
    if redundancy is not None:
        size = size + REDUNDANCY_WEIGHT * np.abs(redundancy.mean)
    return Scores(
        method="codes",
        heads=(np.where(mean < 0, -1.0, 1.0) * size).reshape(shape),
        mlps=None if scorer.mlps_ is None else scorer.mlps_.mean(0),
        mlps_per_pair=scorer.mlps_,
        signed=True,
        cost=Cost(forwards + swaps.forwards, clock.seconds),
        config=asdict(config),
        metric_clean=scorer.metric_[0],
        metric_corrupt=scorer.metric_[1],
        provenance=pairs.provenance(),
        codes=role_codes.head_codes(clock.seconds["codes"]),
        probability=member.probability.reshape(shape),
        evidence=evidence,
    )


def permutation_p_values(
    per_pair: Float[np.ndarray, "pair head"], seed: int, flips: int = FLIPS
) -> Float[np.ndarray, " head"]:
    """Two-sided p-value of each head's mean effect under permuted clean/corrupt labels (sign flips of pairs).

    The observed labelling counts as one of the permutations, so that p is never 0 (Phipson & Smyth 2010).
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(flips, len(per_pair)))
    observed = np.abs(per_pair.sum(axis=0))
    as_large = (np.abs(signs @ per_pair) >= observed * (1 - 1e-12)).sum(axis=0)
    return (as_large + 1) / (flips + 1)


def _swap_uncertain(swaps: Swaps, estimates: EffectEstimates, shape: tuple[int, int], budget: float) -> None:
    """Spend the budget where membership is open."""
    spent, per_layer = swaps.forwards, swaps.cost()
    cost = np.repeat(per_layer, shape[1])
    while True:
        left = budget - (swaps.forwards - spent)
        chosen, heads = estimates.next_swaps(cost, min(left, budget / ROUNDS), STEP)
        if len(chosen) == 0:
            return
        estimates.record(chosen, heads, swaps.effects(chosen, heads // shape[1], heads % shape[1]))


def _redundancy(
    model: Model, swaps: Swaps, kept: np.ndarray, budget: float, gap: float, config: CodesConfig
) -> Membership | None:
    """Posterior of every head's value with others off, from as many pairs as the rest of the budget allows."""
    share = float(np.mean([run.share for run in swaps.runs]))
    affordable = int((budget - swaps.forwards) / (COST * share))
    if affordable < 2:
        return None
    chosen = set(np.random.default_rng(config.seed + 1).permutation(kept)[:affordable].tolist())
    values = masked_gradients(model, swaps, chosen, seed=config.seed)
    values = values.reshape(len(values), -1)
    variance = moderated_variance(values) / len(values)
    return membership(values.mean(axis=0), variance, gap=gap, threshold=config.threshold)


def _evidence(
    pairs: PromptPairs,
    swaps: Swaps,
    estimates: EffectEstimates,
    member: Membership,
    p_values: np.ndarray,
    role_codes: RoleCodes,
    shape: tuple[int, int],
    budget: float,
) -> dict[str, Evidence]:
    """What speaks for each likely member; codes are set on pairs that were swapped, best heads first."""

    def with_codes(pair: int, layer: int, head: int):
        clean = swaps.clean(pair, layer, head)
        return role_codes.replaced(pairs, pair, layer, head, clean, swaps.first_position(pair))

    found = {}
    swapped = estimates.swapped
    estimate, variance = estimates.estimate()
    for flat in np.argsort(-member.probability * np.abs(estimate), kind="stable"):
        if member.probability[flat] < LIKELY:
            continue
        layer, head = divmod(int(flat), shape[1])
        done = np.flatnonzero(np.isfinite(estimates.exact[:, flat]))[:SET_PAIRS]
        set_effect = whole = None
        if len(done) and swaps.forwards + len(done) * swaps.cost()[layer] <= budget:
            same = np.full(len(done), 1)
            effects = swaps.effects(done, layer * same, head * same, with_codes)
            set_effect, whole = float(effects.mean()), float(estimates.exact[done, flat].mean())
        found[str(Site("attn", layer, head))] = Evidence(
            effect=float(estimate[flat]),
            error=float(np.sqrt(variance[flat])),
            probability=float(member.probability[flat]),
            p_value=float(p_values[flat]),
            swapped=int(swapped[flat]),
            changes=tuple(role_codes.changes(layer, head, CHANGES)),
            set_codes=set_effect,
            whole=whole,
        )
    return found


@dataclass
class _Clock:
    """Seconds since the last call, by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.perf_counter)

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self.last = now - self.last, now
