"""Keys that never move and values that can: a bottleneck that learns in one place without forgetting in another.

Träuble et al. 2023 (arXiv 2207.11240). Each slot sees the vector through a random projection of its own to a few
dimensions, and hits the nearest of its keys there. Keys are clustered once, on vectors without labels, and then frozen.
The decoded vector is the mean of the values of the keys hit, which for fixed keys is linear in the values: they are
fitted by least squares, or trained by gradients, which reach the values that were hit and no other.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.bottlenecks.base import register
from interp.bottlenecks.kinds.vq import VQConfig
from interp.bottlenecks.kmeans import GroupedKMeans, refit
from interp.bottlenecks.learned_slots import EncodedSlots
from interp.bottlenecks.product_codebook import ProductCodebookConfig
from interp.errors import InputError


@dataclass(frozen=True)
class KeyValueConfig(VQConfig):
    """``codes`` of a slot are its keys, in a projection to ``d_key`` dimensions."""

    slots: int = 8
    d_key: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.d_key <= self.d_in:
            raise InputError(f"d_key {self.d_key}: choose 1 to {self.d_in}, the vectors' dimensions")

    @property
    def width(self) -> int:
        return self.n_codes

    @classmethod
    def at(cls, bits: int, **options: Any) -> ProductCodebookConfig:
        return super().at(bits, **{"d_key": min(cls.d_key, options["d_in"])} | options)


@register
class KeyValue(EncodedSlots):
    """Frozen keys in random projections; ``codes`` are the values over the number of slots."""

    kind, config_class = "key_value", KeyValueConfig
    source, use = "Träuble et al. 2023", "local edits of a model without forgetting"

    def learn(self, rows: Tensor) -> Tensor:
        config, generator = self.config, torch.Generator().manual_seed(self.config.seed)
        maps, offsets = [], []
        for slot in range(config.slots):
            drawn = torch.randn(config.groups, config.d_in, config.d_key, generator=generator).to(rows)
            projection = torch.linalg.qr(drawn).Q
            kmeans = GroupedKMeans(config.codes, spherical=False, seed=config.seed + slot)
            keys = kmeans.fit(rows @ projection).centres_
            maps.append(projection @ keys.mT)
            offsets.append(keys.square().sum(-1) / -2)
        self.encoder.copy_(torch.cat(maps, -1))
        self.encoder_bias.copy_(torch.cat(offsets, -1))
        # the values: first the means of the vectors that hit a key, then all together
        ids = self._choose(rows, self._prepared(self.codes.detach().float()))[0]
        mean = rows.mean(1, keepdim=True) / config.slots
        return refit(rows, ids, mean.expand(-1, config.n_codes, -1).contiguous())
