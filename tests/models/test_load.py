"""Loading: every family, from every kind of spec that needs no hub; what cannot be loaded says why."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from interp.errors import InputError
from interp.models import describe_model, load_model, load_tokenizer
from interp.models.generate import generate
from interp.steering.continuations import continue_prompts
from interp.text import load_text
from tests.tiny_models import FAMILIES, OTHERS, make_config

PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture
def changed(tmp_path, tiny_model_folder):
    """Copies a family's folder, with other things said in its config.json."""

    def copy(family: str, **settings) -> Path:
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tiny_model_folder(family), folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | settings))
        return folder

    return copy


@contextmanager
def refused(message: str):
    """With one line."""
    with pytest.raises(InputError, match=message) as error:
        yield
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_a_model_is_frozen_and_its_logits_are_those_of_hugging_face(family, tiny_model, tiny_model_folder):
    model, folder = tiny_model(family), tiny_model_folder(family)
    reference = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokens = model.to_tokens(PROMPT)
    with torch.no_grad():
        expected = reference(tokens).logits
    logits = model(tokens)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1 and not logits.requires_grad
    assert not any(module.training for module in (model, *model.modules()))
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizer_pads_and_stays_within_the_vocabulary(family, tiny_model, tiny_model_folder):
    model = tiny_model(family)
    tokenizer = load_tokenizer(str(tiny_model_folder(family)))
    assert tokenizer.encode(PROMPT) == model.tokenizer.encode(PROMPT)
    assert model.tokenizer.pad_token_id is not None
    assert len(model.tokenizer) <= model.cfg.d_vocab
    assert model.to_tokens([PROMPT, "a"]).max() < model.cfg.d_vocab
    begins = (model.to_tokens(PROMPT)[0, :2] == tokenizer.bos_token_id).tolist()
    assert begins == [model.cfg.default_prepend_bos, False]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_description_says_what_was_loaded_and_is_json(dtype, tiny_model_folder):
    folder = tiny_model_folder("llama")
    model = load_model(folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert model(PROMPT).dtype == getattr(torch, dtype)
    description = json.loads(json.dumps(describe_model(model)))
    shape = {"n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_model": 24, "d_head": 6, "d_vocab": 360}
    source = {"spec": str(folder), "source": str(folder.resolve()), "revision": None}
    kind = {"architecture": "LlamaForCausalLM", "dtype": dtype, "device": "cpu", "attn_only": False}
    assert description == shape | source | kind


DAMAGES = {
    "truncated": ("model.safetensors", lambda whole: whole[: len(whole) // 2]),
    "noise": ("model.safetensors", lambda _: bytes(range(256)) * 100),
    "config": ("config.json", lambda _: b"{not json"),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_and_one_without_a_part_are_one_line(name, damage, changed):
    file = changed("llama") / name
    file.write_bytes(damage(file.read_bytes()))
    with refused("cannot read a causal language model from the folder"):
        load_model(str(file.parent))
    file.unlink()
    with refused("cannot read a causal language model from the folder|no config.json"):
        load_model(str(file.parent))


def test_a_classifier_is_refused(changed):
    """transformers would draw the weights that it lacks at random: another model at every load."""
    folder = changed("qwen2")
    AutoModelForSequenceClassification.from_pretrained(folder, pad_token_id=0).save_pretrained(folder)
    with refused("lacks weights, lm_head.weight: it is damaged, or not of a causal"):
        load_model(str(folder))


FEWER = {"num_hidden_layers": 1, "layer_types": None}
CHANGES = [
    ("llama", {"num_attention_heads": 0}, "cannot read a causal language model"),
    ("llama", {"num_attention_heads": 5}, r"hidden size \(24\) is not a multiple of the number of .* \(5\)"),
    ("llama", {"vocab_size": 400}, r"embed_tokens.weight is of shape \[360, 24\] .* of \[400, 24\]"),
    # its tied lm_head is not in the file either, as it should be
    ("llama", {"num_hidden_layers": 3, "layer_types": None}, r"lacks weights, .*layers\.2\..* and 8 more"),
    ("llama", {"model_type": "vit", "architectures": ["ViTModel"]}, "Unrecognized configuration class .*ViTConfig"),
    # called Llama, which adds no biases to its queries, keys and values
    ("qwen2", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, r"k_proj.bias and 5 more"),
    # transformers would leave layers out, and the model would be another one
    *((family, {"n_layer": 1} if family == "gpt2" else FEWER, r"\.1\..* fewer layers") for family in FAMILIES),
]


@pytest.mark.parametrize(("family", "settings", "message"), CHANGES)
def test_a_config_that_does_not_fit_says_what_does_not(family, settings, message, changed):
    with refused(message):
        load_model(str(changed(family, **settings)))


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_folder_without_a_tokenizer_says_so(load, changed):
    folder = changed("llama")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with refused("a tokenizer from .*: it holds no files of one, such as tokenizer.json"):
        load(str(folder))


OLD_BUFFERS = {
    "gpt2": ("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"),
    "pythia": ("gpt_neox.layers.0.attention.rotary_emb.inv_freq", "gpt_neox.layers.0.attention.bias"),
    "llama": ("model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight", "score.weight"),
}


@pytest.mark.parametrize("family", OLD_BUFFERS)
def test_what_earlier_versions_and_other_heads_left_in_a_checkpoint_is_no_harm(family, changed, tiny_model):
    folder = changed(family)
    tensors = load_file(folder / "model.safetensors")
    known = {name.rpartition(".")[0]: tensor for name, tensor in tensors.items()}
    tied = known.get("model.embed_tokens", torch.zeros(3, 24)).clone()
    tensors |= {name: tied if name == "lm_head.weight" else torch.ones(3) for name in OLD_BUFFERS[family]}
    # a part of another model, whose layers are more
    tensors |= {"vision_tower.encoder.layers.7.mlp.weight": torch.ones(3)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(load_model(str(folder))(PROMPT), tiny_model(family)(PROMPT))


def test_a_base_model_s_checkpoint_has_its_layers_under_shorter_names(changed, tiny_model):
    for n_layer in (2, 1):
        folder = changed("gpt2", n_layer=n_layer)
        tensors = load_file(folder / "model.safetensors")
        bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
        if n_layer == 2:
            assert torch.equal(load_model(str(folder))(PROMPT), tiny_model("gpt2")(PROMPT))
    with refused(r"does not, .*h\.1\..* and 10 more"):
        load_model(str(folder))


def test_a_tokenizer_without_special_tokens_is_given_none_that_the_model_does_not_know(tmp_path):
    characters = [chr(i) for i in range(32, 127)]
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(characters)}, merges=[]))
    backend.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path)
    config = make_config("llama", len(characters), eos=None)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    names = ("bos_token", "eos_token", "pad_token")
    assert [getattr(model.tokenizer, name) for name in names] == [None] * 3
    assert load_text("stdlib", model, n_tokens=64, context=32).tokens.dtype == torch.long
    [continued] = continue_prompts(model, ["Mary"], 4)
    assert len(continued.tokens) == 4
    with pytest.raises(InputError):
        generate(model, "Mary", 4)


def test_a_padding_token_outside_the_vocabulary_gives_way_to_the_end(changed):
    folder = changed("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    model = load_model(str(folder))
    assert model.tokenizer.pad_token == model.tokenizer.eos_token is not None
    assert len(generate(model, ["Mary", "Mary and John"], 2)) == 2


def test_import_and_local_load_open_no_connection(tiny_model_folder):
    # a fresh process without HF_HUB_OFFLINE, in which any attempt to connect ends it
    code = f"""
import socket, sys
def refuse(*a, **k):
    sys.stderr.write("connected"); import os; os._exit(3)
socket.socket.connect = refuse
socket.getaddrinfo = refuse
from interp.models import load_model
load_model({str(tiny_model_folder("gpt2"))!r})("a")
"""
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)


def test_models_can_be_loaded_from_several_threads(tiny_model_folder):
    specs = [str(tiny_model_folder(family)) for family in ("llama", "qwen2", "gpt2")] * 4
    with ThreadPoolExecutor(len(specs)) as threads:
        models = list(threads.map(load_model, specs))
    assert [model.cfg.n_layers > 0 and not model.training for model in models] == [True] * len(specs)
    for model in models:
        assert not any(parameter.is_meta for parameter in model.parameters())


def test_a_model_that_runs_otherwise_than_in_transformers_is_refused(tiny_model_folder, monkeypatch):
    """As Cohere's in transformer-lens 3.9; here by a wrapped MLP that adds twice what it should."""
    boot = TransformerBridge.boot_transformers

    def booted(*args, **kwargs):
        bridge = boot(*args, **kwargs)
        bridge.blocks[0].mlp.register_forward_hook(lambda _module, _given, out: 2 * out)
        return bridge

    monkeypatch.setattr(TransformerBridge, "boot_transformers", booted)
    for dtype in ("float32", "bfloat16"):
        with refused("runs the architecture LlamaForCausalLM otherwise .* off by [1-9]"):
            load_model(str(tiny_model_folder("llama")), dtype=dtype)
