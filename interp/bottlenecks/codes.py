"""What a bottleneck makes of an activation: a few integer codes and how strongly each is active."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Codes:
    """The k codes of every vector, strongest first; ``ids`` index the bottleneck's dictionary."""

    ids: Int[Tensor, "*batch k"]
    values: Float[Tensor, "*batch k"]
