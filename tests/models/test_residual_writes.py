"""What stands between heads, residual stream and logits is found out from what they are."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp.errors import InputError
from interp.models import has_mlps, hooked, load_model
from interp.models.residual_writes import FinalNorm, ResidualWrites
from interp.planted.models import load_planted_model
from tests.oracles import TL4, kept
from tests.tiny_models import FAMILIES, OTHERS

NORMS = {"gemma2": "ln1_post", "gemma3": "ln1_post", "olmo2": "ln1_post" if TL4 else "ln1"}


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS, "planted-inhibition"])
def test_what_heads_add_sums_to_what_attention_adds(family, tiny_model):
    """Behind a norm after attention too, where each has its share, and with a factor."""
    model = load_planted_model(family) if family.startswith("planted") else tiny_model(family)
    residual_writes = ResidualWrites.of(model)
    assert residual_writes.norm == NORMS.get(family)
    assert residual_writes.scale == pytest.approx(0.5 if family == "granite" else 1.0)
    points = ["hook_resid_pre", "attn.hook_z", "hook_resid_post", *["hook_mlp_out"] * has_mlps(model)]
    names = [f"blocks.{i}.{point}" for i in range(model.cfg.n_layers) for point in points]
    cache = kept(model, torch.randint(3, 60, (2, 7)), *names)
    seen = {name: x[:, -1] for name, x in zip(names, cache, strict=True)}
    for layer in range(model.cfg.n_layers):
        z = seen[f"blocks.{layer}.attn.hook_z"]
        added = residual_writes.added_by_heads(model, layer, z).sum(1)
        bias = getattr(model.blocks[layer].attn, "b_O", None)
        added = added if bias is None or residual_writes.norm else added + bias
        parts = [seen.get(f"blocks.{layer}.{point}", 0) for point in ("hook_resid_pre", "hook_mlp_out")]
        whole = seen[f"blocks.{layer}.hook_resid_post"] - sum(parts)
        torch.testing.assert_close(added, whole, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("family", "scale"), [("llama", 1.0), ("granite", 1 / 8)])
def test_logits_have_the_factor_of_the_family(family, scale, tiny_model):
    model, seen = tiny_model(family), []
    assert ResidualWrites.of(model).logit_scale == pytest.approx(scale)
    with torch.no_grad(), hooked(model, {"unembed.hook_in": lambda x: seen.append(x.clone())}):
        logits = model(torch.randint(3, 60, (2, 7)))
    torch.testing.assert_close(ResidualWrites.of(model).logits(model, seen[0]), logits)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "olmo2", "granite"])
def test_numbers_of_16_bits_and_a_large_stream_hide_nothing(family, dtype, tiny_model, tiny_model_folder, tmp_path):
    """What attention adds is below the rounding of a stream that begins two hundred times as large."""
    network = AutoModelForCausalLM.from_pretrained(tiny_model_folder(family))
    with torch.no_grad():
        network.get_input_embeddings().weight.mul_(200)
    network.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model_folder(family)).save_pretrained(tmp_path)
    writes, exact = map(ResidualWrites.of, (load_model(str(tmp_path), dtype=dtype), tiny_model(family)))
    assert (writes.known, writes.norm) == (exact.known, exact.norm)
    assert writes.scale == pytest.approx(exact.scale, rel=0.01)


def test_what_is_attached_changes_nothing_and_sees_nothing(tiny_model_folder):
    model, seen = load_model(str(tiny_model_folder("gpt2"))), []
    with hooked(model, {"blocks.0.hook_resid_post": lambda x: seen.append(1) or x + torch.randn_like(x)}):
        assert ResidualWrites.of(model).plain and not seen
        model(torch.tensor([[3, 4]]))
    assert len(seen) == 1


def test_what_does_not_add_up_is_refused(tiny_model_folder):
    model = load_model(str(tiny_model_folder("gpt2")))
    model.blocks[1].mlp.register_forward_hook(lambda _module, _given, out: out + 1)  # behind the bridge's own
    assert not ResidualWrites.of(model).known
    for refuse in (
        lambda: ResidualWrites.of(model).added_by_heads(model, 0, torch.zeros(1, 3, 8)),
        lambda: ResidualWrites.of(model).require_additive(model, "a method"),
        lambda: ResidualWrites.of(model).require_plain(model, "a method"),
        lambda: ResidualWrites.of(model).require_edges(model),
    ):
        with pytest.raises(InputError, match="GPT2LMHeadModel: its heads, biases and MLPs do not add up"):
            refuse()


@pytest.mark.parametrize("family", [*FAMILIES, "planted-inhibition", "granite"])
def test_direct_parts_of_all_components_sum_to_the_logit_difference(family, tiny_model):
    model = load_planted_model(family) if family.startswith("planted") else tiny_model(family)
    tokens = torch.randint(3, 60, (2, 7))
    layers = range(model.cfg.n_layers)
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_attn_out" for i in layers)]
    names += [f"blocks.{i}.hook_mlp_out" for i in layers if has_mlps(model)]
    cache = kept(model, tokens, *names, f"blocks.{layers[-1]}.hook_resid_post")
    *parts, resid = (x[:, -1] for x in cache)
    with torch.no_grad():
        logits = model(tokens)[:, -1]
    norm = FinalNorm.of(model)
    direct = sum(norm.direct(part, resid) for part in parts) @ norm.unembedding
    cap = getattr(getattr(model.original_model, "config", None), "final_logit_softcapping", None)
    if cap:
        direct = cap * torch.tanh(direct / cap)
    # a difference of logits: the norm's own bias and the unembedding's are the same for every component
    bias = logits - direct
    spread = (bias - bias[0]).abs().max()
    assert spread < 1e-3 * logits.abs().max()
