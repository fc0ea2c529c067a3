"""What a reproduction is made by: its scales, and the numbers they are held against."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from interp.bottlenecks.codebook_config import Selection
from interp.models.neox import NeoXShape
from interp.tasks.errors import InputError
from interp.tokfsm.data import MACHINE_SEED, N_CTX


@dataclass(frozen=True)
class Recipe:
    """
    Attributes:
        scale: its name.
        tokens: trained on in all, those before there are codebooks included.
        plain_share: of the tokens, before the codebooks come in: first the model learns the machine, then its
            activations are clustered, layer by layer, and model and codes are trained on together.
        n_codes: per MLP, and per head.
        batch: sequences of 128 tokens a step.
        optimizer: of the model. ``adam``, or ``muon`` (Jordan et al. 2024) for the matrices of the layers and Adam, at
            half the rate, for all else.
        lr: at the height of the first part; Adam has (0.9, 0.999).
        lr_coded: of the model at the height of the second. Codes cannot follow a model that moves faster: at 1e-3, with
            codes at 1e-3 too, what the books explain fell by half within 80 steps.
        lr_codes: of the codes at the height of the second.
        selection: of the code of a vector, ``cosine`` as published or ``residual``, which for one code is the nearest.
        memory: share that a step keeps of the running means that codes follow without gradient; None: they learn by
            gradient.
        taught: whether the second part learns from what the model without codebooks foretells, and not from the text's
            next digit: the same in the mean over texts as far as that model is right, with less noise.
        warmup: steps at the beginning of each part in which the rate rises.
        decay_share: of each part, at its end, in which the rate falls: to a tenth before the codebooks, then to 0.
        commitment: weight of the share of the activations' spread that codes leave unexplained, which holds
            activations near them; not in the publication.
        replace_every: steps between replacements of dead codes; 0: they are left alone.
        replace_until: share of the second part after which codes are left alone.
        fit_sequences: that k-means sees.
        seed: of weights, text and k-means; the machine has its own.
        machine_seed: 42 gives the published machine.
    """

    scale: str = "cpu"
    tokens: int = 38_000_000
    plain_share: float = 0.6
    n_codes: int = 1000
    batch: int = 16
    optimizer: Literal["adam", "muon"] = "adam"
    lr: float = 2e-3
    lr_coded: float = 5e-4
    lr_codes: float = 5e-3
    selection: Selection = "cosine"
    memory: float | None = None
    taught: bool = False
    warmup: int = 200
    decay_share: float = 0.3
    commitment: float = 0.1
    replace_every: int = 500
    replace_until: float = 0.5
    fit_sequences: int = 256
    seed: int = 0
    machine_seed: int = MACHINE_SEED
    shape: NeoXShape = NeoXShape()

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise InputError(f"tokens {self.tokens}: give at least {2 * self.batch * N_CTX}, two steps")
        if self.optimizer not in ("adam", "muon"):
            raise InputError(f"optimizer {self.optimizer!r}: choose adam or muon")
        if self.memory is not None and not 0 <= self.memory < 1:
            raise InputError(f"memory {self.memory}: it must be at least 0 and below 1")
        if self.memory is not None and self.replace_every:
            raise InputError("replace_every: codes that follow running means are not replaced; make it 0")
        if self.seed < 0:
            raise InputError(f"seed {self.seed}: it must be 0 or more")
        if not 1 <= self.n_codes <= self.fit_sequences * N_CTX:
            most = self.fit_sequences * N_CTX
            raise InputError(f"n_codes {self.n_codes}: it must be 1 to {most}, the vectors that k-means sees")

    @property
    def per_step(self) -> int:
        return self.batch * N_CTX

    @property
    def steps(self) -> int:
        return self.tokens // self.per_step

    @property
    def plain_steps(self) -> int:
        """Steps before the codebooks come in."""
        return min(max(1, round(self.steps * self.plain_share)), self.steps - 1)

    def lr_at(self, step: int) -> float:
        """Learning rate of the model at a step: up, level, down, twice; the codes' is in proportion."""
        plain = step < self.plain_steps
        begin, end = (0, self.plain_steps) if plain else (self.plain_steps, self.steps)
        height, lowest = (self.lr, 0.1) if plain else (self.lr_coded, 0.0)
        up = (step - begin + 1) / max(1, min(self.warmup, (end - begin) // 10))
        left = (end - step) / max(1.0, self.decay_share * (end - begin))
        down = lowest + (1 - lowest) * (1 - math.cos(math.pi * min(1.0, left))) / 2
        return height * min(1.0, up) * down

    def replaces_at(self, step: int) -> bool:
        """Whether dead codes are replaced before this step."""
        done = step - self.plain_steps
        return (
            self.replace_every > 0
            and done > 0
            and done % self.replace_every == 0
            and done < self.replace_until * (self.steps - self.plain_steps)
        )


SCALES = {
    "quick": Recipe(
        scale="quick",
        tokens=10_000_000,
        optimizer="muon",
        lr=5e-3,
        lr_coded=1e-3,
        selection="residual",
        memory=0.9,
        taught=True,
        commitment=0.5,
        replace_every=0,
    ),
    "cpu": Recipe(),
    "full": replace(
        Recipe(), scale="full", tokens=2_621_440_000, n_codes=10_000, batch=512, fit_sequences=1024
    ),
}
"""``quick`` is another recipe, found later, and not the others' on fewer tokens.

``full`` sees as many tokens as the published run: 20 000 steps of 1024 sequences."""


def recipe(scale: str, *, seed: int = 0, tokens: int | None = None) -> Recipe:
    """A scale's recipe with this seed, and other tokens if given.

    Raises:
        InputError: an unknown scale, or too few tokens.
    """
    if scale not in SCALES:
        raise InputError(f"scale {scale!r}: choose {', '.join(SCALES)}")
    return replace(SCALES[scale], seed=seed, tokens=tokens or SCALES[scale].tokens)
