"""What a reproduction is made by: its scales, and the numbers they are held against."""

import math
from dataclasses import dataclass, replace

from benchmarks.tokfsm.data import MACHINE_SEED, N_CTX
from benchmarks.tokfsm.neox import NeoXShape
from interp.errors import InputError

LEAST_FORGOTTEN = 0.02
"""Of what a step forgets of the running means at ``lr_coded``: as much at least to the end."""


@dataclass(frozen=True)
class Recipe:
    """
    Attributes:
        scale: its name.
        tokens: trained on in all, those before there are codebooks included.
        plain_share: of the tokens, before the codebooks come in.
        n_codes: per MLP, and per head.
        batch: sequences of 128 tokens a step.
        lr: of the layers' matrices, by Muon, at the height of the first part; all else has half of it, by Adam.
        lr_coded: the same of the second, where it falls to 0 in a line from the first step on.
        memory: share that a step at this rate keeps of the running means that codes follow.
        warmup: steps at the beginning of each part in which the rate rises.
        decay_share: of the first part, at its end, in which the rate falls to a tenth.
        commitment: weight of the share of the activations' spread that codes leave unexplained; not published.
        fit_sequences: that k-means sees.
        seed: of weights, text and k-means; the machine has its own.
        machine_seed: 42 gives the published machine.
    """

    scale: str = "cpu"
    tokens: int = 20_000_000
    plain_share: float = 0.85
    n_codes: int = 1000
    batch: int = 16
    lr: float = 5e-3
    lr_coded: float = 3e-3
    memory: float = 0.9
    warmup: int = 200
    decay_share: float = 0.3
    commitment: float = 0.1
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

    @property
    def coded_steps(self) -> int:
        return self.steps - self.plain_steps

    def lr_at(self, step: int) -> float:
        """Learning rate of the layers' matrices at a step; all else is in proportion."""
        if step < self.plain_steps:
            left = (self.plain_steps - step) / max(1.0, self.decay_share * self.plain_steps)
            down = 0.1 + 0.9 * (1 - math.cos(math.pi * min(1.0, left))) / 2
            return self.lr * self._up(step, self.plain_steps) * down
        left = (self.steps - step) / self.coded_steps
        return self.lr_coded * self._up(step - self.plain_steps, self.coded_steps) * left

    def _up(self, done: int, of: int) -> float:
        return min(1.0, (done + 1) / max(1, min(self.warmup, of // 10)))

    def memory_at(self, step: int) -> float:
        """Share that a coded step keeps of the running means."""
        return 1 - (1 - self.memory) * max(self.lr_at(step) / self.lr_coded, LEAST_FORGOTTEN)


SCALES = {
    "quick": replace(Recipe(), scale="quick", tokens=10_000_000, plain_share=0.8),
    "cpu": Recipe(),
    "full": replace(Recipe(), scale="full", tokens=2_621_440_000, n_codes=10_000, batch=512, fit_sequences=1024),
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
