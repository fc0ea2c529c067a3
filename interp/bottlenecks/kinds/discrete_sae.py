"""A sparse autoencoder whose strongest feature is read as one integer code.

The recipe of O'Neill & Bui 2024 (arXiv 2405.12522), as its published code runs it:

1. activations = ReLU((x − b) W_encᵀ + b_enc), reconstruction = activations W_decᵀ + b, with one tied bias b
   that starts at zero and no other bias in the decoder;
2. loss = squared error, averaged over rows *and* coordinates, + λ · L1, *summed* over features and averaged
   over rows. So λ = 0.02 is a strong penalty at hundreds of coordinates: most rows end with nothing active;
3. full-batch Adam. Each row of W_enc and W_dec is kept at unit norm: the part of the gradient along it is
   removed, and it is renormalised in each forward pass;
4. code = the most active feature; a row on which nothing is active gets code 0.

In the published code the rows of W_dec are the *output coordinates*, so each coordinate has unit norm and not
each dictionary atom: ``decoder_norm="coordinate"``. ``"atom"`` is what was probably meant.

The gradient is written out by hand (:func:`gradient`). Under the L1 penalty most rows soon activate nothing and most
features are zero on most rows, so all but the encoder's matrix product is computed on the active rows and the live
features alone. The result is exact.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import Bottleneck, Codes, Vectors, grouped_rows, id_dtype, register, sum_of_codes
from interp.errors import InputError, check_fields


class Weights(NamedTuple):
    """One dictionary, or a stack of them with a group axis in front."""

    encoder: Float[Tensor, "*group code d_in"]
    encoder_bias: Float[Tensor, "*group code"]
    decoder: Float[Tensor, "*group d_in code"]
    bias: Float[Tensor, "*group d_in"]


def gradient(weights: Weights, x: Float[Tensor, "row d_in"], total: Float[Tensor, " d_in"], l1: float) -> Weights:
    """Gradient of mean (x̂ − x)² (over rows and coordinates) + l1 · mean over rows of Σ_features a.

    Here a = ReLU((x − bias) encoderᵀ + encoder_bias), x̂ = a decoderᵀ + bias, and total = Σ_rows x.
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


DecoderNorm = Literal["coordinate", "atom"]


@dataclass(frozen=True)
class DiscreteSAEConfig:
    d_in: Annotated[int, Ge(1)]
    n_codes: Annotated[int, Ge(1)] = 200
    l1: Annotated[float, Ge(0)] = 0.02  # λ, the weight of the L1 term
    # epochs, lr: full-batch steps of Adam, and their size
    epochs: Annotated[int, Ge(1)] = 500
    lr: Annotated[float, Gt(0)] = 1e-3
    decoder_norm: DecoderNorm = "coordinate"  # which vectors of the decoder have unit norm (module docstring)
    groups: Annotated[int, Ge(1)] = 1
    seed: Annotated[int, Ge(0)] = 0  # of the initial weights; group g starts from ``seed + g``
    k: int = 1  # codes that :meth:`DiscreteSAE.encode` gives unless told otherwise

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= self.k <= self.n_codes:
            raise InputError(f"k {self.k}: the dictionary has {self.n_codes} codes")

    @property
    def decoder_axis(self) -> int:
        """The axis of [d_in, code] along which the decoder's norms are 1."""
        return -1 if self.decoder_norm == "coordinate" else -2


