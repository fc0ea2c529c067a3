"""What a reproduction is made by: its scales, and the numbers they are held against."""

import math
from dataclasses import dataclass, replace

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
        lr: of the layers' matrices, by Muon, at the height of the first part; all else has half of it, by Adam.
        lr_coded: the same at the height of the second. Codes cannot follow a model that moves much faster.
        memory: share that a step keeps of the running means that codes follow.
        warmup: steps at the beginning of each part in which the rate rises.
        decay_share: of each part, at its end, in which the rate falls: to a tenth before the codebooks, then to 0.
        commitment: weight of the share of the activations' spread that codes leave unexplained, which holds
            activations near them; not in the publication.
        fit_sequences: that k-means sees.
        seed: of weights, text and k-means; the machine has its own.
        machine_seed: 42 gives the published machine.
    """

    scale: str = "cpu"
    tokens: int = 20_000_000
    plain_share: float = 0.7
    n_codes: int = 1000
    batch: int = 16
    lr: float = 5e-3
    lr_coded: float = 1e-3
    memory: float = 0.9
    warmup: int = 200
    decay_share: float = 0.3
    commitment: float = 0.5
    fit_sequences: int = 256
    seed: int = 0
    machine_seed: int = MACHINE_SEED
    shape: NeoXShape = NeoXShape()

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise InputError(f"tokens {self.tokens}: give at least {2 * self.batch * N_CTX}, two steps")
        if not 0 <= self.memory < 1:
            raise InputError(f"memory {self.memory}: it must be at least 0 and below 1")
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
        """Learning rate of the layers' matrices at a step: up, level, down, twice; all else is in proportion."""
        plain = step < self.plain_steps
        begin, end = (0, self.plain_steps) if plain else (self.plain_steps, self.steps)
        height, lowest = (self.lr, 0.1) if plain else (self.lr_coded, 0.0)
        up = (step - begin + 1) / max(1, min(self.warmup, (end - begin) // 10))
        left = (end - step) / max(1.0, self.decay_share * (end - begin))
        down = lowest + (1 - lowest) * (1 - math.cos(math.pi * min(1.0, left))) / 2
        return height * min(1.0, up) * down


SCALES = {
    "quick": replace(Recipe(), scale="quick", tokens=10_000_000, plain_share=0.6),
    "cpu": Recipe(),
    "full": replace(
        Recipe(), scale="full", tokens=2_621_440_000, n_codes=10_000, batch=512, fit_sequences=1024
    ),
}
"""``full`` sees as many tokens as the published run: 20 000 steps of 1024 sequences."""


def recipe(scale: str, *, seed: int = 0, tokens: int | None = None) -> Recipe:
    """A scale's recipe with this seed, and other tokens if given.

    Raises:
        InputError: an unknown scale, or too few tokens.
    """
    if scale not in SCALES:
        raise InputError(f"scale {scale!r}: choose {', '.join(SCALES)}")
    return replace(SCALES[scale], seed=seed, tokens=tokens or SCALES[scale].tokens)
