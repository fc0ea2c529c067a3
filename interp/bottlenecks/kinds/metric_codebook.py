"""A codebook that compares vectors after a linear map: by what they do rather than by their own coordinates.

A head's z acts on the model only through W_O, and W_O treats its directions very unequally. With W_O as the map, codes
are chosen and fitted by what the head would write: the most similar code is the one whose *output* is most similar, and
k-means minimises the error of the output. Only inner products count, so the map is kept as the d_in × d_in
matrix L with L Lᵀ = W_O W_Oᵀ. Codes themselves, and the vectors they sum to, stay z.
"""

from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import Book, GroupRows, register
from interp.bottlenecks.dictionary import Dictionary
from interp.bottlenecks.kinds.codebook import Codebook
from interp.errors import InputError

FLOOR = 1e-4
"""Added to the map's Gram matrix, in units of its mean diagonal: directions that do nothing keep a little weight."""
T = TypeVar("T", bound="ByMap")


class ByMap(Dictionary):
    """A dictionary that compares row vectors x as x · ``metric``; without :meth:`compare_by` as they are."""

    metric: Float[Tensor, "group d_in d_in"]

    def __init__(self, config: Any, codes: Book) -> None:
        super().__init__(config, codes)
        self.register_buffer("metric", torch.eye(config.d_in).repeat(config.groups, 1, 1))

    @torch.no_grad()
    def compare_by(self: T, weights: Float[Tensor, "group d_in d_out"]) -> T:
        """Compare vectors x by x · weights: W_O of each head, for z. To be followed by :meth:`fit`.

        The scale of the map is free; near 1, squared errors stay comparable with those of the vectors.
        """
        config = self.config
        if weights.ndim != 3 or tuple(weights.shape[:2]) != (config.groups, config.d_in):
            wanted = f"[{config.groups}, {config.d_in}, width]"
            raise InputError(f"weights of shape {list(weights.shape)}: expected {wanted}")
        self.metric.copy_(_root(weights)[0])
        return self

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"metric": self.metric}

    def comparable(self, rows: GroupRows) -> GroupRows:
        return rows @ self.metric.float()


@register
class MetricCodebook(Codebook, ByMap):
    """A codebook that compares vectors by what is made of them; its metric L is lower triangular."""

    kind = "metric_codebook"
    source, use = "ours", "codebooks at heads"

    @torch.no_grad()
    def _cluster(self, rows: GroupRows, *, stream: bool) -> None:
        learned = self._learned(self.comparable(rows), stream=stream)
        # x L = learned, solved for x
        self.codes.copy_(torch.linalg.solve_triangular(self.metric.float(), learned, upper=False, left=False))


def output_map(weights: Float[Tensor, "group d_in d_out"]) -> Float[Tensor, "group d_in d_in"]:
    """L with L Lᵀ = weights · weightsᵀ, lower triangular: ‖x L‖ is the length of x · weights, of every group in the
    same units (beside :data:`FLOOR`, by which L can be inverted); float64.

    A group whose weights are all zero, as of a head that was pruned, has L = 1.
    """
    root, size = _root(weights)
    return root * size.sqrt()[:, None, None]


def _root(
    weights: Float[Tensor, "group d_in d_out"],
) -> tuple[Float[Tensor, "group d_in d_in"], Float[Tensor, " group"]]:
    """Cholesky root of the Gram matrix over its mean diagonal, and that diagonal; float64."""
    gram = weights.double() @ weights.double().mT
    size = gram.diagonal(dim1=-2, dim2=-1).mean(-1)
    if not torch.isfinite(size).all():
        wrong = int((~torch.isfinite(size)).nonzero()[0])
        raise InputError(f"weights of group {wrong} are NaN or infinite: they tell no vectors apart")
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    nothing = size == 0
    size = torch.where(nothing, 1.0, size)
    gram = torch.where(nothing[:, None, None], eye, gram / size[:, None, None] + FLOOR * eye)
    return torch.linalg.cholesky(gram), size
