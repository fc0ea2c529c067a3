"""A pair read for all heads at once: what the model's own cache says, on every kind of architecture."""

import numpy as np
import pytest
import torch

from interp.circuits.roles import view_pair
from tests.oracles import kept
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


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_heads_write_is_their_part_of_the_logits(tiny_model, family):
    """With the final norm's scale fixed the logits are linear: taking a head's part away lowers them by it."""
    model = tiny_model(family)
    [pair] = random_pairs(model.cfg.d_vocab, n=1)
    view = view_pair(model, pair, "logit_diff")
    tokens = torch.tensor([pair.clean_tokens])
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
        resid = cache["blocks.1.hook_resid_post"][0, -1]
        part = cache["blocks.1.attn.hook_z"][0, -1, 2] @ model.blocks[1].attn.W_O[2]
        step = 1e-3

        def scaled(x):
            """The norm as the model has it, but with the scale of the whole residual stream."""
            mean = resid.mean() if family == "gpt2" else 0.0
            scale = (resid - mean).pow(2).mean().sqrt()
            centred = x - x.mean() if family == "gpt2" else x
            return centred / scale * model.ln_final.weight @ model.W_U

        expected = (scaled(resid) - scaled(resid - step * part)) / step
    np.testing.assert_allclose(view.logits("clean", 1, 2), expected, atol=2e-3)
    right, wrong = view.direct("clean", 1, 2)
    assert right == pytest.approx(float(view.logits("clean", 1, 2)[pair.answers[0]]))
    assert wrong == pytest.approx(float(view.logits("clean", 1, 2)[list(pair.wrong_answers)].mean()))


@pytest.mark.parametrize("family", ["olmo2", "granite"])
def test_all_heads_of_a_layer_add_what_its_attention_does(tiny_model, family):
    """Behind a norm that is called as others' first one, and with a factor; logits have theirs too."""
    model = tiny_model(family)
    [pair] = random_pairs(model.cfg.d_vocab, n=1)
    view, tokens = view_pair(model, pair, "logit_diff"), torch.tensor([pair.clean_tokens])
    names = "blocks.1.hook_attn_out", "blocks.1.hook_resid_post"
    attention, resid = (x[0, -1] for x in kept(model, tokens, *names))
    ours = sum(view.logits("clean", 1, head) for head in range(model.cfg.n_heads))
    # along the attention's part, with the final norm's scale as it is
    scale = resid.pow(2).mean().sqrt()
    factor = getattr(model.original_model.config, "logits_scaling", 1.0)
    expected = attention / scale * model.ln_final.weight @ model.W_U / factor
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)
