"""The model's own samples: sampled once, the same for ever."""

import itertools

import pytest
import torch

from interp.errors import InputError
from interp.models import load_model
from interp.models.hooks import hooked
from interp.steering.continuations import continue_prompts
from interp.text import load_text
from interp.text.sources import ModelSamples


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))


def first(source, model, n, seed=0):
    return list(itertools.islice(source.documents(model, seed=seed), n))


def test_samples_are_the_models_and_end_before_its_end_of_text(tiny_model):
    model = tiny_model("llama")
    source = ModelSamples(batch=8, length=20)
    found = first(source, model, 16)
    end = model.tokenizer.eos_token_id
    assert all(end not in sample and len(sample) <= 20 for sample in found)
    assert max(map(len, found)) == 20 and len(set(found)) > 8
    assert first(source, model, 16, seed=1) != found


def test_samples_follow_the_models_distribution(tiny_model):
    model = tiny_model("llama")
    with torch.no_grad():
        chances = model(torch.tensor([[model.tokenizer.bos_token_id]]))[0, -1].softmax(-1)
    likely = chances.topk(5).indices
    found = first(ModelSamples(batch=400, length=1), model, 400)
    starts = torch.tensor([sample[0] if sample else model.tokenizer.eos_token_id for sample in found])
    share = torch.stack([(starts == token).float().mean() for token in likely])
    torch.testing.assert_close(share, chances[likely], atol=0.1, rtol=0)


def test_what_was_sampled_is_kept_and_more_is_added(tiny_model, monkeypatch):
    model, source = tiny_model("llama"), ModelSamples(batch=8, length=20)
    found = first(source, model, 10)
    folder = source.folder(model, 0, 20)
    kept = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert sorted(kept) == ["00000.safetensors", "00001.safetensors"]
    monkeypatch.setattr("interp.text.sources.generate", None)  # sampling again would fail
    assert first(source, model, 10) == found
    monkeypatch.undo()


def test_a_killed_sampling_goes_on_and_damaged_files_are_made_again(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "other"))
    model, source = tiny_model("llama"), ModelSamples(batch=8, length=20)
    whole = first(source, model, 24)
    folder = source.folder(model, 0, 20)
    (folder / "00001.safetensors").write_bytes(b"half of it")
    (folder / "00002.safetensors").unlink()
    assert first(source, model, 24) == whole


def test_what_a_hooked_model_writes_is_not_taken_for_its_own(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    model, source = tiny_model("llama"), ModelSamples(batch=8, length=20)
    with hooked(model, {"blocks.0.hook_resid_pre": lambda x: 0 * x}):
        with pytest.raises(InputError, match="text of the source 'self' has to be by the model as it is"):
            first(source, model, 1)
        with pytest.raises(InputError, match="perplexity has to be by the model as it is"):
            continue_prompts(model, ["Mary"], 2)
    whole = first(source, model, 1)
    with hooked(model, {"blocks.0.hook_resid_pre": lambda x: 0 * x}):
        assert first(source, model, 1) == whole  # what was sampled before is


def test_other_weights_have_other_samples(tiny_model_folder, tiny_model):
    source = ModelSamples(batch=4, length=8)
    model, same = (load_model(str(tiny_model_folder("llama"))) for _ in range(2))
    before = source.folder(model, 0, 8)
    assert source.folder(same, 0, 8) == before
    with torch.no_grad():
        same.blocks[0].attn.W_O.neg_()
        for parameter in same.original_model.parameters():
            parameter.neg_()
    assert source.folder(same, 0, 8) != before
    assert source.folder(tiny_model("gpt2"), 0, 8) != before


def test_self_as_blocks_with_a_split(tiny_model):
    model = tiny_model("llama")
    train, heldout = (
        load_text("self", model, n_tokens=640, context=32, split=split) for split in ("train", "heldout")
    )
    assert train.tokens.shape == heldout.tokens.shape == (20, 32)
    assert train.fingerprint() != heldout.fingerprint()
