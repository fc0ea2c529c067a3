"""Which slots make a program: heads at roles that by themselves bring the difference back.

Every head at every token is held at the corrupt prompt, MLPs live. At each of :data:`SIZES` a gradient says what a
further slot promises: (what it would write − its corrupt value) · gradient of −mean |m − m clean|. It is the mean over
two contexts, what is held as on the corrupt prompt and half way to what it would write, so that the first of a chain
shows before its last is in. The size is the smallest at which mean |m − m clean| is near the least.

A slot is an *input* if no other slot tells it: what it does for the metric, (what it would write − its corrupt value) ·
gradient, is within a tenth the same with all slots live and with none.
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
LEAST_GAIN = 1e-3  # a slot that promises less, as a share of the difference, is not taken
NEAR = 0.05  # of the difference: a smaller program may be so much further from the clean prompts than the nearest one
TOLD = 0.1  # of what a slot does: so much may other slots change at an input


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
    hard, sizes, difference = list[_Step](), list[int](), 0.0
    for size in (*SIZES, 0):
        steps = [_step(clean, pairs, taken, positions, soft) for soft in SOFT]
        hard.append(steps[0])
        sizes.append(len(taken))
        difference = abs(float((target - hard[0].metric).mean()))
        gains = sum((step.along(step) * np.sign(target - step.metric)).mean(1) for step in steps) / len(SOFT)
        promising = [i for i in np.argsort(-gains) if candidates[i] not in taken]
        more = [i for i in promising[: max(0, size - len(taken))] if gains[i] >= LEAST_GAIN * difference]
        if not more:
            break
        taken += [candidates[i] for i in more]
        progress(1)
    distances = np.array([abs(target - step.metric).mean() for step in hard])
    best = int(np.flatnonzero(distances <= distances.min() + NEAR * difference)[0])
    slots = taken[: sizes[best]]
    whole, by_itself = (hard[best].along(step).mean(1) for step in (hard[best], hard[0]))
    inputs = (candidates[int(i)] for i in np.flatnonzero(abs(by_itself - whole) <= TOLD * abs(whole)))
    return Growth(slots, frozenset(inputs) & {*slots})


class _Step(NamedTuple):
    """With some slots live: the metric, its gradient at each candidate, and how far what it would write is from its
    corrupt value."""

    metric: Float[np.ndarray, " pair"]
    slopes: Float[np.ndarray, "candidate pair d"]
    changes: Float[np.ndarray, "candidate pair d"]

    def along(self, other: "_Step") -> Float[np.ndarray, "candidate pair"]:
        """What the changes of a step do for the metric of this one."""
        return (self.slopes * other.changes).sum(-1)


@torch.enable_grad()
def _step(
    clean: CleanRun,
    pairs: Int[np.ndarray, " pair"],
    taken: Sequence[HeadAtRole],
    positions: Mapping[HeadAtRole, Int[np.ndarray, " pair"]],
    soft: float,
) -> _Step:
    live = [LiveAt(slot.site, positions[slot]) for slot in taken]
    shape = len(positions), len(pairs), clean.model.cfg.d_head
    metric, slopes, changes = np.zeros(len(pairs)), np.zeros(shape), np.zeros(shape)
    for part in frozen_parts(clean, pairs, live, [], soft):
        prompts = [clean.pairs[pair] for pair in pairs[part.rows]]
        predicted = task_metric(part.logits, prompts, clean.pairs.metric)
        metric[part.rows] = predicted.detach().float().cpu().numpy()
        gradients = torch.autograd.grad(predicted.sum(), part.written)
        for number, (slot, position) in enumerate(positions.items()):
            # before the first token that differs nothing changes
            later = np.flatnonzero(position[part.rows] >= part.begin)
            rows = part.rows[later]
            at = later, position[rows] - part.begin, slot.site.head
            slopes[number, rows] = gradients[slot.layer][at].float().cpu().numpy()
            changes[number, rows] = part.change[slot.layer][at].float().cpu().numpy()
    return _Step(metric, slopes, changes)
