"""Loading: every family, from every kind of spec that needs no hub; what cannot be loaded says why."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from interp.errors import InputError
from interp.models import describe_model, load_model, load_tokenizer, model_names
from interp.models.embedded import cache_folder
from interp.models.generate import generate
from interp.models.load import classify, parse_device
from interp.models.residual_writes import ResidualWrites
from interp.steering.continuations import continue_prompts
from interp.text import load_text
from tests.tiny_models import FAMILIES, OTHERS, make_config

PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_from_a_folder_are_those_of_hugging_face(family, tiny_model, tiny_model_folder):
    model = tiny_model(family)
    reference = AutoModelForCausalLM.from_pretrained(
        tiny_model_folder(family), attn_implementation="eager"
    ).eval()
    tokens = model.to_tokens(PROMPT)
    with torch.no_grad():
        expected = reference(tokens).logits
    torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_model_is_frozen_and_in_eval_mode(family, tiny_model):
    model = tiny_model(family)
    assert not model.training
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model(PROMPT).requires_grad


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


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_batch_gives_each_prompt_its_own_logits(family, tiny_model):
    model = tiny_model(family)
    short = "The war lasted from the year 1732"
    batch = model([PROMPT, short], padding_side="right")
    alone = model(short)
    torch.testing.assert_close(batch[1, : alone.shape[1]], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_is_that_of_every_parameter(dtype, tiny_model_folder):
    model = load_model(str(tiny_model_folder("llama")), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert model(PROMPT).dtype == getattr(torch, dtype)
    assert describe_model(model)["dtype"] == dtype


def test_description_says_what_was_loaded_and_is_json(tiny_model, tiny_model_folder):
    description = describe_model(tiny_model("llama"))
    assert json.loads(json.dumps(description)) == description
    assert description == {
        "spec": str(tiny_model_folder("llama")),
        "source": str(tiny_model_folder("llama").resolve()),
        "revision": None,
        "architecture": "LlamaForCausalLM",
        "dtype": "float32",
        "device": "cpu",
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "d_model": 24,
        "d_head": 6,
        "d_vocab": description["d_vocab"],
        "attn_only": False,
    }


def test_weights_in_several_shards_load(tmp_path, tiny_model, tiny_model_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder("qwen2"))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    AutoTokenizer.from_pretrained(tiny_model_folder("qwen2")).save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(load_model(str(tmp_path))(PROMPT), tiny_model("qwen2")(PROMPT))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("smollm2-135m", "did you mean smollm2-135m-instruct"),
        ("nonsense", "unknown model 'nonsense': give smollm2"),
        ("", "unknown model ''"),
        ("./absent", "no file or folder ./absent"),
        ("absent.gguf", "no file or folder absent.gguf"),
        ("~nosuchuser/model", "~nosuchuser/model"),
    ],
)
def test_unknown_spec_names_what_is_allowed(spec, message):
    with pytest.raises(InputError, match=message) as error:
        load_model(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["nobody/nothing", "gpt2", "attn-only-4l"])
@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_unreachable_hub_is_one_line_that_says_what_else_works(spec, load):
    with pytest.raises(InputError, match="hub") as error:
        load(spec)
    assert "folder" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["float64", "int8", "fp32", ""])
def test_unknown_dtype_names_the_dtypes(dtype):
    with pytest.raises(InputError, match="float32, bfloat16, float16"):
        load_model(dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "tpu", ""])
def test_unknown_device_names_the_devices(device):
    with pytest.raises(InputError, match="use cpu, cuda, cuda:1 or mps"):
        load_model(device=device)


def test_absent_device_is_refused():
    with pytest.raises(InputError, match="'cuda:99'.*finds"):
        parse_device("cuda:99")


def test_folder_without_config_is_refused(tmp_path):
    with pytest.raises(InputError, match="no config.json"):
        load_model(str(tmp_path))


def test_file_of_another_kind_is_refused(tmp_path):
    file = tmp_path / "model.bin"
    file.write_bytes(b"x")
    with pytest.raises(InputError, match="a .gguf file or a folder"):
        load_model(str(file))


ODD_CONFIGS = {"no heads": {"num_attention_heads": 0}, "no width": {"hidden_size": None}}


@pytest.mark.parametrize("damage", ["truncated", "noise", "absent", "config", *ODD_CONFIGS])
def test_damaged_folder_is_one_line(damage, tmp_path, tiny_model_folder):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder("llama"), folder)
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif damage == "noise":
        weights.write_bytes(bytes(range(256)) * 100)
    elif damage == "absent":
        weights.unlink()
    elif damage == "config":
        (folder / "config.json").write_text("{not json")
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | ODD_CONFIGS[damage]))
    with pytest.raises(InputError, match="cannot read a causal language model from the folder") as error:
        load_model(str(folder))
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path, tiny_model_folder):
    """transformers would draw them at random, and the model would be another one at every load."""
    folder = tmp_path / "classifier"
    shutil.copytree(tiny_model_folder("qwen2"), folder)
    AutoModelForSequenceClassification.from_pretrained(folder, pad_token_id=0).save_pretrained(folder)
    with pytest.raises(InputError, match="lacks weights, lm_head.weight: it is damaged, or not of a causal"):
        load_model(str(folder))
    shutil.rmtree(folder)
    shutil.copytree(
        tiny_model_folder("llama"), folder
    )  # whose tied lm_head is not in the file, as it should be
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3, "layer_types": None}))
    with pytest.raises(InputError, match=r"lacks weights, model\.layers\.2\..* and 8 more"):
        load_model(str(folder))


MESSAGES = {
    "heads": (
        {"num_attention_heads": 5},
        r"hidden size \(24\) is not a multiple of the number of .* heads \(5\)",
    ),
    "vocabulary": (
        {"vocab_size": 400},
        r"model.embed_tokens.weight is of shape \[360, 24\] in the checkpoint, and of \[400, 24\] by config.json",
    ),
    "inner width": ({"intermediate_size": 60}, r"mlp.down_proj.weight and 5 more is of shape \[24, 48\]"),
}


@pytest.mark.parametrize(("changed", "message"), MESSAGES.values(), ids=MESSAGES)
def test_a_config_that_does_not_fit_says_what_does_not(changed, message, tmp_path, tiny_model_folder):
    folder = changed_copy(tiny_model_folder("llama"), tmp_path / "model", changed)
    with pytest.raises(InputError, match=message) as error:
        load_model(str(folder))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_tokenizer_says_so(tmp_path, tiny_model_folder):
    folder = changed_copy(tiny_model_folder("llama"), tmp_path / "model", {})
    for file in folder.glob("tokenizer*"):
        file.unlink()
    for load in (load_model, load_tokenizer):
        with pytest.raises(
            InputError, match="a tokenizer from .*: it holds no files of one, such as tokenizer.json"
        ):
            load(str(folder))


LAYERS = {family: "num_hidden_layers" for family in FAMILIES} | {"gpt2": "n_layer"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_with_more_layers_than_its_config_is_refused(family, tmp_path, tiny_model_folder):
    """transformers would leave them out, and the model would be another one."""
    fewer = {LAYERS[family]: 1} | ({} if family == "gpt2" else {"layer_types": None})
    folder = changed_copy(tiny_model_folder(family), tmp_path / "model", fewer)
    with pytest.raises(
        InputError, match=r"has weights that .* does not, .*\.1\..* and \d+ more: .* fewer layers"
    ):
        load_model(str(folder))


def test_biases_that_the_config_has_no_place_for_are_refused(tmp_path, tiny_model_folder):
    """A Qwen2 called Llama, which adds no biases to its queries, keys and values."""
    foreign = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    folder = changed_copy(tiny_model_folder("qwen2"), tmp_path / "model", foreign)
    with pytest.raises(InputError, match="does not, model.layers.0.self_attn.k_proj.bias and 5 more"):
        load_model(str(folder))


OLD_BUFFERS = {
    "gpt2": ("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"),
    "pythia": ("gpt_neox.layers.0.attention.rotary_emb.inv_freq", "gpt_neox.layers.0.attention.bias"),
    "llama": ("model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight", "score.weight"),
}


@pytest.mark.parametrize("family", OLD_BUFFERS)
def test_what_earlier_versions_and_other_heads_left_in_a_checkpoint_is_no_harm(
    family, tmp_path, tiny_model, tiny_model_folder
):
    folder = changed_copy(tiny_model_folder(family), tmp_path / "model", {})
    tensors = load_file(folder / "model.safetensors")
    known = {name.rpartition(".")[0]: tensor for name, tensor in tensors.items()}
    tied = known.get("model.embed_tokens", torch.zeros(3, 24)).clone()
    tensors |= {name: tied if name == "lm_head.weight" else torch.ones(3) for name in OLD_BUFFERS[family]}
    # a part of another model, whose layers are more
    tensors |= {"vision_tower.encoder.layers.7.mlp.weight": torch.ones(3)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(load_model(str(folder))(PROMPT), tiny_model(family)(PROMPT))


def test_a_base_model_s_checkpoint_has_its_layers_under_shorter_names(
    tmp_path, tiny_model, tiny_model_folder
):
    folder = changed_copy(tiny_model_folder("gpt2"), tmp_path / "model", {})
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(load_model(str(folder))(PROMPT), tiny_model("gpt2")(PROMPT))
    fewer = changed_copy(folder, tmp_path / "fewer", {"n_layer": 1})
    with pytest.raises(InputError, match=r"does not, .*h\.1\..* and 10 more"):
        load_model(str(fewer))


def test_a_path_is_taken_for_a_folder(tiny_model, tiny_model_folder):
    folder = tiny_model_folder("gpt2")
    model = load_model(folder)
    assert torch.equal(model(PROMPT), tiny_model("gpt2")(PROMPT))
    assert describe_model(model) == describe_model(tiny_model("gpt2"))
    assert load_tokenizer(folder).encode(PROMPT) == model.tokenizer.encode(PROMPT)
    with pytest.raises(InputError, match="there is no file or folder /absent"):
        load_model(Path("/absent"))


def changed_copy(folder: Path, copy: Path, changed: dict) -> Path:
    """A model's folder whose config.json says other things."""
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | changed))
    return copy


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


