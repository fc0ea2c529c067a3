"""Choices of heads: ties, precision against its expectation, Jaccard against its definition."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import InputError
from interp.evaluation.stability import best_heads, bootstrap_stability, jaccard, mean_jaccard, precision_at


def test_best_heads_by_size_and_by_sign():
    scores = np.array([[3.0, -5.0], [1.0, 0.5]])
    assert best_heads(scores, 2).tolist() == [[True, True], [False, False]]
    assert best_heads(scores, 2, signed=True).tolist() == [[True, False], [True, False]]
    assert best_heads(scores, 9).all() and not best_heads(scores, 0).any()


def test_ties_are_taken_in_random_order():
    counts = sum(best_heads(np.ones((4, 5)), 5, seed=seed) for seed in range(400))
    assert counts.min() > 60 and counts.max() < 140  # 100 expected
    assert (best_heads(np.ones((4, 5)), 5, seed=1) == best_heads(np.ones((4, 5)), 5, seed=1)).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=2, max_size=12), st.integers(1, 12))
def test_precision_is_the_expectation_over_orders_of_equal_scores(rows, n):
    scores = np.array([[float(s) for s, _ in rows]])
    truth = np.array([[label for _, label in rows]])
    n = min(n, len(rows))
    drawn = [truth[best_heads(scores, n, seed=seed)].mean() for seed in range(400)]
    assert precision_at(scores, truth, n) == pytest.approx(np.mean(drawn), abs=0.09)


def test_jaccard():
    a, b = np.array([[True, True, False]]), np.array([[False, True, True]])
    assert jaccard(a, b) == pytest.approx(1 / 3) and jaccard(a, a) == 1.0
    assert jaccard(a & ~a, b & ~b) == 1.0 and jaccard(a & ~a, b) == 0.0
    with pytest.raises(InputError, match="one model"):
        jaccard(a, a.T)


def test_mean_jaccard_is_the_mean_over_pairs_of_circuits():
    circuits = [np.random.default_rng(seed).random((3, 4)) < 0.4 for seed in range(6)]
    circuits += [np.zeros((3, 4), bool)] * 2
    expected = [jaccard(a, b) for a, b in combinations(circuits, 2)]
    assert mean_jaccard(circuits) == pytest.approx(np.mean(expected))
    assert mean_jaccard(circuits[:1]) is None


def test_bootstrap_is_stable_where_pairs_agree_and_not_where_they_do_not():
    rng = np.random.default_rng(0)
    signal = np.zeros((4, 6))
    signal[0, :3] = 5.0
    steady = signal + 0.1 * rng.normal(size=(30, 4, 6))
    noise = rng.normal(size=(30, 4, 6))
    assert bootstrap_stability(steady, 3) == 1.0
    assert bootstrap_stability(noise, 3) < 0.7
    assert bootstrap_stability(np.ones((30, 4, 6)), 3) < 0.3  # scores that all tie are no choice
    assert bootstrap_stability(noise[:1], 3) is None
