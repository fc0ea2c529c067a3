"""A forward that starts in the middle, after some layers or some positions, gives there what the whole one gives."""

from contextlib import nullcontext

import pytest
import torch

from interp.models.partial_forward import Prefix, starting_at
from interp.planted.models import load_planted_model
from tests.oracles import kept
from tests.tiny_models import FAMILIES

LENGTH = 12
"""More than the sliding window of the tiny Gemmas."""


@pytest.mark.parametrize("family", [*FAMILIES, "planted-inhibition"])
@pytest.mark.parametrize("length", [0, 1, 9, LENGTH - 1])
def test_what_comes_after_a_prefix_is_as_in_the_whole_prompt(family, length, tiny_model):
    native = family.startswith("planted")
    model = load_planted_model(family) if native else tiny_model(family)
    tokens = torch.randint(3, 60, (3, LENGTH))
    residuals = kept(model, tokens, *(f"blocks.{i}.hook_resid_pre" for i in range(model.cfg.n_layers)))
    with torch.no_grad():
        logits = model(tokens)
    prefix = Prefix(model, tokens).cut(length) if length % 2 else Prefix(model, tokens[:, :length]) if length else None
    after = 0 if native or not prefix else prefix.length  # a native model runs every position
    assert after == (0 if native else length)
    for layer, resid in enumerate(residuals):
        # twice: the first forward must leave nothing behind in the cache
        for _ in range(2):
            before = prefix.before(model) if prefix else nullcontext()
            with torch.no_grad(), starting_at(model, layer, resid[:, after:]), before:
                torch.testing.assert_close(model(tokens[:, after:]), logits[:, after:], rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), logits, rtol=0, atol=0)
