"""Legacy checkpoints give what HookedTransformer computes, bit for bit."""

import json

import pytest
import torch

from interp.errors import InputError
from interp.models import describe_model, has_mlps, load_model, load_tokenizer, resolve_site
from interp.models.generate import generate
from tests.tiny_models import make_tokenizer

transformer_lens = pytest.importorskip("transformer_lens")
if not hasattr(transformer_lens, "HookedTransformer"):
    pytest.skip("transformer-lens 4 has no HookedTransformer to compare with", allow_module_level=True)

SHAPE = {"n_layers": 4, "d_model": 32, "d_head": 8, "n_heads": 4, "n_ctx": 64}


def make_legacy(folder, normalization="LN", attn_only=True, **config):
    """Write a random checkpoint and its tokenizer; returns the HookedTransformer it is of."""
    tokenizer = make_tokenizer(pad="<pad>")
    tokenizer.save_pretrained(folder)
    shape = {**SHAPE, "d_vocab": len(tokenizer)}
    original = transformer_lens.HookedTransformer(
        transformer_lens.HookedTransformerConfig(
            **shape,
            d_mlp=64,
            act_fn="gelu",
            attn_only=attn_only,
            normalization_type=normalization,
            seed=0,
            **config,
        )
    )
    for (
        parameter
    ) in original.parameters():  # biases are zero and norms one at the start: hide no slip in them
        parameter.data = 0.3 * torch.randn_like(parameter)
    torch.save(original.state_dict(), folder / "model_final.pth")
    (folder / "config.json").write_text(
        json.dumps({**shape, "normalization": normalization, "attn_only": attn_only, **config})
    )
    return original


@pytest.mark.parametrize("normalization", ["LN", "LNPre", None])
def test_every_activation_is_that_of_the_original(normalization, tmp_path):
    original = make_legacy(tmp_path, normalization)
    model = load_model(f"attn-only-4l:{tmp_path}")
    tokens = torch.randint(0, model.cfg.d_vocab, (3, 40))
    expected, expected_cache = original.run_with_cache(tokens)
    logits, cache = model.run_with_cache(tokens)
    assert torch.equal(logits, expected)
    for layer in range(4):
        for name in ("hook_resid_pre", "attn.hook_q", "attn.hook_z", "attn.hook_pattern", "hook_resid_post"):
            key = f"blocks.{layer}.{name}"
            assert torch.equal(cache[key], expected_cache[key]), key


def test_checkpoint_without_unembedding_bias_has_none(tmp_path):
    original = make_legacy(tmp_path)
    original.unembed.b_U.data.zero_()
    state = {name: weight for name, weight in original.state_dict().items() if name != "unembed.b_U"}
    torch.save(state, tmp_path / "model_final.pth")
    tokens = torch.randint(0, 100, (2, 10))
    assert torch.equal(load_model(f"attn-only-4l:{tmp_path}")(tokens), original(tokens))


def test_pth_file_loads_and_its_sites_are_attention_only(tmp_path):
    make_legacy(tmp_path)
    model = load_model(f"attn-only-4l:{tmp_path / 'model_final.pth'}")
    assert not has_mlps(model)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert resolve_site(model, "a3.h3").hook == "blocks.3.attn.hook_z"
    with pytest.raises(InputError, match="a0–a3"):
        resolve_site(model, "m0")
    description = describe_model(model)
    assert (description["n_layers"], description["attn_only"]) == (4, True)
    assert load_tokenizer(f"attn-only-4l:{tmp_path}").encode("John") == model.tokenizer.encode("John")
    assert torch.equal(generate(model, "John", 8), generate(model, "John", 8, use_cache=False))


def test_checkpoint_with_mlps_is_refused(tmp_path):
    make_legacy(tmp_path, attn_only=False)
    with pytest.raises(InputError, match="attention-only"):
        load_model(f"attn-only-4l:{tmp_path}")


@pytest.mark.parametrize("content", [b"", b"noise" * 1000, None])
def test_damaged_checkpoint_is_one_line(content, tmp_path):
    make_legacy(tmp_path)
    file = tmp_path / "model_final.pth"
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    with pytest.raises(InputError, match="state dict, or is damaged"):
        load_model(f"attn-only-4l:{tmp_path}")


@pytest.mark.parametrize(
    "state", [[1, 2], {1: torch.ones(2)}, {"blocks.0.attn.W_Q": torch.ones(2, 2)}], ids=str
)
def test_what_is_no_state_dict_is_one_line(state, tmp_path):
    make_legacy(tmp_path)
    torch.save(state, tmp_path / "model_final.pth")
    with pytest.raises(InputError, match="state dict, or is damaged"):
        load_model(f"attn-only-4l:{tmp_path}")


def test_a_configuration_that_is_none_is_one_line(tmp_path):
    make_legacy(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="is not a model's configuration"):
        load_model(f"attn-only-4l:{tmp_path}")


def test_checkpoint_that_would_run_code_is_refused(tmp_path):
    make_legacy(tmp_path)
    torch.save({"blocks.0.attn.W_Q": print}, tmp_path / "model_final.pth")
    with pytest.raises(InputError, match="state dict"):
        load_model(f"attn-only-4l:{tmp_path}")


def test_missing_tokenizer_says_where_to_put_it(tmp_path):
    make_legacy(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="put the files of its tokenizer into"):
        load_model(f"attn-only-4l:{tmp_path}")


def test_shortformer_positions_are_refused(tmp_path):
    make_legacy(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "shortformer_pos": True}))
    with pytest.raises(InputError, match="shortformer"):
        load_model(f"attn-only-4l:{tmp_path}")
