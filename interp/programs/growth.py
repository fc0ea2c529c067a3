"""Which slots make a program: heads at roles that by themselves bring the difference back.

Every head at every token is held at the corrupt prompt, MLPs live. At each of :data:`SIZES` a gradient says what a
further slot promises: (what it would write − its corrupt value) · gradient of −mean |m − m clean|. It is the mean over
two contexts, what is held as on the corrupt prompt and half way to what it would write, so that the first of a chain
shows before its last is in. The size is the smallest at which mean |m − m clean| is near the least.

A slot is an *input* if no other slot tells it: of the share of its clean value that it writes with all slots live, it
writes most with none live.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from interp.activations.metric import task_metric
from interp.activations.stream import Progress
from interp.interventions.clean_run import CleanRun
from interp.interventions.frozen import LiveAt, frozen_parts
from interp.programs.slots import HeadAtRole

SIZES = (1, 3, 6, 10, 15, 20)
SOFT = 0.0, 0.5
LEAST_GAIN = 1e-3
"""A slot that promises less, as a share of the difference, is not taken."""
NEAR = 0.05
"""Of the difference: a smaller program may be so much further from the clean prompts than the nearest one."""
INPUT = 0.5


class Growth(NamedTuple):
    """The slots in the order in which they were taken, and those of them that no other slot tells."""

    slots: list[HeadAtRole]
    inputs: frozenset[HeadAtRole]


def grow(
    clean: CleanRun,
    candidates: Sequence[HeadAtRole],
    pairs: Int[np.ndarray, " pair"],
    progress: Progress = lambda _: None,
) -> Growth:
    """The program's slots among heads at roles, by pairs that are kept.

    ``progress`` is told of ``len(SIZES)`` steps.
    """
    positions = {slot: slot.positions([clean.pairs[pair] for pair in pairs]) for slot in candidates}
    target = clean.metric_[0, pairs]
    taken: list[HeadAtRole] = []
    sizes, distances = list[int](), list[float]()
    nothing, shares = target, list[Float[np.ndarray, " candidate"]]()
    for size in (*SIZES, 0):
        steps = [_step(clean, pairs, taken, positions, soft) for soft in SOFT]
        if not taken:
            nothing = steps[0].metric
        difference = float((target - nothing).mean())
        sizes.append(len(taken))
        shares.append(steps[0].restored)
        distances.append(float(abs(target - steps[0].metric).mean()))
        gains = np.mean([step.gains for step in steps], axis=0)
        promising = [i for i in np.argsort(-gains) if candidates[i] not in taken]
        more = [
            candidates[i]
            for i in promising[: max(0, size - len(taken))]
            if gains[i] >= LEAST_GAIN * abs(difference)
        ]
        if not more:
            break
        taken += more
        progress(1)
    best = int(np.flatnonzero(np.array(distances) <= min(distances) + NEAR * abs(difference))[0])
    slots = taken[: sizes[best]]
    inputs = (candidates[int(i)] for i in np.flatnonzero(shares[0] >= INPUT * shares[best]))
    return Growth(slots, frozenset(inputs) & {*slots})


class _Step(NamedTuple):
    """With some slots live: the metric, what each candidate promises, and which share of its clean value it would
    write."""

    metric: Float[np.ndarray, " pair"]
    gains: Float[np.ndarray, " candidate"]
    restored: Float[np.ndarray, " candidate"]


@torch.enable_grad()
def _step(
    clean: CleanRun,
    pairs: Int[np.ndarray, " pair"],
    taken: Sequence[HeadAtRole],
    positions: Mapping[HeadAtRole, Int[np.ndarray, " pair"]],
    soft: float,
) -> _Step:
    live = [LiveAt(slot.site, positions[slot]) for slot in taken]
    metric = np.zeros(len(pairs))
    gains, along, size = (np.zeros(len(positions)) for _ in range(3))
    for part in frozen_parts(clean, pairs, live, [], soft):
        chosen = pairs[part.rows]
        predicted = task_metric(part.logits, [clean.pairs[pair] for pair in chosen], clean.pairs.metric)
        metric[part.rows] = predicted.detach().cpu().numpy()
        target = torch.from_numpy(clean.metric_[0, chosen]).to(predicted)
        slopes = torch.autograd.grad(-(target - predicted).abs().sum() / len(pairs), part.written)
        here, places = np.arange(len(chosen)), clean.places(chosen)
        for number, (slot, where) in enumerate(positions.items()):
            at = where[part.rows]
            change = part.change[slot.layer][here, at - part.begin, slot.site.head]
            stored = (z[slot.layer, places, at, slot.site.head] for z in (clean.z, clean.corrupt_z))
            whole = next(stored) - next(stored)
            gains[number] += float((change * slopes[slot.layer][here, at - part.begin, slot.site.head]).sum())
            along[number] += float((change * whole).sum())
            size[number] += float((whole * whole).sum())
    return _Step(metric, gains, along / np.maximum(size, 1e-12))
