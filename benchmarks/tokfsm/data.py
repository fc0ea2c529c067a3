"""TokFSM: walks through a random finite-state machine, written in digits (Tamkin et al. 2023, arXiv 2310.17230, §3).

A state is named by two digits, and the digit tokens of consecutive states follow each other without a mark between
them: the model must find out where a state begins, and which of 100 × 100 pairs of states the machine allows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import InputError

N_STATES, N_EDGES, BASE = 100, 10, 10
BOS = 10
"""Begin, end and padding token."""
N_CTX = 128
MACHINE_SEED = 42
"""The published machine's."""


@dataclass(frozen=True)
class Machine:
    """Every state has ten different successors, itself perhaps among them, each with probability 0.1."""

    successors: Int[Tensor, "state edge"]

    @property
    def allowed(self) -> Bool[Tensor, "state state"]:
        """Whether the second may follow the first."""
        return torch.zeros(N_STATES, N_STATES, dtype=torch.bool).scatter(1, self.successors, True)

    @property
    def trigrams(self) -> Int[Tensor, "trigram 3"]:
        """A state's two digits and a first digit that the machine allows next."""
        first = torch.zeros(N_STATES, BASE, dtype=torch.bool).scatter(1, self.successors // BASE, True)
        state, digit = first.nonzero().T
        return torch.stack([state // BASE, state % BASE, digit], 1)

    def next_token(self, last: Int[Tensor, "*batch"]) -> Tensor:
        """Probabilities of the ten digits that begin the state after ``last``, [..., 10]."""
        counts = torch.zeros(N_STATES, BASE).scatter_add(1, self.successors // BASE, torch.ones(N_STATES, N_EDGES))
        return (counts / N_EDGES)[last]


def make_machine(seed: int = MACHINE_SEED) -> Machine:
    """The machine as the published code draws it; the default seed gives the published machine.

    Raises:
        InputError: a negative seed.
    """
    if seed < 0:
        raise InputError(f"machine seed {seed}: it must be 0 or more")
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(N_STATES, size=N_EDGES, replace=False) for _ in range(N_STATES)]
    return Machine(torch.from_numpy(np.stack(drawn)))


def generator_of(*key: int) -> torch.Generator:
    """A generator for one draw, the same for the same numbers: nothing need be kept in order to resume."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def walk(machine: Machine, n: int, generator: torch.Generator, length: int = N_CTX // 2) -> Int[Tensor, "n length"]:
    """``n`` walks of so many states, the first one uniform.

    Raises:
        InputError: fewer than one walk, or walks of no state.
    """
    if n < 1 or length < 1:
        raise InputError(f"{n} walks of {length} states: both must be at least 1")
    steps = torch.randint(N_EDGES, (length, n), generator=generator)
    states = torch.empty(length, n, dtype=torch.int64)
    states[0] = torch.randint(N_STATES, (n,), generator=generator)
    for i in range(1, length):
        states[i] = machine.successors[states[i - 1], steps[i]]
    return states.T.contiguous()


def digits(states: Int[Tensor, "n length"]) -> Int[Tensor, "n digit"]:
    """Two tokens a state."""
    return torch.stack([states // BASE, states % BASE], -1).flatten(1)


def encode(states: Int[Tensor, "n length"]) -> Int[Tensor, "n pos"]:
    """BOS and the digits, cut to the context: of 64 states the last digit falls away, as published."""
    tokens = digits(states)
    return torch.cat([tokens.new_full((len(tokens), 1), BOS), tokens], 1)[:, :N_CTX]


def decode(tokens: Int[Tensor, "n pos"]) -> Int[Tensor, "n length"]:
    """The states that tokens after BOS name; half a state at the end is left out."""
    pairs = tokens[:, 1:]
    pairs = pairs[:, : pairs.shape[1] // 2 * 2].unflatten(1, (-1, 2))
    return pairs[..., 0] * BASE + pairs[..., 1]


def sequences(machine: Machine, n: int, *key: int) -> Int[Tensor, "n n_ctx"]:
    """``n`` training sequences, the same for the same key (a seed, a purpose, a step)."""
    return encode(walk(machine, n, generator_of(*key)))
