"""A patch: something else in the place of what the model writes at a site, or added to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.stream import end_logits
from interp.models import HookFunction, Model, Site, model_device


@dataclass(frozen=True)
class Patch:
    site: Site  # a head, all heads of a layer, or an MLP
    # with ``positions`` [row, d], or [row, head, d_head] for a whole layer; without them [row, pos, …] from the first
    # position on
    values: Float[Tensor, "row ..."]
    positions: Int[np.ndarray, " row"] | None = None  # in the prompt, one a row; all if not given
    rows: Bool[np.ndarray, " row"] | None = None  # those that are changed; all if not given
    add: bool = False  # to what stands there, rather than in its place

    def write(
        self, places: Int[np.ndarray, " some"], rows: Int[np.ndarray, " some"], begin: int = 0, end: int | None = None
    ) -> "Write":
        """The patch in a forward of some rows, which stand at ``places`` of its batch, from a position on."""
        values = self.values[torch.from_numpy(rows)]
        if self.positions is None:
            positions: Any = slice(None)
            values = values[:, begin:end]
        else:
            positions = self.positions[rows] - begin
        index = (places, positions) if self.site.head is None else (places, positions, self.site.head)
        return Write(index, values, self.add)


@dataclass(frozen=True)
class Write:
    """Values for a part of one activation."""

    index: Any
    values: Tensor
    add: bool = False


Reader = Callable[[Tensor], None]


def patch_hooks(
    writes: Mapping[str, Sequence[Write]], readers: Mapping[str, Sequence[Reader]] | None = None
) -> dict[str, HookFunction]:
    """Hooks that write, in this order, and show what then stands there to the readers."""

    readers = readers or {}

    def hook(name: str, activation: Tensor) -> Tensor | None:
        patched = activation.clone() if name in writes else activation
        for write in writes.get(name, ()):
            values = write.values.to(patched)
            patched[write.index] = patched[write.index] + values if write.add else values
        for reader in readers.get(name, ()):
            reader(patched)
        return patched if name in writes else None

    return {name: partial(hook, name) for name in {**writes, **readers}}


@torch.no_grad()
def patched_logits(
    model: Model, tokens: Sequence[int], patches: Sequence[Patch], readers: Mapping[str, Sequence[Reader]] | None = None
) -> Float[Tensor, " d_vocab"]:
    """Logits after one prompt with patches of one row in place."""
    writes: dict[str, list[Write]] = {}
    for patch in patches:
        writes.setdefault(patch.site.hook, []).append(patch.write(np.array([0]), np.array([0])))
    row = torch.tensor([list(tokens)], device=model_device(model))
    return end_logits(model, row, patch_hooks(writes, readers))[0].float().cpu()
