"""What a codebook is made by."""

import math
from dataclasses import dataclass
from typing import Literal

from interp.tasks.errors import InputError, check_fields

Selection = Literal["cosine", "residual"]


@dataclass(frozen=True)
class CodebookConfig:
    """
    Attributes:
        d_in: size of the vectors.
        n_codes: codes per group, C.
        k: codes per vector.
        groups: independent codebooks, one per head.
        selection: ``cosine`` takes the k most similar codes, as published. ``residual`` takes one at a time, each
            the one that leaves the smallest squared remainder, from the same book.
        magnitude: ``dropped`` as published: every chosen code enters with factor 1. ``kept``: with the factor that
            fits best, one for all k codes (cosine) or one for each in turn, as in matching pursuit (residual).
        mse_weight: λ of :meth:`Codebook.loss`.
        seed: of the initial codes, which are N(0, 1), and of k-means.
    """

    d_in: int
    n_codes: int
    k: int = 1
    groups: int = 1
    selection: Selection = "cosine"
    magnitude: Literal["dropped", "kept"] = "dropped"
    mse_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("d_in", "n_codes", "groups"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: it must be at least 1")
        if not 1 <= self.k <= self.n_codes:
            raise InputError(f"k {self.k}: it must be 1 to {self.n_codes}, the number of codes")
        if not (math.isfinite(self.mse_weight) and self.mse_weight >= 0):
            raise InputError(f"mse_weight {self.mse_weight}: it must be 0 or more")
        if self.seed < 0:
            raise InputError(f"seed {self.seed}: it must be 0 or more")
