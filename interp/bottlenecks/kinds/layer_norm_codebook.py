"""Codebook features as the authors' code runs them: the vector goes through a LayerNorm that is never undone.

``codes`` are then what passes on, in the norm's scale, and everything the codebook is fitted to and judged by is the
normed vector, not the vector: the model behind it must have been trained with it. Made for released checkpoints
(:mod:`interp.bottlenecks.interop.codebook_features`); for codes of a model as it is take
:class:`~interp.bottlenecks.kinds.codebook.Codebook`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.bottlenecks.base import GroupRows, Vectors, grouped_rows, register
from interp.bottlenecks.kinds.codebook import Codebook, CodebookConfig

EPSILON = 1e-5


@register
class LayerNormCodebook(Codebook):
    """A codebook behind a LayerNorm over each group's vector, of ``gain`` and ``bias`` [group, d_in].

    The gradient to the vector goes straight past codes *and* norm; the authors' goes through the norm.
    """

    kind = "layer_norm_codebook"
    source, use = "Tamkin et al. 2023, their code", "released checkpoints"

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__(config)
        self.gain = nn.Parameter(torch.ones(config.groups, config.d_in), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(config.groups, config.d_in), requires_grad=False)

    def loss(self, x: Vectors, decoded: Vectors) -> Float[Tensor, ""]:
        """λ times the squared error against the normed vector, summed over coordinates and averaged over vectors."""
        return super().loss(self.rows(x).transpose(0, 1).reshape(x.shape), decoded)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"gain": self.gain, "bias": self.bias}

    def rows(self, x: Tensor) -> GroupRows:
        rows = grouped_rows(x, self.config)
        normed = nn.functional.layer_norm(rows, rows.shape[-1:], eps=EPSILON)
        return normed * self.gain[:, None].float() + self.bias[:, None].float()
