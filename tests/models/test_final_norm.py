"""With the final norm frozen, what components write adds up to the logits."""

import pytest
import torch

from interp.models import has_mlps, hooked
from interp.models.final_norm import FinalNorm
from interp.models.linear_norm import added_by_heads
from interp.models.planted import load_planted_model
from tests.tiny_models import FAMILIES


@pytest.mark.parametrize("family", [*FAMILIES, "planted-inhibition"])
def test_direct_parts_of_all_components_sum_to_the_logit_difference(family, tiny_model):
    model = load_planted_model(family) if family.startswith("planted") else tiny_model(family)
    tokens = torch.randint(3, 60, (2, 7))
    layers = range(model.cfg.n_layers)
    parts, kept = [], {}

    def add(x):
        parts.append(x[:, -1].clone())

    hooks = {"blocks.0.hook_resid_pre": add, **{f"blocks.{i}.hook_attn_out": add for i in layers}}
    if has_mlps(model):
        hooks |= {f"blocks.{i}.hook_mlp_out": add for i in layers}
    hooks[f"blocks.{layers[-1]}.hook_resid_post"] = lambda x: kept.__setitem__("resid", x[:, -1].clone())
    with torch.no_grad(), hooked(model, hooks):
        logits = model(tokens)[:, -1]
    norm = FinalNorm.of(model)
    direct = sum(norm.direct(part, kept["resid"]) for part in parts) @ norm.unembedding
    cap = getattr(getattr(model.original_model, "config", None), "final_logit_softcapping", None)
    if cap:
        direct = cap * torch.tanh(direct / cap)
    # a difference of logits: the norm's own bias and the unembedding's are the same for every component
    bias = logits - direct
    spread = (bias - bias[0]).abs().max()
    assert spread < 1e-3 * logits.abs().max()


@pytest.mark.parametrize("family", [*FAMILIES, "planted-inhibition"])
def test_what_heads_add_sums_to_what_attention_adds(family, tiny_model):
    """Behind a norm after attention too, where each has its share."""
    model = load_planted_model(family) if family.startswith("planted") else tiny_model(family)
    seen = {}
    hooks = {
        name: lambda x, name=name: seen.__setitem__(name, x[:, -1].clone())
        for i in range(model.cfg.n_layers)
        for name in (f"blocks.{i}.hook_attn_out", f"blocks.{i}.attn.hook_z")
    }
    with torch.no_grad(), hooked(model, hooks):
        model(torch.randint(3, 60, (2, 7)))
    for layer in range(model.cfg.n_layers):
        added = added_by_heads(model, layer, seen[f"blocks.{layer}.attn.hook_z"])
        bias = getattr(model.blocks[layer].attn, "b_O", None)
        whole = seen[f"blocks.{layer}.hook_attn_out"] - (0 if bias is None else bias)
        torch.testing.assert_close(added.sum(1), whole, atol=1e-4, rtol=1e-3)
