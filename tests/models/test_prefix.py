"""A forward after a prefix gives what the whole forward gives there, at every position and layer."""

import pytest
import torch

from interp.models import hooked
from interp.models.partial_forward import Prefix, starting_at
from interp.planted.models import load_planted_model
from tests.tiny_models import FAMILIES

LENGTH = 12
"""More than the sliding window of the tiny Gemmas."""


def _logits_and_residuals(model, tokens):
    kept = {}

    def keep(layer):
        return lambda resid: kept.__setitem__(layer, resid.clone())

    layers = range(model.cfg.n_layers)
    with torch.no_grad(), hooked(model, {f"blocks.{i}.hook_resid_pre": keep(i) for i in layers}):
        return model(tokens), kept


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [1, 9, LENGTH - 1])
def test_what_comes_after_a_prefix_is_as_in_the_whole_prompt(family, length, tiny_model):
    model = tiny_model(family)
    tokens = torch.randint(3, 60, (3, LENGTH))
    logits, residuals = _logits_and_residuals(model, tokens)
    prefix = Prefix(model, tokens[:, :length])
    assert prefix.length == length
    for layer, resid in residuals.items():
        # twice: the first forward must leave nothing behind in the cache
        for _ in range(2):
            with torch.no_grad(), starting_at(model, layer, resid[:, length:]), prefix.before(model):
                torch.testing.assert_close(model(tokens[:, length:]), logits[:, length:], rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), logits, rtol=0, atol=0)


def test_copies_of_the_batch_share_one_prefix(tiny_model):
    model = tiny_model("llama")
    tokens = torch.randint(3, 60, (2, LENGTH))
    logits, _ = _logits_and_residuals(model, tokens)
    with torch.no_grad(), Prefix(model, tokens[:, :5]).before(model):
        found = model(tokens[:, 5:].repeat(3, 1))
    torch.testing.assert_close(found, logits[:, 5:].repeat(3, 1, 1), rtol=0, atol=1e-5)


def test_a_native_model_runs_every_position():
    model = load_planted_model("planted-or")
    tokens = torch.randint(3, 60, (2, LENGTH))
    logits, _ = _logits_and_residuals(model, tokens)
    prefix = Prefix(model, tokens[:, :5])
    assert prefix.length == 0
    with torch.no_grad(), prefix.before(model):
        torch.testing.assert_close(model(tokens), logits, rtol=0, atol=0)


def test_an_error_inside_leaves_the_model_as_it_was(tiny_model):
    model = tiny_model("gpt2")
    tokens = torch.randint(3, 60, (2, LENGTH))
    logits, _ = _logits_and_residuals(model, tokens)
    with pytest.raises(RuntimeError, match="inside"), Prefix(model, tokens[:, :5]).before(model):
        raise RuntimeError("inside")
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), logits, rtol=0, atol=0)
