"""The model's own samples: sampled once, the same for ever; where a text ends, and what is no text."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from interp.app.codes.build import TOKENS
from interp.errors import InputError
from interp.models import load_model
from interp.models.hooks import hooked
from interp.steering.continuations import continue_prompts
from interp.text import load_text
from interp.text.sources import BATCH, ModelSamples
from interp.text.special import ends, until_end


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))


def first(source, model, n, seed=0):
    return list(itertools.islice(source.documents(model, seed=seed), n))


def test_samples_are_the_models_and_end_before_its_end_of_text(model):
    source = ModelSamples(batch=8, length=20)
    samples = first(source, model, 16)
    end = model.tokenizer.eos_token_id
    assert all(end not in sample and len(sample) <= 20 for sample in samples)
    assert max(map(len, samples)) == 20 and len(set(samples)) > 8
    assert first(source, model, 16, seed=1) != samples


def test_samples_follow_the_models_distribution(model):
    with torch.no_grad():
        chances = model(torch.tensor([[model.tokenizer.bos_token_id]]))[0, -1].softmax(-1)
    likely = chances.topk(5).indices
    samples = first(ModelSamples(batch=400, length=1), model, 400)
    starts = torch.tensor([sample[0] if sample else model.tokenizer.eos_token_id for sample in samples])
    share = torch.stack([(starts == token).float().mean() for token in likely])
    torch.testing.assert_close(share, chances[likely], atol=0.1, rtol=0)


def test_what_was_sampled_is_kept_and_damaged_or_missing_files_are_made_again(tiny_model, monkeypatch):
    model, source = tiny_model("llama"), ModelSamples(batch=8, length=20)
    whole = first(source, model, 24)
    folder = source.folder(model, 0, 20)
    assert sorted(path.stem for path in folder.glob("*.safetensors")) == ["00000", "00001", "00002"]
    with monkeypatch.context() as patch:
        patch.setattr("interp.text.sources.generate", None)  # sampling again would fail
        assert first(source, model, 24) == whole
    (folder / "00001.safetensors").write_bytes(b"half of it")
    (folder / "00002.safetensors").unlink()
    assert first(source, model, 24) == whole


def test_what_a_hooked_model_writes_is_not_taken_for_its_own(tiny_model):
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


@pytest.mark.parametrize(
    ("of_config", "expected"), [(None, {2}), (2, {2}), (7, {2, 7}), ([7, 9], {2, 7, 9}), ((2, 9), {2, 9})]
)
def test_a_text_ends_at_whatever_generation_stops_at(of_config, expected):
    cfg, tokenizer = SimpleNamespace(eos_token_id=of_config), SimpleNamespace(eos_token_id=2)
    model = SimpleNamespace(cfg=cfg, tokenizer=tokenizer)
    assert ends(model) == expected
    assert until_end([5, 6, max(expected), 5], ends(model)) == [5, 6]


@pytest.mark.slow
def test_the_packages_samples_are_the_default_models_and_need_no_sampling(smollm2, monkeypatch):
    monkeypatch.setattr("interp.text.sources.generate", None)
    assert load_text("stdlib+self", smollm2, n_tokens=TOKENS, context=128).n_tokens > 0.99 * TOKENS
    samples = first(ModelSamples(), smollm2, 3 * BATCH)
    assert len(set(samples)) == len(samples)
    begin, rng = smollm2.tokenizer.bos_token_id, torch.Generator().manual_seed(0)
    rows = torch.tensor([[begin, *sample[:64]] for sample in samples if len(sample) >= 64][:16])
    mixed = torch.stack([torch.cat([row[:1], row[1:][torch.randperm(64, generator=rng)]]) for row in rows])
    with torch.no_grad():
        sample_loss, mixed_loss = (
            -smollm2(tokens)[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).mean() for tokens in (rows, mixed)
        )
    assert sample_loss + 2 < mixed_loss