@register
class DiscreteSAE(Bottleneck):
    """The strongest features of a sparse autoencoder.

    Each group (a head, say) has its own dictionary: the same one that training it alone would give. ``weights_`` are
    the dictionaries once fitted or loaded, with the group axis in front.
    """

    kind = "discrete_sae"
    source, use = "O'Neill & Bui 2024", "overlap scores"
    config_class = DiscreteSAEConfig
    config: DiscreteSAEConfig

    def __init__(self, config: DiscreteSAEConfig) -> None:
        self.config = config
        self.weights_: Weights | None = None

    def fit(self, x: Vectors) -> "DiscreteSAE":
        """Train from scratch on all rows at once; the same rows and config give the same weights."""
        rows = grouped_rows(x, self.config)
        if rows.shape[1] < 2:
            raise InputError(f"{rows.shape[1]} row to train a dictionary on: give at least 2")
        # one dictionary and its optimiser state fit the processor's cache, a stack of them does not
        trained = [
            _train(rows[group], replace(self.config, seed=self.config.seed + group))
            for group in range(self.config.groups)
        ]
        self.weights_ = Weights(*(torch.stack(parts) for parts in zip(*trained, strict=True)))
        return self

    @torch.no_grad()
    def encode(self, x: Vectors, k: int | None = None) -> Codes:
        """The ``k`` most active features of every vector, ties in order of id; inactive slots have value 0.

        With ``k=1`` this is the published argmax, so that a vector on which nothing is active has code 0.
        """
        weights = self._fitted()
        k = self.config.k if k is None else replace(self.config, k=k).k
        rows = grouped_rows(x, self.config)
        shift = weights.encoder_bias - torch.einsum("gcd,gd->gc", weights.encoder, weights.bias)
        active = torch.baddbmm(shift[:, None], rows, weights.encoder.mT).relu_()
        if k == 1:
            values, ids = active.max(-1, keepdim=True)
        else:
            values, ids = torch.sort(active, dim=-1, descending=True, stable=True)
            values, ids = values[..., :k], ids[..., :k]
        shape = (*x.shape[:-1], k)
        ids = ids.to(id_dtype(self.config.n_codes))
        return Codes(ids.transpose(0, 1).reshape(shape), values.transpose(0, 1).reshape(shape))

    @torch.no_grad()
    def decode(self, codes: Codes) -> Vectors:
        """Sum of the coded atoms, each times its value, plus the tied bias."""
        weights = self._fitted()
        x = sum_of_codes(weights.decoder.mT, codes)
        return x + (weights.bias[0] if self.config.groups == 1 else weights.bias)

    def select(self, groups: slice) -> "DiscreteSAE":
        """The dictionaries of some groups only, sharing memory with this one."""
        tensors = {name: part[groups] for name, part in self.tensors().items()}
        seed = self.config.seed + groups.indices(self.config.groups)[0]
        return self.restored(replace(self.config, groups=len(tensors["bias"]), seed=seed), tensors)

    def tensors(self) -> dict[str, Tensor]:
        return self._fitted()._asdict()

    @classmethod
    def restored(cls, config: DiscreteSAEConfig, tensors: Mapping[str, Tensor]) -> "DiscreteSAE":
        sae = cls(config)
        sae.weights_ = Weights(**{name: tensors[name] for name in Weights._fields})
        n_codes, d_in = config.n_codes, config.d_in
        shapes = ((n_codes, d_in), (n_codes,), (d_in, n_codes), (d_in,))
        for name, shape, weights in zip(Weights._fields, shapes, sae.weights_, strict=True):
            if weights.shape != (config.groups, *shape):
                codes = f"{config.groups} × {n_codes} codes of size {d_in}"
                raise InputError(f"weights: {name} of shape {list(weights.shape)} does not fit {codes}")
        return sae

    def to(self, target: torch.device | str) -> "DiscreteSAE":
        self.weights_ = Weights(*(part.to(target) for part in self._fitted()))
        return self

    def _fitted(self) -> Weights:
        if self.weights_ is None:
            raise RuntimeError("this DiscreteSAE has no dictionary yet: call fit or load one")
        return self.weights_


@torch.no_grad()
def _train(x: Float[Tensor, "row d_in"], config: DiscreteSAEConfig) -> Weights:
    weights = _initial(config, x.device)
    axis = config.decoder_axis
    x = x.contiguous()
    optimizer = torch.optim.Adam(list(weights), lr=config.lr, fused=True)
    total = x.sum(0)
    for _ in range(config.epochs):
        slope = gradient(weights, x, total, config.l1)
        weights.encoder.grad = tangent(slope.encoder, weights.encoder, axis=-1)
        weights.encoder_bias.grad = slope.encoder_bias
        weights.decoder.grad = tangent(slope.decoder, weights.decoder, axis=axis)
        weights.bias.grad = slope.bias
        optimizer.step()
        torch.nn.functional.normalize(weights.encoder, dim=-1, out=weights.encoder)
        torch.nn.functional.normalize(weights.decoder, dim=axis, out=weights.decoder)
    return Weights(*(part.detach() for part in weights))


def _initial(config: DiscreteSAEConfig, device: torch.device) -> Weights:
    """Random unit vectors, uniform encoder biases of torch's usual width, and a zero tied bias."""
    generator = torch.Generator().manual_seed(config.seed)
    encoder = torch.randn(config.n_codes, config.d_in, generator=generator)
    bound = 1 / math.sqrt(config.d_in)
    encoder_bias = (torch.rand(config.n_codes, generator=generator) * 2 - 1) * bound
    decoder = torch.randn(config.d_in, config.n_codes, generator=generator)
    encoder = torch.nn.functional.normalize(encoder, dim=-1)
    decoder = torch.nn.functional.normalize(decoder, dim=config.decoder_axis)
    parts = (encoder, encoder_bias, decoder, torch.zeros(config.d_in))
    return Weights(*(part.to(device) for part in parts))
