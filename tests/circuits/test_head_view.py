"""A pair read for all heads at once: what the model's own cache says, on every kind of architecture."""

import numpy as np
import pytest
import torch

from interp.circuits.roles import view_pair
from tests.pairs import random_pairs
from tests.tiny_models import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_and_the_metric_are_the_models_own(tiny_model, family):
    model = tiny_model(family)
    [pair] = random_pairs(model.cfg.d_vocab, n=1)
    view = view_pair(model, pair, "logit_diff")
    for row, side in enumerate(("clean", "corrupt")):
        with torch.no_grad():
            logits, cache = model.run_with_cache(torch.tensor([view.tokens(side)]))
        end = logits[0, -1].float()
        expected = end[list(pair.answers)].mean() - end[list(pair.wrong_answers)].mean()
        assert view.metric[row] == pytest.approx(float(expected), abs=1e-4)
        for layer in range(model.cfg.n_layers):
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0].float().numpy()
            np.testing.assert_allclose(view.patterns[row, layer], pattern, atol=1e-5)
