"""What a sceptic asks of a circuit: does it do the task, is the task gone without it, would other pairs choose it, what
else goes with it, is there another? Every answer stands beside random circuits with as many heads in every layer.

Shares are f of :mod:`.faithfulness`. Heads are replaced by their own output on the corrupt prompt (``resample``), and
MLPs are live. ``interp validate`` runs it all (:mod:`interp.runs.validate`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from interp.circuits.circuit import Estimate, Interventions, NestedShare, OnTask, RandomCircuits
from interp.circuits.verify import check_does_task, decide_members
from interp.errors import InputError
from interp.evaluation.faithfulness import GRID, area_to_the_model, area_under, shares_of_gap
from interp.evaluation.nested_circuits import share_interval
from interp.evaluation.stability import N_BOOT, best_heads, jaccard
from interp.interventions.ablation import Ablator, all_or_none
from interp.interventions.clean_run import PatchingEffects
from interp.progress import Stage, silent

Mask = Bool[np.ndarray, "layer head"]

FIRST = (1, 2, 3, 5, 10, 20)  # sizes of nested circuits beside MIB's fractions, which say little of small ones


def matched_random(members: Mask, rng: np.random.Generator) -> Mask:
    """As many heads in each layer as the members have; members only where a layer has too few others."""
    drawn = np.zeros_like(members)
    for layer, in_layer in enumerate(members):
        order = rng.permutation(len(in_layer))
        drawn[layer, sorted(order, key=lambda head: in_layer[head])[: in_layer.sum()]] = True
    return drawn


def intervene(
    ablator: Ablator,
    ranking: Float[np.ndarray, "layer head"],
    members: Mask,
    random: Sequence[Mask],
    rivals: Sequence[Mask] = (),
    *,
    seed: int = 0,
    stage: Stage = silent,
) -> tuple[Interventions, list[float]]:
    """Run every circuit once, on the ablator's pairs: the card's numbers, and the share of each rival alone.
    :class:`InputError`: ablating every head leaves the metric as it was.

    Args:
        ranking: signed; nested circuits are its best heads.
        random: of :func:`matched_random`.
        seed: of ties in the ranking and of the intervals.
    """
    counts = [int(fraction * ranking.size) for fraction in GRID]
    small_sizes = [size for size in FIRST if size < ranking.size]
    sizes = sorted({*counts, *small_sizes, int(members.sum())})
    groups = [
        list(all_or_none(members.shape)),
        [members, ~members],
        [best_heads(ranking, size, seed=seed) for size in sizes],
        [best_heads(ranking, size, signed=True, seed=seed) for size in sizes],
        list(random),
        [~circuit for circuit in random],
        list(rivals),
    ]
    circuits = np.stack([circuit for group in groups for circuit in group])
    with stage("circuits alone, circuits off", len(circuits) * len(ablator.pairs)) as advance:
        metric, kl = ablator.metric_and_kl(circuits, progress=advance)
    empty, full, alone, off = metric[:4]
    ends = np.cumsum([len(group) for group in groups])[:-1]
    shares = shares_of_gap(metric.mean(1), float(empty.mean()), float(full.mean()))
    _, of_members, absolute, signed, random_alone, random_off, others = np.split(shares, ends)
    _, members_kl, nested_kl, _, random_kl, *_ = np.split(kl.mean(1), ends)
    at = [sizes.index(count) for count in counts]

    def estimate(share: float, values: np.ndarray) -> Estimate:
        low, high = share_interval(values, empty, full, seed) or (None, None)
        return Estimate(value=float(share), low=low, high=high)

    result = Interventions(
        n_heads=int(members.sum()),
        n_pairs=len(ablator.pairs),
        ablation=ablator.kind,
        share=estimate(of_members[0], alone),
        kl=float(members_kl[0]),
        left=estimate(of_members[1], off),
        cmd=float(area_to_the_model(absolute[at])),
        cpr=float(area_under(signed[at])),
        nested=[
            NestedShare(n_heads=size, share=float(share), share_signed=float(by_sign), kl=float(divergence))
            for size, share, by_sign, divergence in zip(sizes, absolute, signed, nested_kl, strict=True)
        ],
        random=RandomCircuits(
            draws=len(random),
            share_mean=float(random_alone.mean()),
            share_largest=float(random_alone.max()),
            kl_mean=float(random_kl.mean()),
            left_mean=float(random_off.mean()),
            left_least=float(random_off.min()),
        ),
    )
    return result, others.tolist()


def lost_on(ablator: Ablator, members: Mask, random: Sequence[Mask], *, seed: int = 0) -> OnTask:
    """What the ablator's task loses with the circuit off. :class:`InputError`: the model does not do the task."""
    check_does_task(ablator.metric_clean, ablator.metric_corrupt, seed=seed)
    circuits = np.stack([*all_or_none(members.shape), ~members, *(~circuit for circuit in random)])
    empty, full, *off = ablator.metric(circuits).mean(1)
    shares_lost = 1 - shares_of_gap(np.array(off), empty, full)
    return OnTask(
        task=ablator.pairs.task,
        n_pairs=len(ablator.pairs),
        lost=float(shares_lost[0]),
        lost_random=float(shares_lost[1:].mean()),
    )


def membership_jaccard(
    measured: PatchingEffects, members: Bool[np.ndarray, " site"], *, threshold: float, seed: int = 0
) -> Estimate:
    """Jaccard index of the members with those of bootstrap resamples of the pairs, decided by the same rule.

    Candidates are those of the run, so it says how firm the decision is, not the ranking before it. A resample without
    a gap has no members.
    """
    rng, n, overlaps = np.random.default_rng(seed), len(measured.effects), []
    for _ in range(N_BOOT):
        drawn = rng.integers(n, size=n)
        names = ("effects", "metric_clean", "metric_corrupt")
        resampled = replace(measured, **{name: getattr(measured, name)[drawn] for name in names})
        try:
            chosen = decide_members(resampled, threshold=threshold, seed=seed).member
        except InputError:
            chosen = np.zeros_like(members)
        overlaps.append(jaccard(members, chosen))
    low, high = np.percentile(overlaps, [2.5, 97.5])
    return Estimate(value=float(np.mean(overlaps)), low=float(low), high=float(high))
