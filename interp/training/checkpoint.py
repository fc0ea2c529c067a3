"""Checkpoints of a training run: one file each, whole or not at all.

Everything that the rest of the run depends on is in it: codes, their usage, the optimizer's moments, in joint training
the model's weights, and in the file's metadata the step, what was asked for, and the history so far. What is drawn at a
step is drawn from a generator seeded by the run's seed and the number of the step, so those two are the generator's
state.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from interp.bottlenecks.book_folder import difference
from interp.files import atomic_path, read_tensors
from interp.tasks.errors import InputError

KEPT = 2
"""The one before the last stays, in case the last is damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """
    Attributes:
        step: steps done.
        history: per measure one value a step.
    """

    step: int
    tensors: Mapping[str, Tensor]
    history: Mapping[str, list[float | None]]


class Checkpoints:
    """Those of one run, in a folder of their own.

    Args:
        request: what the run depends on; a checkpoint of another is refused.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        self.folder, self.request = Path(folder), json.loads(json.dumps(request))

    def save(self, checkpoint: Checkpoint) -> None:
        """Write it, then delete all but the last two.

        Raises:
            InputError: NaN or infinite values: nothing is written, the earlier ones stay.
        """
        for name, tensor in checkpoint.tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise InputError(
                    f"step {checkpoint.step}: {name} holds NaN or infinite values; {self.kept()}"
                )
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        about = {"step": checkpoint.step, "request": self.request, "history": checkpoint.history}
        with atomic_path(self._path(checkpoint.step)) as temporary:
            save_file(tensors, temporary, metadata={"run": json.dumps(about)})
        for path in self._paths()[:-KEPT]:
            path.unlink()

    def latest(self) -> Checkpoint | None:
        """The last one, or None if there is none.

        Raises:
            InputError: it is damaged, or of another run.
        """
        paths = self._paths()
        if not paths:
            return None
        path = paths[-1]
        try:
            tensors, header = read_tensors(path)
            about = json.loads(header["run"])
            step, history, request = (about[key] for key in ("step", "history", "request"))
        except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            before = f"goes on from {paths[-2].name}" if len(paths) > 1 else "starts again"
            raise InputError(
                f"the checkpoint {path} is damaged ({error}): delete it, and the run {before}"
            ) from None
        for part, wanted in self.request.items():
            if request.get(part) != wanted:
                which = difference(part, request.get(part), wanted)
                raise InputError(f"{path} is a checkpoint of another {which}: choose another folder")
        return Checkpoint(step, tensors, history)

    def kept(self) -> str:
        """Which checkpoint there is to go on from, in words."""
        paths = self._paths()
        return f"the last good checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08}.safetensors"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))
