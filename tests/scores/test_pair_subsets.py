"""A subset ranked from a pool's base runs is the method run on that subset."""

from dataclasses import replace

import numpy as np
import pytest

from interp.planted.models import load_planted_model
from interp.scores.registry import METHODS, load_method
from interp.tasks import load_task

SUBSET = (7, 2, 2, 9, 0, 5)


@pytest.mark.parametrize("name", [name for name in METHODS if load_method(name).subsets])
def test_a_subset_of_a_pool_scores_as_by_itself(name):
    model, method = load_planted_model("planted-inhibition"), load_method(name)
    pairs = load_task("planted-inhibition").sample(model.tokenizer, 10, 0)
    config = method.config()
    if name == "overlap":
        config = replace(config, n_codes=20, epochs=5, examples=4)
    pool = method.pool(model, pairs, config)
    ranking = [pool.rank(SUBSET, config) for _ in range(2)][1]  # the second time every patch is known
    alone = method(model, pairs.subset(SUBSET), config)
    np.testing.assert_allclose(ranking.heads, alone.heads, rtol=1e-3, atol=1e-5)
    if name != "adaptive-patching":  # which goes on to set codes
        cost = pool.forwards * len(SUBSET) + ranking.forwards
        assert cost == pytest.approx(alone.cost.forwards)
