"""Starting in the middle gives the same logits as starting at the beginning."""

import pytest
import torch

from interp.models import hooked
from interp.models.partial_forward import starting_at
from interp.planted.models import load_planted_model
from tests.tiny_models import FAMILIES


def _residuals(model, tokens):
    kept = {}

    def keep(layer):
        return lambda resid: kept.__setitem__(layer, resid.clone())

    with (
        torch.no_grad(),
        hooked(model, {f"blocks.{i}.hook_resid_pre": keep(i) for i in range(model.cfg.n_layers)}),
    ):
        logits = model(tokens)
    return logits, kept


@pytest.mark.parametrize("family", [*FAMILIES, "planted-inhibition"])
def test_starting_at_any_layer_equals_the_whole_forward(family, tiny_model):
    model = load_planted_model(family) if family.startswith("planted") else tiny_model(family)
    tokens = torch.randint(3, 60, (3, 10))
    logits, residuals = _residuals(model, tokens)
    for layer, resid in residuals.items():
        with torch.no_grad(), starting_at(model, layer, resid):
            torch.testing.assert_close(model(tokens), logits, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), logits, rtol=0, atol=0)


def test_skipped_blocks_are_not_run_and_come_back_after_an_error(tiny_model):
    model = tiny_model("llama")
    tokens = torch.randint(3, 60, (2, 8))
    logits, residuals = _residuals(model, tokens)
    ran = []
    with (
        pytest.raises(RuntimeError, match="inside"),
        torch.no_grad(),
        hooked(model, {"blocks.0.attn.hook_z": lambda _: ran.append(0)}),
        starting_at(model, 1, residuals[1]),
    ):
        model(tokens)
        raise RuntimeError("inside")
    assert not ran
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), logits, rtol=0, atol=0)
