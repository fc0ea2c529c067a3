"""With the final norm frozen, what components write adds up to the logits."""

import pytest
import torch

from interp.models import has_mlps, hooked
from interp.models.residual_writes import FinalNorm
from interp.planted.models import load_planted_model
from tests.tiny_models import FAMILIES


@pytest.mark.parametrize("family", [*FAMILIES, "planted-inhibition", "granite"])
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
