"""Intervals and R² against scipy's and scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from interp.stats import r2_of


def test_r2_is_sklearns_and_its_interval_is_around_it():
    rng = np.random.default_rng(0)
    value = rng.normal(size=200)
    predicted = value + rng.normal(scale=0.5, size=200)
    r2, low, high = r2_of(predicted, value, 0)
    assert r2 == pytest.approx(r2_score(value, predicted)) and low < r2 < high and high - low < 0.3
    assert r2_of(predicted, np.ones(200), 0) is None
