"""Vectors that are sums of codes are told in these; of others what is left cannot be told better in those taken."""

import numpy as np
import pytest
from scipy.linalg import block_diag

from interp.steering.find import matching_pursuit

RANDOM = np.random.default_rng(0)
CODES = RANDOM.normal(size=(64, 32))


def in_codes(codes, vector, n) -> list[tuple[int, float]]:
    """Of one place."""
    return [(code, weight) for _, code, weight in matching_pursuit([codes], [vector], n)]


def test_a_sum_of_codes_is_told_in_these_codes():
    vector = 2 * CODES[5] + 0.5 * CODES[40]
    assert dict(in_codes(CODES, vector, 2)) == pytest.approx({5: 2.0, 40: 0.5})
    assert [code for code, _ in in_codes(CODES, vector, 4)] == [5, 40]  # what rounding leaves is not told


def test_what_is_left_is_at_right_angles_to_what_was_taken():
    vector = RANDOM.normal(size=32)
    left, before = vector, np.inf
    for n in range(1, 7):
        taken = in_codes(CODES, vector, n)
        left = vector - sum(weight * CODES[code] for code, weight in taken)
        assert len(taken) <= n and all(weight > 0 for _, weight in taken)
        assert np.abs([CODES[code] @ left for code, _ in taken]).max() < 1e-9
        assert np.linalg.norm(left) < before
        before = np.linalg.norm(left)


def test_only_codes_that_point_along_it_are_taken():
    codes = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    assert in_codes(codes, np.array([-2.0, 0.0]), 4) == [(1, 2.0)]
    assert in_codes(codes, np.array([0.0, 0.0]), 4) == []
    assert matching_pursuit([], [], 4) == []


def test_each_code_taken_is_the_one_that_leaves_least():
    draw = np.random.default_rng(2).normal
    codes = list(np.exp(draw(size=(2, 40, 1))) * draw(size=(2, 40, 16)))  # of unlike lengths
    vectors = [draw(size=16), 2 * draw(size=16)]
    taken: set[tuple[int, int]] = set()
    for n in range(1, 8):
        left = list(vectors)
        for place, code, weight in matching_pursuit(codes, vectors, n - 1):
            left[place] = left[place] - weight * codes[place][code]
        falls = {}
        for place, place_codes in enumerate(codes):
            for code, vector in enumerate(place_codes):
                best = max(0.0, vector @ left[place] / (vector @ vector))
                falls[place, code] = (left[place] ** 2).sum() - ((left[place] - best * vector) ** 2).sum()
        now = {(place, code) for place, code, _ in matching_pursuit(codes, vectors, n)}
        assert now - taken == {max(falls, key=falls.get)}
        taken = now


def test_places_are_told_as_one_vector_of_all_of_them():
    draw = np.random.default_rng(1).normal
    codes = [CODES, draw(size=(40, 16)), draw(size=(50, 24))]
    vectors = [3 * draw(size=32), draw(size=16), 0.05 * draw(size=24)]
    together = in_codes(block_diag(*codes), np.concatenate(vectors), 12)
    begin = np.cumsum([0, 64, 40])
    expected = {(int((begin <= code).sum()) - 1, code) for code, _ in together}
    chosen = matching_pursuit(codes, vectors, 12)
    assert {(place, int(begin[place]) + code) for place, code, _ in chosen} == expected
    weights = {int(begin[place]) + code: weight for place, code, weight in chosen}
    assert weights == pytest.approx(dict(together))
    # the long vector has most of the codes, the one of hardly any length none
    first, second, third = (sum(place == at for place, *_ in chosen) for at in range(3))
    assert first > second > third == 0