def test_a_padding_token_outside_the_vocabulary_gives_way_to_the_end(tmp_path, tiny_model_folder):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder("gpt2"), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    model = load_model(str(folder))
    assert model.tokenizer.pad_token == model.tokenizer.eos_token is not None
    assert len(generate(model, ["Mary", "Mary and John"], 2)) == 2


def test_architecture_that_is_no_causal_model_is_refused(tmp_path, tiny_model_folder):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder("llama"), folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
    with pytest.raises(InputError):
        load_model(str(folder))


def test_local_names_start_with_the_default():
    assert model_names()[0] == "smollm2-135m-instruct"
    assert all(classify(name)[0] in ("embedded", "planted") for name in model_names())


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


def test_a_folder_with_the_name_of_another_model_is_not_taken_for_it(
    tiny_model_folder, tmp_path, monkeypatch, caplog
):
    (tmp_path / "pythia-70m").symlink_to(tiny_model_folder("llama"))
    monkeypatch.chdir(tmp_path)
    model = load_model("pythia-70m")
    assert model.cfg.n_layers == 2 and "pythia" not in caplog.text


def test_a_model_that_runs_otherwise_than_in_transformers_is_refused(tiny_model_folder, monkeypatch):
    """As Cohere's in transformer-lens 3.9; here by a wrapped MLP that adds twice what it should."""
    boot = TransformerBridge.boot_transformers

    def booted(*args, **kwargs):
        bridge = boot(*args, **kwargs)
        bridge.blocks[0].mlp.register_forward_hook(lambda _module, _given, out: 2 * out)
        return bridge

    monkeypatch.setattr(TransformerBridge, "boot_transformers", booted)
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(
            InputError, match="runs the architecture LlamaForCausalLM otherwise .* off by [1-9]"
        ):
            load_model(str(tiny_model_folder("llama")), dtype=dtype)


