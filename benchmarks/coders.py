"""Kinds of bottlenecks and baselines at about so many bits, as the tables of kinds fit and judge them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import SHIPPED, bits_per_vector, bottleneck_class, radices
from interp.bottlenecks.dictionary import Dictionary
from interp.bottlenecks.fit import new_config
from interp.bottlenecks.product_codebook import ProductCodebook
from interp.errors import InputError

KINDS = tuple(kind for kind in SHIPPED if kind not in ("layer_norm_codebook", "discrete_sae", "metric_codebook"))
BASELINES = {
    "random": "vectors of the training text, drawn at random, as codes",
    "pca": "principal coordinates of 16 bits",
    "pca4": "principal coordinates of 4 bits, evenly spaced between the 0.1 and 99.9 % quantile",
    "topk_sae": "a TopK SAE of SAELens, 1024 features, strengths of 16 bits",
}
SAE_FEATURES, STRENGTH_BITS = 1024, 16
TRAIN_STEPS, TRAIN_BATCH, DEAD_AFTER = 1500, 256, 200


class OfKind:
    """A bottleneck of a kind, at about so many bits."""

    def __init__(self, kind: str, bits: int, d_in: int, groups: int, seed: int) -> None:
        cls: Any = bottleneck_class(kind)
        self.book: Dictionary = cls(new_config(cls, {"d_in": d_in, "groups": groups, "seed": seed}, bits))
        self.bits = bits_per_vector(self.book.config)

    def fit(self, x: Float[Tensor, "row group d_in"]) -> None:
        self.book.fit(x if self.book.config.groups > 1 else x[:, 0])

    @torch.no_grad()
    def coded(self, x: Float[Tensor, "*batch group d_in"]) -> tuple[Tensor | None, Tensor]:
        """Ids [*batch, group, k], each slot's from 0, ``None`` without ids; and what they stand for."""
        grouped = self.book.config.groups > 1
        codes = self.book.encode(x if grouped else x[..., 0, :])
        ids, decoded = codes.ids, self.book.decode(codes)
        if not grouped:
            ids, decoded = ids.unsqueeze(-2), decoded.unsqueeze(-2)
        if isinstance(self.book, ProductCodebook):
            ids = ids - torch.tensor(self.book.starts[:-1]).to(ids)
        return ids, decoded

    def sizes(self) -> Sequence[int]:
        """Codes of each slot."""
        return radices(self.book.config)


class RandomCodes(OfKind):
    """Vectors that occurred, drawn at random."""

    def __init__(self, bits: int, d_in: int, groups: int, seed: int) -> None:
        super().__init__("vq", bits, d_in, groups, seed)
        self.seed = seed

    def fit(self, x: Tensor) -> None:
        drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed))
        self.book.codes.data.copy_(x[drawn[: self.book.config.n_codes]].transpose(0, 1))


class Coordinates:
    """Principal coordinates, of 16 bits (as they are) or on a grid of few."""

    def __init__(self, bits: int, d_in: int, each: int) -> None:
        self.n, self.each = bits // each, each
        if not 1 <= self.n <= d_in:
            raise InputError(f"{bits} bits: coordinates take {each} each, and vectors have {d_in}")
        self.bits = float(self.n * each)

    def fit(self, x: Tensor) -> None:
        rows = x.transpose(0, 1)
        self.mean = rows.mean(1)
        centred = rows - self.mean[:, None]
        self.axes = torch.linalg.eigh(centred.mT @ centred).eigenvectors.flip(-1)[..., : self.n]
        ends = torch.tensor([0.001, 0.999])
        self.low, self.high = (torch.quantile(centred @ self.axes, end, dim=1) for end in ends)

    def coded(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        coordinates, ids = torch.einsum("...gd,gdn->...gn", x - self.mean, self.axes), None
        if self.each < 16:
            step = (self.high - self.low) / (2**self.each - 1)
            ids = ((coordinates - self.low) / step).round().clamp(0, 2**self.each - 1)
            coordinates = self.low + ids * step
        decoded = self.mean + torch.einsum("...gn,gdn->...gd", coordinates, self.axes)
        return None if ids is None else ids.int(), decoded

    def sizes(self) -> Sequence[int]:
        return (2**self.each,) * self.n


class TopK:
    """SAELens' TopK SAE, one a group, trained on the same vectors."""

    def __init__(self, bits: int, groups: int, seed: int) -> None:
        each = math.log2(SAE_FEATURES) + STRENGTH_BITS
        self.k, self.groups, self.seed = round(bits / each), groups, seed
        if self.k < 1:
            raise InputError(f"{bits} bits: a feature of {SAE_FEATURES} and its strength take {each:.0f}")
        self.bits = self.k * each

    def fit(self, x: Tensor) -> None:
        self.scale = x.std((0, 2), keepdim=True)
        self.saes = [_train_topk(x[:, group] / self.scale[:, group], self.k, self.seed) for group in range(self.groups)]

    @torch.no_grad()
    def coded(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        ids, decoded = [], []
        for group, sae in enumerate(self.saes):
            acts = sae.encode(x[..., group, :] / self.scale[0, group])
            ids.append(acts.topk(self.k, dim=-1).indices)
            decoded.append(sae.decode(acts) * self.scale[0, group])
        return torch.stack(ids, -2), torch.stack(decoded, -2)

    def sizes(self) -> Sequence[int]:
        return (SAE_FEATURES,) * self.k


def _train_topk(x: Float[Tensor, "row d_in"], k: int, seed: int) -> Any:
    """By Adam, SAELens' auxiliary loss for dead features included."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput

    torch.manual_seed(seed)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=x.shape[-1], d_sae=SAE_FEATURES, k=k))
    sae.b_dec.data.copy_(x.mean(0))
    optimizer, generator = torch.optim.Adam(sae.parameters(), lr=1e-3), torch.Generator().manual_seed(seed)
    silent = torch.zeros(SAE_FEATURES)
    for step in range(TRAIN_STEPS):
        batch = x[torch.randint(len(x), (TRAIN_BATCH,), generator=generator)]
        output = sae.training_forward_pass(TrainStepInput(batch, {}, silent > DEAD_AFTER, step, False))
        silent = torch.where(output.feature_acts.any(0), 0, silent + 1)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    return sae.eval()


Coder = OfKind | Coordinates | TopK


def new_coder(kind: str, bits: int, d_in: int, groups: int, seed: int) -> Coder:
    """A kind or a baseline at about so many bits.

    Raises:
        InputError: no such kind, or a rate that it does not reach.
    """
    if kind == "random":
        return RandomCodes(bits, d_in, groups, seed)
    if kind in ("pca", "pca4"):
        return Coordinates(bits, d_in, 16 if kind == "pca" else 4)
    if kind == "topk_sae":
        return TopK(bits, groups, seed)
    return OfKind(kind, bits, d_in, groups, seed)
