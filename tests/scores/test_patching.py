"""Activation patching against transformer-lens and brute force; batching, saving and resuming change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.activations.metric import task_metric
from interp.errors import InputError
from interp.models import Site, hooked
from interp.planted.models import load_planted_model, planted_truth
from interp.scores.patching import PatchingConfig, activation_patching, patching
from interp.tasks import load_task
from tests.pairs import random_pairs
from tests.tiny_models import FAMILIES

TAIL = 4
"""Last tokens in which the prompts of a pair with a common beginning differ."""


def test_head_effects_equal_transformer_lens_patching(tiny_model):
    from transformer_lens.patching import get_act_patch_attn_head_out_all_pos

    model = tiny_model("gpt2")
    pairs = random_pairs(60, n=1)
    clean, corrupt = (torch.tensor([getattr(pairs[0], f"{side}_tokens")]) for side in ("clean", "corrupt"))
    _, cache = model.run_with_cache(corrupt)

    def metric(logits):
        return task_metric(logits[:, -1], pairs, "logit_diff")[0]

    theirs = get_act_patch_attn_head_out_all_pos(model, clean, cache, metric)
    with torch.no_grad():
        wanted = metric(model(clean)) - theirs
    np.testing.assert_allclose(patching(model, pairs).heads, wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_effects_equal_whole_forwards_one_component_at_a_time(family, tiny_model):
    model = tiny_model(family)
    pairs = random_pairs(60, n=3, lengths=(8, 10))
    found = patching(model, pairs, PatchingConfig(batch_size=2))
    for row, pair in enumerate(pairs):
        heads, mlps = _one_at_a_time(model, pair)
        np.testing.assert_allclose(found.heads_per_pair[row], heads, atol=1e-4)
        np.testing.assert_allclose(found.mlps_per_pair[row], mlps, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_with_a_common_beginning_give_the_same_for_less(family, tiny_model):
    model = tiny_model(family)
    # 12 tokens, more than the sliding windows of the tiny Gemmas
    pairs = random_pairs(60, n=4, lengths=(10, 12))
    for i, pair in enumerate(pairs):
        shared = pair.clean_tokens[: len(pair.clean_tokens) - TAIL - i % 2]
        corrupt = (*shared, *((token + 1) % 60 for token in pair.clean_tokens[len(shared) :]))
        pairs[i] = replace(pair, corrupt_tokens=corrupt)
    found = patching(model, pairs, PatchingConfig(batch_size=2))
    for row, pair in enumerate(pairs):
        heads, mlps = _one_at_a_time(model, pair)
        np.testing.assert_allclose(found.heads_per_pair[row], heads, atol=1e-4)
        np.testing.assert_allclose(found.mlps_per_pair[row], mlps, atol=1e-4)
    sites = found.heads.size + found.mlps.size
    base, patches = (
        2 * len(pairs),
        len(pairs) * sites * 0.75,
    )  # two layers: half of the patches start at half the depth
    assert found.cost.forwards - base < 0.6 * patches


def _one_at_a_time(model, pair):
    """Effects of every head and MLP by whole forwards of one pair, without any of the code under test."""
    clean, corrupt = torch.tensor([pair.clean_tokens]), torch.tensor([pair.corrupt_tokens])
    kept = {}

    def run(tokens, hooks):
        with torch.no_grad(), hooked(model, hooks):
            return task_metric(model(tokens)[:, -1], [pair], "logit_diff").item()

    def keep(name):
        return {name: lambda x: kept.__setitem__(name, x.clone())}

    def head_from_corrupt(name, head):
        def patch(z):
            z = z.clone()
            z[:, :, head] = kept[name][:, :, head]
            return z

        return {name: patch}

    layers = range(model.cfg.n_layers)
    z_names = [f"blocks.{i}.attn.hook_z" for i in layers]
    mlp_names = [f"blocks.{i}.hook_mlp_out" for i in layers]
    for name in (*z_names, *mlp_names):
        run(corrupt, keep(name))
    base = run(clean, {})
    heads = [
        [base - run(clean, head_from_corrupt(name, head)) for head in range(model.cfg.n_heads)]
        for name in z_names
    ]
    mlps = [base - run(clean, {name: lambda _, name=name: kept[name]}) for name in mlp_names]
    return np.array(heads), np.array(mlps)


@pytest.mark.parametrize("name", ["planted-induction", "planted-inhibition", "planted-backup", "planted-or"])
def test_planted_heads_stand_out_and_decoys_do_not(name):
    model, truth = load_planted_model(name), planted_truth(name)
    pairs = load_task(name).sample(model.tokenizer, 8, 0)
    scores = patching(model, pairs)
    gap = (scores.metric_clean - scores.metric_corrupt).mean()
    assert scores.mlps is None
    for site in truth.decoys:
        layer, head = (int(part[1:]) for part in site.split("."))
        assert abs(scores.heads[layer, head]) < 1e-3 * gap


def test_a_killed_run_resumes_to_the_same_result_without_repeating(tiny_model, tmp_path):
    model, pairs = tiny_model("llama"), random_pairs(60, n=6)
    whole = patching(model, pairs, PatchingConfig(batch_size=3))
    path = str(tmp_path / "partial.safetensors")
    seen = []

    def die(done):
        seen.append(done)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        patching(model, pairs, PatchingConfig(batch_size=3, checkpoint=path), progress=die)
    resumed = patching(model, pairs, PatchingConfig(batch_size=3, checkpoint=path))
    np.testing.assert_array_equal(resumed.heads_per_pair, whole.heads_per_pair)
    np.testing.assert_array_equal(resumed.mlps_per_pair, whole.mlps_per_pair)
    assert resumed.cost.forwards < whole.cost.forwards
    again = patching(model, pairs, PatchingConfig(batch_size=3, checkpoint=path))
    assert again.cost.forwards == 2 * len(pairs)


def test_a_checkpoint_of_other_prompts_weights_or_noise_is_refused(tiny_model, tmp_path, monkeypatch):
    model = tiny_model("llama")
    path = tmp_path / "partial.safetensors"
    config = PatchingConfig(checkpoint=str(path))
    patching(model, random_pairs(60, n=2), config)
    with pytest.raises(InputError, match="belongs to another"):
        patching(model, random_pairs(60, n=2, seed=1), config)
    weight = next(model.original_model.parameters())
    with monkeypatch.context() as patch:  # other weights by the same name
        patch.setattr(weight, "data", -weight.data)
        with pytest.raises(InputError, match="belongs to another"):
            patching(model, random_pairs(60, n=2), config)
    path.write_bytes(b"noise")
    with pytest.raises(InputError, match="cannot be read"):
        patching(model, random_pairs(60, n=2), config)


def test_patching_an_activation_for_itself_changes_nothing(tiny_model):
    model = tiny_model("gemma2")
    pairs = random_pairs(60, n=2)
    same = pairs.subset(range(2))
    for i, pair in enumerate(pairs):
        same[i] = type(pair)("", "", pair.clean_tokens, pair.clean_tokens, pair.answers, pair.wrong_answers)
    found = activation_patching(model, same, [Site("attn", 1, 0), Site("mlp", 0)])
    np.testing.assert_allclose(found.effects, 0, atol=1e-5)
