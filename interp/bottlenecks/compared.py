"""A codebook made ready for comparing vectors with it: what does not change from call to call."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Compared:
    """A book as vectors are compared with it.

    Attributes:
        codes: in the space of the comparison.
        norm: their lengths.
        factors, offset: ⟨vector, factor⟩ + offset is highest for the code to choose.
    """

    codes: Float[Tensor, "group code d_in"]
    norm: Float[Tensor, "group code"]
    factors: Float[Tensor, "group code d_in"]
    offset: Float[Tensor, "group 1 code"] | None

    def gain(
        self, rows: Float[Tensor, "group row d_in"], without: Bool[Tensor, "group code"] | None
    ) -> Float[Tensor, "group row code"]:
        """Higher is better; −∞ for codes that are left out."""
        factors = self.factors.mT
        gain = torch.bmm(rows, factors) if self.offset is None else torch.baddbmm(self.offset, rows, factors)
        return gain if without is None else gain.masked_fill(without[:, None], float("-inf"))
