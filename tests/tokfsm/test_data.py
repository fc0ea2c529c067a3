"""The dataset against an oracle that goes digit by digit."""

import numpy as np
import pytest
import torch

from benchmarks.tokfsm.data import BOS, generator_of, make_machine, sequences, walk
from interp.errors import InputError

MACHINE = make_machine()


def published_matrix() -> np.ndarray:
    """The published machine, as its description says, one state after the other."""
    rng, matrix = np.random.default_rng(42), np.zeros((100, 100))
    for state in range(100):
        matrix[state, rng.choice(100, size=10, replace=False)] = 0.1
    return matrix


def test_the_machine_is_the_published_one():
    assert np.array_equal(MACHINE.allowed.numpy(), published_matrix() > 0)
    assert (MACHINE.allowed.sum(1) == 10).all()
    assert len(MACHINE.trigrams) == 686  # the number that the paper gives
    matrix = published_matrix()
    wanted = {(s // 10, s % 10, t // 10) for s in range(100) for t in range(100) if matrix[s, t]}
    assert {tuple(row) for row in MACHINE.trigrams.tolist()} == wanted
    by_digit = matrix.reshape(100, 10, 10).sum(-1)
    next_token = MACHINE.next_token(torch.arange(100)).double()
    torch.testing.assert_close(next_token, torch.from_numpy(by_digit))
    for wrong in (lambda: make_machine(-1), lambda: walk(MACHINE, 0, generator_of(0))):
        with pytest.raises(InputError):
            wrong()


def test_sequences_are_walks_written_in_digits():
    matrix = published_matrix()
    tokens = sequences(MACHINE, 200, 3, 1)
    assert tokens.shape == (200, 128)
    for row in tokens.tolist():
        assert row[0] == BOS
        assert all(0 <= digit <= 9 for digit in row[1:])
        text = "".join(map(str, row[1:]))
        states = [int(text[i : i + 2]) for i in range(0, 126, 2)]
        assert len(text) == 127 and len(states) == 63
        assert all(matrix[a, b] > 0 for a, b in zip(states, states[1:], strict=False))
        # the 64th state lost its last digit
        assert any(matrix[states[-1], int(text[-1]) * 10 + last] > 0 for last in range(10))


def test_starts_and_steps_are_uniform():
    states = walk(MACHINE, 4000, generator_of(0))
    starts = torch.bincount(states[:, 0], minlength=100)
    assert starts.min() > 10 and starts.max() < 80  # mean 40, deviation 6.3
    pairs = (states[:, :-1] * 100 + states[:, 1:]).flatten()
    pairs = torch.bincount(pairs, minlength=10_000).reshape(100, 100)
    shares = pairs / pairs.sum(1, keepdim=True)
    assert (shares[MACHINE.allowed] - 0.1).abs().max() < 0.05
    assert (shares[~MACHINE.allowed] == 0).all()
