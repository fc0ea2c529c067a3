"""A vector that is a sum of codes is told in these; of others what is left cannot be told better in those taken."""

import numpy as np
import pytest

from interp.steering.pursuit import pursue

RANDOM = np.random.default_rng(0)
CODES = RANDOM.normal(size=(64, 32))


def test_a_sum_of_codes_is_told_in_these_codes():
    vector = 2 * CODES[5] + 0.5 * CODES[40]
    assert dict(pursue(CODES, vector, 2)) == pytest.approx({5: 2.0, 40: 0.5})
    assert [code for code, _ in pursue(CODES, vector, 4)] == [5, 40]  # what rounding leaves is not told


def test_what_is_left_is_at_right_angles_to_what_was_taken():
    vector = RANDOM.normal(size=32)
    left, before = vector, np.inf
    for n in range(1, 7):
        taken = pursue(CODES, vector, n)
        left = vector - sum(weight * CODES[code] for code, weight in taken)
        assert len(taken) <= n and all(weight > 0 for _, weight in taken)
        assert np.abs([CODES[code] @ left for code, _ in taken]).max() < 1e-9
        assert np.linalg.norm(left) < before
        before = np.linalg.norm(left)


def test_only_codes_that_point_along_it_are_taken():
    codes = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    assert pursue(codes, np.array([-2.0, 0.0]), 4) == [(1, 2.0)]
    assert pursue(codes, np.array([0.0, 0.0]), 4) == []
