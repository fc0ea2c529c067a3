"""What ablated components are replaced by: consumers that keep it from one pass over the pairs."""

from typing import Literal, get_args

import torch
from torch import Tensor

from interp.activations.stream import PairBatch

Kind = Literal["resample", "mean", "mean-by-position", "zero"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Fill = tuple[list[Tensor], list[Tensor]]
"""Of heads and of MLPs, layer by layer; each tensor broadcasts to one batch of pairs."""


class Corrupt:
    """``resample``: every component's output on the corrupt prompts, batch by batch as they came."""

    needs_gradients = False
    needs_patterns = False

    def __init__(self) -> None:
        self.kept: dict[tuple[int, ...], Fill] = {}

    def update(self, batch: PairBatch) -> None:
        self.kept[batch.indices] = (list(batch.corrupt.z), list(batch.corrupt.mlp))

    def of(self, indices: tuple[int, ...], _length: int) -> Fill:
        return self.kept[indices]


class Zero:
    """``zero``: one zero for every layer."""

    needs_gradients = False
    needs_patterns = False

    def __init__(self) -> None:
        self.fill: Fill = ([], [])

    def update(self, batch: PairBatch) -> None:
        zeros = [
            [torch.zeros((), device=t.device) for t in side] for side in (batch.clean.z, batch.clean.mlp)
        ]
        self.fill = (zeros[0], zeros[1])

    def of(self, _indices: tuple[int, ...], _length: int) -> Fill:
        return self.fill


class MeanByPosition:
    """``mean-by-position``: means over the corrupt prompts of each length, [pos, …] a layer."""

    needs_gradients = False
    needs_patterns = False

    def __init__(self) -> None:
        self.sums: dict[int, Fill] = {}
        self.counts: dict[int, int] = {}

    def update(self, batch: PairBatch) -> None:
        length, n = batch.corrupt.tokens.shape[1], len(batch.indices)
        found = [[t.float().sum(0) for t in side] for side in (batch.corrupt.z, batch.corrupt.mlp)]
        before = self.sums.get(length)
        if before is not None:
            found = [[a + b for a, b in zip(*both, strict=True)] for both in zip(before, found, strict=True)]
        self.sums[length] = (found[0], found[1])
        self.counts[length] = self.counts.get(length, 0) + n

    def of(self, _indices: tuple[int, ...], length: int) -> Fill:
        z, mlp = ([total / self.counts[length] for total in side] for side in self.sums[length])
        return z, mlp


class Mean(MeanByPosition):
    """``mean``: the same over positions and lengths as well, one vector a component."""

    def of(self, _indices: tuple[int, ...], _length: int) -> Fill:
        tokens = sum(length * count for length, count in self.counts.items())
        z, mlp = (
            [sum(total.sum(0) for total in layer) / tokens for layer in zip(*sides, strict=True)]
            for sides in zip(*self.sums.values(), strict=True)
        )
        return z, mlp


FILLS: dict[str, type] = {
    "resample": Corrupt,
    "mean": Mean,
    "mean-by-position": MeanByPosition,
    "zero": Zero,
}
