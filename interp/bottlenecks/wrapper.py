"""A codebook that is looked at while it works at its site."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from interp.bottlenecks.base import Bottleneck, Codes, Vectors
from interp.bottlenecks.dictionary import Dictionary


class CodebookWrapper(Bottleneck):
    """For :func:`~interp.bottlenecks.attach.attach`: subclasses look at what passes, it is the codebook in all else.
    It is ``book`` that is fitted, saved and moved."""

    kind = "codebook"

    def __init__(self, book: Dictionary) -> None:
        self.book = book

    @property
    def config(self) -> Any:  # type: ignore[override]
        return self.book.config

    @property
    def unit_values(self) -> bool:
        return self.book.unit_values

    def slots_of(self, code: int) -> range:
        return self.book.slots_of(code)

    def encode(self, x: Vectors) -> Codes:
        return self.book.encode(x)

    def decode(self, codes: Codes) -> Vectors:
        return self.book.decode(codes)

    def tensors(self) -> dict[str, Tensor]:
        return self.book.tensors()

    def parameters(self) -> Iterator[Tensor]:
        return self.book.parameters()
