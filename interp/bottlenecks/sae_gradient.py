"""The gradient of a ReLU sparse autoencoder's loss, by hand.

Under the L1 penalty most rows soon activate nothing and most features are zero on most rows, so all but the
encoder's matrix product is computed on the active rows and the live features alone. The result is exact.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Weights(NamedTuple):
    """One dictionary, or a stack of them with a group axis in front."""

    encoder: Float[Tensor, "*group code d_in"]
    encoder_bias: Float[Tensor, "*group code"]
    decoder: Float[Tensor, "*group d_in code"]
    bias: Float[Tensor, "*group d_in"]


def gradient(
    weights: Weights, x: Float[Tensor, "row d_in"], total: Float[Tensor, " d_in"], l1: float
) -> Weights:
    """Gradient of mean (x̂ − x)² (over rows and coordinates) + l1 · mean over rows of Σ_features a.

    Here a = ReLU((x − bias) encoderᵀ + encoder_bias) and x̂ = a decoderᵀ + bias.

    Args:
        total: the sum of the rows of ``x``.
    """
    encoder, encoder_bias, decoder, bias = weights
    n_rows, d_in = x.shape
    scale = 2 / (n_rows * d_in)
    before = torch.addmm(encoder_bias - encoder @ bias, x, encoder.T)
    positive = before > 0
    rows = positive.any(1).nonzero()[:, 0]
    live = positive.any(0).nonzero()[:, 0]
    x = x[rows]
    active = before[rows][:, live].relu_()
    atoms = decoder[:, live]

    error = torch.addmm(bias, active, atoms.T).sub_(x).mul_(scale)  # ∂L/∂x̂ of the active rows
    back = torch.mm(error, atoms).add_(l1 / n_rows).mul_(active > 0)  # ∂L/∂(pre-activation)

    slope = Weights(*(torch.zeros_like(part) for part in weights))
    slope.decoder[:, live] = error.T @ active
    slope.encoder_bias[live] = back.sum(0)
    slope.encoder[live] = back.T @ x - torch.outer(slope.encoder_bias[live], bias)
    # the bias sees every row's error: directly after the decoder, and through what is active in the encoder
    slope.bias.add_(scale * (atoms @ active.sum(0) + n_rows * bias - total))
    slope.bias.sub_(slope.encoder_bias @ encoder)
    return slope


def tangent(slope: Tensor, vectors: Tensor, axis: int) -> Tensor:
    """``slope`` without its part along each of the unit vectors that lie on ``axis``."""
    return slope - (slope * vectors).sum(axis, keepdim=True) * vectors
