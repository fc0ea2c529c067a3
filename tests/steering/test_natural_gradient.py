"""What is chosen is worth its cost, and doses are the best there are."""

import numpy as np
import pytest
from scipy.optimize import minimize

from interp.steering.natural_gradient import RIDGE, choose, doses, information


def test_codes_are_taken_while_they_are_worth_their_cost_and_what_is_there_already_costs_more():
    # 0 and 1 move the model alike, 2 another way, 3 costs much and 4 brings nothing
    moves = np.array([[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.1, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0, 1.0]])
    gains, matrix = np.array([1.0, 0.9, 0.8, 1.0, 0.0]), moves.T @ moves
    order = choose(gains, matrix, step=0.5, nats=0.4)
    assert order[:2] == [0, 2] and 3 not in order and 4 not in order
    cheap = choose(gains, matrix, step=0.5, nats=0.13)
    assert cheap == [0]
    assert choose(gains, matrix, step=0.5, nats=1e-9) == [0]  # one at least


def test_the_ridge_is_a_share_of_each_ones_own_information():
    moves = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    plain = moves.T.astype(float) @ moves
    matrix = information(moves)
    np.testing.assert_allclose(matrix - plain, RIDGE * np.diag(np.diag(plain)), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_no_doses_of_the_same_cost_raise_the_target_more(seed):
    generator = np.random.default_rng(seed)
    matrix, gains = information(generator.normal(size=(4, 6))), generator.uniform(0.1, 1, 6)
    found = doses(gains, matrix, nats=0.2)
    assert (found >= 0).all() and found @ matrix @ found / 2 == pytest.approx(0.2)
    other = minimize(
        lambda d: -gains @ d,
        np.full(6, 0.01),
        jac=lambda _d: -gains,
        bounds=[(0, None)] * 6,
        constraints={"type": "ineq", "fun": lambda d: 0.2 - d @ matrix @ d / 2, "jac": lambda d: -matrix @ d},
    )
    assert gains @ found == pytest.approx(-other.fun, rel=1e-3)
