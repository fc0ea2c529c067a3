"""A forward in pieces equals the model's own; a head that reads something else changes itself only."""

import pytest
import torch

from interp.models.partial_forward import Blockwise, mlp_norm
from interp.models.residual_writes import LinearNorm
from interp.planted.models import load_planted_model
from tests.oracles import kept
from tests.tiny_models import FAMILIES

KNOWN = ("gpt2", "pythia", "llama", "qwen2", "phi", "planted-inhibition")


def _model(family, tiny_model):
    return load_planted_model(family) if family.startswith("planted") else tiny_model(family)


@pytest.mark.parametrize("family", KNOWN)
def test_z_of_every_layer_equals_the_models(family, tiny_model):
    model = _model(family, tiny_model)
    tokens = torch.randint(3, 50, (2, 9))
    blocks = Blockwise(model, 9, "the test")
    for layer in range(model.cfg.n_layers):
        resid, z = kept(model, tokens, f"blocks.{layer}.hook_resid_pre", f"blocks.{layer}.attn.hook_z")
        inputs = resid[:, :, None].expand(-1, -1, model.cfg.n_heads, -1)
        q, k, v = (blocks.read(layer, into, inputs) for into in "qkv")
        torch.testing.assert_close(blocks.attend(q, k, v), z, atol=1e-5, rtol=1e-4)


def test_query_heads_that_share_keys_can_read_different_ones(model):
    """The second head's keys read noise; the first, of the same group, is as before."""
    blocks = Blockwise(model, 7, "the test")
    resid = torch.randn(1, 7, 1, 24).expand(-1, -1, 4, -1)
    q, k, v = (blocks.read(1, into, resid) for into in "qkv")
    other = resid.clone()
    other[:, :, 1] = torch.randn(1, 7, 24)
    before, after = blocks.attend(q, k, v), blocks.attend(q, blocks.read(1, "k", other), v)
    changed = (before - after).abs().amax((0, 1, 3))
    assert changed[1] > 1e-3
    assert changed[[0, 2, 3]].max() == 0


@pytest.mark.parametrize("family", ["gpt2", "pythia", "phi"])
def test_an_mlp_equals_the_models(family, tiny_model):
    """A parallel block with one norm (Phi) too."""
    model, tokens = tiny_model(family), torch.randint(3, 50, (2, 9))
    sequential = "blocks.1.hook_resid_mid" in model.hook_dict
    read = "blocks.1.hook_resid_mid" if sequential else "blocks.1.hook_resid_pre"
    resid, written = kept(model, tokens, read, "blocks.1.hook_mlp_out")
    torch.testing.assert_close(Blockwise(model, 9, "the test").mlp(1, resid), written)
    assert (mlp_norm(model, 1) is model.blocks[1].ln1) == (family == "phi")


@pytest.mark.parametrize("family", [*FAMILIES, "planted-inhibition"])
def test_a_norm_is_linear_once_its_scale_is_read_off(family, tiny_model):
    model = _model(family, tiny_model)
    module = model.blocks[1].ln1
    x = torch.randn(2, 5, model.cfg.d_model) * 3
    y = module(x)
    norm = LinearNorm.of(module, model.cfg.d_model, next(model.parameters()))
    torch.testing.assert_close(norm.direction(x) * norm.factor(x, y) + norm.bias, y, atol=1e-5, rtol=1e-4)
    part = torch.randn_like(x)
    parts = norm.direction(part) + norm.direction(x - part)
    torch.testing.assert_close(parts, norm.direction(x), atol=1e-5, rtol=1e-4)