def test_a_model_that_cannot_be_run_is_refused_in_one_line(tiny_model_folder, monkeypatch):
    def fails(*_args, **_kwargs):
        raise RuntimeError("shape '[1, 4]' is invalid\nfor input of size 3")

    monkeypatch.setattr(LlamaForCausalLM, "forward", fails)
    with pytest.raises(
        InputError, match=r"transformers cannot run this model: shape '\[1, 4\]' is invalid for input"
    ):
        load_model(str(tiny_model_folder("llama")))


def test_a_model_that_reads_three_tokens_is_loaded(tiny_model_folder, tmp_path):
    source = tiny_model_folder("gpt2")
    config = AutoConfig.from_pretrained(source)
    config.n_positions = 3
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert model.cfg.n_ctx == 3 and ResidualWrites.of(model).plain


@pytest.mark.parametrize("family", OTHERS)
def test_families_that_are_wired_otherwise_have_the_logits_of_hugging_face(
    family, tiny_model, tiny_model_folder
):
    reference = AutoModelForCausalLM.from_pretrained(
        tiny_model_folder(family), attn_implementation="eager"
    ).eval()
    model = tiny_model(family)
    tokens = model.to_tokens(PROMPT)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), reference(tokens).logits, rtol=0, atol=1e-5)


def test_a_home_that_there_is_not_is_a_path_that_there_is_not(monkeypatch, tmp_path):
    for spec in ("attn-only-4l:~nouser/x", "~nouser/x"):
        with pytest.raises(InputError, match="~nouser/x"):
            load_model(spec)
    with pytest.raises(InputError, match="~nouser/x"):
        load_text("datasets:~nouser/x", load_model("planted-induction"), n_tokens=100, context=32)
    monkeypatch.setenv("INTERP_CACHE", "~nouser/x")
    assert cache_folder() == Path("~nouser/x")
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    monkeypatch.setenv("INTERP_SMOLLM2_WHEEL", "~nouser/x")
    with pytest.raises(InputError, match="~nouser/x"):
        load_model()
