"""Heads at single positions: reading what they write there, and writing something else in its place.

A change at END in the last third of the layers costs a fiftieth of a forward pass
(:class:`~interp.interventions.clean_run.CleanRun`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.stream import Consumer, PairBatch, Progress, feed
from interp.interventions.clean_run import PATCH_ROWS, CleanRun, Outcome
from interp.interventions.patch import Patch
from interp.models import Model, Site, parse_site
from interp.prompts.pairs import PromptPair, PromptPairs


@dataclass(frozen=True, order=True)
class HeadAtRole:
    """A head, or an MLP, at one of the task's roles: ``a17.h4 @ S2``. Short: a slot."""

    layer: int
    site: Site
    role: str

    @classmethod
    def of(cls, site: str, role: str) -> "HeadAtRole":
        parsed = parse_site(site)
        return cls(parsed.layer, parsed, role)

    def __str__(self) -> str:
        return f"{self.site} @ {self.role}"

    def positions(self, pairs: Iterable[PromptPair]) -> Int[np.ndarray, " pair"]:
        return np.array([pair.positions[self.role] for pair in pairs], dtype=int)


@dataclass(frozen=True)
class Edit:
    """What stands at a slot in place of what the model writes there."""

    slot: HeadAtRole
    values: Float[Tensor, "row d"]
    rows: Bool[np.ndarray, " row"] | None = None  # those that are changed; all if not given
    add: bool = False  # to what stands there


@dataclass
class SlotRunner:
    """A clean run that is read and edited by slots.

    Args:
        pairs: the first of the clean run's.

    Attributes:
        metric: [side, pair].
        preferred: of the clean prompts, see :class:`~interp.interventions.clean_run.Outcome`.
    """

    clean: CleanRun
    pairs: PromptPairs
    _z: dict[HeadAtRole, Float[Tensor, "side pair d"]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        n, self.model = len(self.pairs), self.clean.model
        self.metric, self.preferred = self.clean.metric_[:, :n], self.clean.preferred_[:n]

    @classmethod
    def of(
        cls, model: Model, pairs: PromptPairs, *, mlps: bool = False, progress: Progress | None = None
    ) -> "SlotRunner":
        return cls(CleanRun.of(model, pairs, mlps=mlps, progress=progress), pairs)

    @property
    def forwards(self) -> float:
        """What the clean run has cost so far, in forward passes of one prompt."""
        return self.clean.forwards

    def z(self, slot: HeadAtRole) -> Float[Tensor, "side pair d"]:
        """What stands at a slot; side 0 is clean, 1 corrupt."""
        if slot not in self._z:
            rows, positions = np.arange(len(self.pairs)), slot.positions(self.pairs)
            sides = [self.clean.at(slot.site, rows, positions, corrupt=side) for side in (False, True)]
            self._z[slot] = torch.stack(sides).float().cpu()
        return self._z[slot]

    def cost(self, slot: HeadAtRole) -> float:
        """Forward passes of one prompt that a change at the slot costs, in the mean."""
        lengths = [len(pair.clean_tokens) for pair in self.pairs]
        of_tokens = float(np.mean(1 - slot.positions(self.pairs) / lengths))
        return of_tokens * (1 - slot.layer / self.clean.n_layers)

    def run(
        self,
        pairs: Int[np.ndarray, " row"],
        edits: Sequence[Edit],
        read: Sequence[HeadAtRole] = (),
        *,
        every_token: bool = False,
    ) -> Outcome:
        """The clean prompts of some pairs, each as often as it is named, with slots changed; see ``CleanRun.run``."""
        rows = [self.pairs[pair] for pair in pairs]
        patches = [Patch(edit.slot.site, edit.values, edit.slot.positions(rows), edit.rows, edit.add) for edit in edits]
        reading = [(slot.site, slot.positions(rows)) for slot in read]
        return self.clean.run(pairs, patches, reading, every_token=every_token)


class SlotReader(Consumer):
    """Reads slots on both sides of a pass over pairs. ``z_``: [side, pair, d] of every slot; side 0 is clean, 1
    corrupt."""

    def __init__(self, slots: Sequence[HeadAtRole], n_pairs: int) -> None:
        self.slots, self.n_pairs = slots, n_pairs
        self.z_: dict[HeadAtRole, Float[Tensor, "side pair d"]] = {}

    def update(self, batch: PairBatch) -> None:
        rows, indices = np.arange(len(batch.pairs)), list(batch.indices)
        for slot in self.slots:
            positions = slot.positions(batch.pairs)
            index = (rows, positions) if slot.site.head is None else (rows, positions, slot.site.head)
            for side, activations in enumerate((batch.clean, batch.corrupt)):
                layers = activations.mlp if slot.site.kind == "mlp" else activations.z
                values = layers[slot.layer][index].float().cpu()
                if slot not in self.z_:
                    self.z_[slot] = torch.zeros(2, self.n_pairs, values.shape[-1])
                self.z_[slot][side, indices] = values


def read_slots(
    model: Model, pairs: PromptPairs, slots: Sequence[HeadAtRole], progress: Progress | None = None
) -> tuple[dict[HeadAtRole, Float[Tensor, "side pair d"]], float]:
    """What stands at slots on both sides, and what that cost in forward passes of one prompt."""
    reader = SlotReader(slots, len(pairs))
    cost = feed(model, pairs, [reader], batch_size=PATCH_ROWS, progress=progress)
    return reader.z_, cost
