"""Measuring a reference in parts: activation patching of every component, one job a batch of pairs.

A part is what one batch of pairs gives, in a file named by what it is of: model, weights, pairs. Batches are those that
all pairs together would be run in, so that effects are the same to the last bit, however the parts were made. A part
that is killed goes on within itself.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from interp.activations.stream import HUNDREDTHS, equal_length_batches
from interp.circuits.references import ExactEffects
from interp.circuits.verify import check_gap
from interp.executor import Job, JobProgress
from interp.files import atomic_path, read_tensors
from interp.models import Model, describe_model, weights_checksum
from interp.progress import counted
from interp.prompts.pairs import PromptPairs
from interp.scores.patching import PatchingConfig, patching


@dataclass(frozen=True)
class Part:
    """The pairs of one batch, and their places among all pairs."""

    pairs: PromptPairs
    indices: tuple[int, ...]
    path: Path


@dataclass(frozen=True)
class Measurement:
    """Exact effects that are to be measured: of which model, on which pairs."""

    pairs: PromptPairs
    folder: Path  # of the parts
    described: dict  # :func:`~interp.models.describe_model` of the model
    weights: str  # its :func:`~interp.models.weights_checksum`
    mlps: bool  # whether MLPs are patched too, where there are some
    batch_size: int

    @classmethod
    def begin(cls, model: Model, pairs: PromptPairs, folder: Path, *, mlps: bool, batch_size: int) -> "Measurement":
        """Raises :class:`InputError` for a model that does not do the task, after a hundredth of the forward passes."""
        check_gap(model, pairs, batch_size=batch_size)
        return cls(pairs, folder, describe_model(model), weights_checksum(model), mlps, batch_size)

    def parts(self) -> list[Part]:
        known = {key: value for key, value in self.described.items() if key != "device"}
        parts = []
        for indices in equal_length_batches(self.pairs, self.batch_size):
            pairs = self.pairs.subset(indices)
            identity = json.dumps([known, self.weights, pairs.digest(), self.mlps], sort_keys=True)
            name = hashlib.sha256(identity.encode()).hexdigest()[:16]
            parts.append(Part(pairs, indices, self.folder / f"{name}.safetensors"))
        return parts

    def jobs(self, name: str, place: tuple[str, ...], steps: int) -> Iterator[Job]:
        """One a part, of a state that has ``models``, a :class:`~interp.models.OneModel`; ``place`` begins with the
        model's spec, ``steps`` are of all of them."""
        parts = self.parts()
        for i, part in enumerate(parts):
            steps_here = steps * (i + 1) // len(parts) - steps * i // len(parts)
            options = (place[0], part, self.mlps, self.batch_size)
            yield Job(f"{name}: exact effects {i + 1}/{len(parts)}", measure_part, options, place, steps_here)

    def gathered(self) -> dict[str, np.ndarray] | None:
        """The effects of all pairs, in their order; ``None`` while parts are missing."""
        parts = self.parts()
        effects = [tensors for part in parts if (tensors := read_part(part)) is not None]
        if len(effects) < len(parts):
            return None
        order = np.argsort(np.concatenate([part.indices for part in parts]))
        return {name: np.concatenate([part[name] for part in effects])[order] for name in effects[0]}

    def reference(self, name: str, model: str, **provenance: object) -> ExactEffects | None:
        """The reference of all pairs; ``None`` while parts are missing."""
        effects = self.gathered()
        if effects is None:
            return None
        made = self.pairs.provenance() | {"model": model, "model_details": self.described} | provenance
        metrics = effects["clean"], effects["corrupt"]
        components = effects["heads"], effects.get("mlps")
        return ExactEffects(name, self.pairs.task, model, *components, *metrics, made)


def measure_part(state: Any, spec: str, part: Part, mlps: bool, batch_size: int, report: JobProgress) -> None:
    """Patch every component on the pairs of a part, if its file is not there."""
    if read_part(part) is not None:
        return
    begun = part.path.with_suffix(".begun")
    config = PatchingConfig(batch_size=batch_size, mlps=mlps, checkpoint=str(begun))
    part.path.parent.mkdir(parents=True, exist_ok=True)
    progress = counted(report.share, HUNDREDTHS)
    scores = patching(state.models(spec), part.pairs, config, progress=progress)
    tensors = {"heads": scores.heads_per_pair, "clean": scores.metric_clean, "corrupt": scores.metric_corrupt}
    if scores.mlps_per_pair is not None:
        tensors["mlps"] = scores.mlps_per_pair
    with atomic_path(part.path) as temporary:
        save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, temporary)
    begun.unlink(missing_ok=True)


def read_part(part: Part) -> dict[str, np.ndarray] | None:
    """Effects of heads [pair, layer, head] and of MLPs, where there are some, and the metric of the ``clean`` and the
    ``corrupt`` prompts; ``None`` where the file is not there, or damaged."""
    try:
        tensors, _ = read_tensors(part.path, "numpy")
    except (OSError, SafetensorError):
        return None
    whole = {"heads", "clean", "corrupt"} <= tensors.keys()
    return tensors if whole and all(len(values) == len(part.indices) for values in tensors.values()) else None
