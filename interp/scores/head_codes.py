"""One integer code per head and prompt, from a dictionary trained on a handful of prompts.

O'Neill & Bui 2024 (arXiv 2405.12522): what each head adds to the residual stream, averaged over positions, is
one sample; one small sparse autoencoder is trained on the samples of ten prompts; then all are encoded.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.means import HeadMeans
from interp.bottlenecks.base import Bottleneck
from interp.bottlenecks.kinds.discrete_sae import DecoderNorm, DiscreteSAE, DiscreteSAEConfig, EpochProgress
from interp.errors import InputError, check_fields

PROMPTS_AT_ONCE = 128
"""Prompts encoded together: a layer of GPT-2 XL (25 heads of size 1600) is then 20 MB."""


@dataclass(frozen=True)
class HeadCodesConfig:
    """
    Attributes:
        n_codes: size of the dictionary.
        examples: prompts it is trained on, drawn from clean and corrupt ones together.
        l1: λ; see :data:`interp.scores.overlap.PUBLISHED_L1`.
        epochs, lr, decoder_norm: see :class:`~interp.bottlenecks.kinds.discrete_sae.DiscreteSAEConfig`.
        dictionary: ``shared`` by all heads, as published, or one ``per-head``.
        seed: of the prompts drawn and of the initial weights.
    """

    n_codes: int = 200
    examples: int = 10
    l1: float = 0.02
    epochs: int = 500
    lr: float = 1e-3
    decoder_norm: DecoderNorm = "coordinate"
    dictionary: Literal["shared", "per-head"] = "shared"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        least = 1 if self.dictionary == "shared" else 2
        if self.examples < least:
            raise InputError(f"examples {self.examples}: a {self.dictionary} dictionary needs {least} or more")
        self.sae(d_in=1, groups=1)  # says what is wrong with the rest

    def sae(self, d_in: int, groups: int) -> DiscreteSAEConfig:
        names = ("n_codes", "l1", "epochs", "lr", "decoder_norm", "seed")
        return DiscreteSAEConfig(d_in=d_in, groups=groups, **{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class HeadCodes:
    """The code of every head on every prompt.

    Attributes:
        ids: side 0 is clean, 1 corrupt; one slot unless the means were taken at role positions.
        dictionary: one for all heads, or one group per head in reading order.
        train_indices: the prompts it was trained on; i < n is clean prompt i, i ≥ n is corrupt prompt i − n.
    """

    ids: Int[np.ndarray, "side pair slot layer head"]
    n_codes: int
    dictionary: Bottleneck
    train_indices: tuple[int, ...]

    @property
    def config(self) -> Any:
        return self.dictionary.config

    def of(self, layer: int, head: int) -> Int[np.ndarray, "side pair slot"]:
        _, _, _, layers, heads = self.ids.shape
        if not (0 <= layer < layers and 0 <= head < heads):
            raise InputError(f"no head a{layer}.h{head}: there are a0–a{layers - 1}, h0–h{heads - 1}")
        return self.ids[..., layer, head]


def fit_head_codes(
    means: HeadMeans,
    w_o: Float[Tensor, "layer head d_head d_model"],
    config: HeadCodesConfig = HeadCodesConfig(),
    *,
    progress: EpochProgress | None = None,
) -> HeadCodes:
    """Train the dictionary on ``config.examples`` prompts and encode all of them, from fed ``means`` and the model's
    :func:`~interp.activations.means.output_weights`."""
    if not hasattr(means, "z_"):
        raise ValueError("these HeadMeans have seen no batch yet: feed them first")
    sides, n_pairs, slots, layers, heads, d_head = means.z_.shape
    if config.examples > sides * n_pairs:
        raise InputError(f"examples {config.examples}: there are only {sides * n_pairs} prompts")
    prompts = means.z_.reshape(sides * n_pairs, slots, layers, heads, d_head)
    shared = config.dictionary == "shared"
    sae = DiscreteSAE(config.sae(d_in=w_o.shape[-1], groups=1 if shared else layers * heads))
    chosen = np.random.default_rng(config.seed).permutation(len(prompts))[: config.examples]
    train = torch.einsum("nslhd,lhdm->nslhm", prompts[torch.from_numpy(chosen)], w_o)
    sae.fit(train if shared else train.flatten(2, 3), progress=progress)

    ids = np.empty((len(prompts), slots, layers, heads), dtype=np.int32)
    for layer in range(layers):
        dictionary = sae if shared else sae.select(slice(layer * heads, (layer + 1) * heads))
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            chunk = slice(start, start + PROMPTS_AT_ONCE)
            results = torch.einsum("nshd,hdm->nshm", prompts[chunk, :, layer], w_o[layer])
            ids[chunk, :, layer] = dictionary.encode(results).ids[..., 0].numpy()
    return HeadCodes(ids.reshape(sides, n_pairs, slots, layers, heads), config.n_codes, sae, tuple(chosen.tolist()))
