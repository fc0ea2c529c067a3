"""Slots whose encoder is learned: z = x · encoder + bias, each slot chooses by its part of z, decoding is linear.

What latent quantisation, its fixed grid, bits and categorical codes have in common. They are trained by gradients on
the vectors of a site, in units of their spread about their mean. Afterwards the decoder is written down as codes, one
for each value of each slot.
"""

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import Book, GroupRows
from interp.bottlenecks.dictionary import SearchCache
from interp.bottlenecks.product_codebook import ProductCodebook, ProductCodebookConfig

BATCH = 256
ICA_ROUNDS, ICA_ROWS = 50, 5000
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class LearnedSlotsConfig(ProductCodebookConfig):
    """``steps`` of AdamW on :data:`BATCH` vectors each, from ``lr`` to 0 along a cosine; ``weight_decay`` is of encoder
    and decoder."""

    steps: Annotated[int, Ge(1)] = 1500
    lr: Annotated[float, Interval(gt=0, lt=1)] = 3e-3
    weight_decay: Annotated[float, Interval(ge=0, lt=10)] = 0.0

    @property
    def width(self) -> int:
        """Size of z."""
        return self.k


class EncodedSlots(ProductCodebook):
    """Slots that choose by z = comparable vector · encoder + encoder_bias, not by the codes."""

    encoder: Float[Tensor, "group d_in z"]
    encoder_bias: Float[Tensor, "group z"]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.register_buffer("encoder", torch.zeros(config.groups, config.d_in, config.width))
        self.register_buffer("encoder_bias", torch.zeros(config.groups, config.width))

    def preferences(self, z: Float[Tensor, "group row z"]) -> Float[Tensor, "group row code"]:
        """How much each code is preferred within its slot; here z is just that."""
        return z

    def gains(self, rows: GroupRows, _book: SearchCache) -> Float[Tensor, "group row code"]:
        return self.preferences(torch.baddbmm(self.encoder_bias[:, None].float(), rows, self.encoder.float()))

    def replace_dead(self, *_args: Any, **_kwargs: Any) -> int:
        """None: a code's vector has no part in when it is chosen, so another one would only decode wrongly."""
        self.counts.zero_()
        return 0

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"encoder": self.encoder, "encoder_bias": self.encoder_bias}


class LearnedSlots(EncodedSlots):
    config: Any

    def quantized(self, z: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The value that each latent takes."""
        raise NotImplementedError

    def grid(self, trained: Parameters) -> Float[Tensor, "*#latent level"]:
        """The values that latents can take."""
        raise NotImplementedError

    def begin(self, z: Float[Tensor, "group row z"], rows: GroupRows) -> Parameters:
        """What is trained beside the encoder, which makes ``z`` of these rows: a linear decoder of the values."""
        decoder, bias = least_squares(self.quantized(z), rows)
        return {"decoder": decoder, "bias": bias}

    @abstractmethod
    def reconstructed(
        self, z: Float[Tensor, "group row z"], trained: Parameters, done: float, generator: torch.Generator
    ) -> tuple[GroupRows, Float[Tensor, ""]]:
        """What ``z`` stands for, differentiable, and the loss beside the squared error; ``done`` is the share of the
        training that is."""

    def book(self, trained: Parameters) -> Book:
        """The codes: each value of each latent through the decoder."""
        return (self.grid(trained)[..., None] * trained["decoder"][:, :, None]).flatten(1, 2)

    def directions(self, rows: GroupRows, generator: torch.Generator) -> Float[Tensor, "group d_in z"]:
        """Where the encoder begins: at independent components, then in random directions; each z of unit variance."""
        width, d_in = self.config.width, self.config.d_in
        begun = [independent_components(rows, min(width, d_in), self.config.seed)]
        if width > d_in:
            begun.append(torch.randn(len(rows), d_in, width - d_in, generator=generator).to(rows))
        drawn = torch.cat(begun, -1)
        return drawn / (rows @ drawn).std(1, keepdim=True).clamp(min=1e-6)

    def learn(self, rows: GroupRows) -> Book:
        config, generator = self.config, torch.Generator().manual_seed(self.config.seed)
        mean = rows.mean(1, keepdim=True)
        size = (rows - mean).square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-12)
        rows = (rows - mean) / size
        weights = self.directions(rows, generator)
        with torch.no_grad():
            trained = {"encoder": weights, "encoder_bias": weights.new_zeros(config.groups, 1, config.width)}
            trained |= self.begin(rows @ weights, rows)
        self._train({name: tensor.requires_grad_() for name, tensor in trained.items()}, rows, generator)
        with torch.no_grad():
            self.encoder.copy_(trained["encoder"] / size)
            self.encoder_bias.copy_((trained["encoder_bias"] - mean @ self.encoder)[:, 0])
            codes = self.book(trained) * size
            codes[:, : config.radices[0]] += mean + trained["bias"][:, None] * size
        return codes.detach()

    def _train(self, trained: Parameters, rows: Tensor, generator: torch.Generator) -> None:
        config = self.config
        decays = {name: config.weight_decay * (name in ("encoder", "decoder")) for name in trained}
        groups = [{"params": [t], "weight_decay": decays[name]} for name, t in trained.items()]
        optimizer = torch.optim.AdamW(groups, lr=config.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
        with torch.enable_grad():
            for step in range(config.steps):
                drawn = torch.randint(rows.shape[1], (min(BATCH, rows.shape[1]),), generator=generator)
                batch = rows[:, drawn]
                z = batch @ trained["encoder"] + trained["encoder_bias"]
                reconstruction, extra = self.reconstructed(z, trained, step / config.steps, generator)
                # groups are summed, so that each is trained as it would be alone
                loss = (reconstruction - batch).square().mean((1, 2)).sum() + extra
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()


def decoded(q: Float[Tensor, "group row z"], trained: Parameters) -> GroupRows:
    """By a linear decoder with a bias."""
    return q @ trained["decoder"] + trained["bias"][:, None]


def independent_components(rows: GroupRows, n: int, seed: int) -> Float[Tensor, "group d_in n"]:
    """Directions along which the largest principal components vary independently (FastICA, Hyvärinen 1999)."""
    from sklearn.decomposition import FastICA

    components = []
    for group in rows[:, :: max(1, rows.shape[1] // ICA_ROWS)]:
        ica = FastICA(n, whiten="unit-variance", max_iter=ICA_ROUNDS, tol=1e-3, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where it stops early is still a place to begin
            ica.fit(group.cpu().double().numpy())
        components.append(torch.from_numpy(ica.components_.T).to(rows))
    return torch.stack(components)


def least_squares(
    q: Float[Tensor, "group row z"], rows: GroupRows, ridge: float = 1e-3
) -> tuple[Float[Tensor, "group z d_in"], Float[Tensor, "group d_in"]]:
    """Decoder and bias with which q · decoder + bias is nearest to the rows; the ridge is in units of q's variance."""
    mean, target = q.mean(1, keepdim=True), rows.mean(1, keepdim=True)
    apart = q - mean
    gram = apart.mT @ apart
    size = gram.diagonal(dim1=1, dim2=2).mean(-1).clamp(min=1e-12)
    gram = gram + ridge * size[:, None, None] * torch.eye(gram.shape[-1], device=gram.device)
    decoder = torch.linalg.solve(gram, apart.mT @ (rows - target))
    return decoder, (target - mean @ decoder)[:, 0]
