"""Activation patching against whole forwards; batching, saving and resuming change nothing."""

from dataclasses import replace

import numpy as np
import pytest

from interp.errors import InputError
from interp.models import Site
from interp.planted.models import planted_truth
from interp.scores.patching import PatchingConfig, patching
from tests.oracles import WholeForwards, at, heads_of, planted
from tests.pairs import random_pairs
from tests.tiny_models import FAMILIES


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_effects_equal_whole_forwards_one_component_at_a_time(family, shared, tiny_model):
    """Prompts with a common beginning give the same for less."""
    # of 10 or 12 tokens, more than the sliding windows of the tiny Gemmas
    model, pairs = tiny_model(family), random_pairs(60, n=4, lengths=(10, 12))
    for i, pair in enumerate(pairs if shared else ()):
        first, rest = pair.clean_tokens[: -4 - i % 2], pair.clean_tokens[-4 - i % 2 :]
        pairs[i] = replace(pair, corrupt_tokens=(*first, *((token + 1) % 60 for token in rest)))
    scores = patching(model, pairs, PatchingConfig(batch_size=2))
    for row, pair in enumerate(pairs):
        run = WholeForwards(model, pair)
        heads = [run.without() - run.without(site) for site in heads_of(model)]
        mlps = [run.without() - run.without(Site("mlp", layer)) for layer in range(model.cfg.n_layers)]
        np.testing.assert_allclose(scores.heads_per_pair[row].ravel(), heads, atol=1e-4)
        np.testing.assert_allclose(scores.mlps_per_pair[row], mlps, atol=1e-4)
    if shared:
        sites = scores.heads.size + scores.mlps.size
        # two layers: half of the patches start at half the depth
        assert scores.cost.forwards - 2 * len(pairs) < 0.6 * len(pairs) * sites * 0.75


@pytest.mark.parametrize("name", ["planted-induction", "planted-inhibition", "planted-backup", "planted-or"])
def test_planted_decoys_do_nothing(name):
    scores = patching(*planted(name, 8))
    gap = (scores.metric_clean - scores.metric_corrupt).mean()
    assert scores.mlps is None
    assert max(abs(scores.heads[at(site)]) for site in planted_truth(name).decoys) < 1e-3 * gap


def test_a_checkpoint_of_other_prompts_weights_or_noise_is_refused(tiny_model, tmp_path, monkeypatch):
    model, pairs, path = tiny_model("llama"), random_pairs(60, n=2), tmp_path / "partial.safetensors"
    config = PatchingConfig(checkpoint=str(path))
    patching(model, pairs, config)
    with pytest.raises(InputError, match="belongs to another"):
        patching(model, random_pairs(60, n=2, seed=1), config)
    weight = next(model.original_model.parameters())
    with monkeypatch.context() as patch:  # other weights by the same name
        patch.setattr(weight, "data", -weight.data)
        with pytest.raises(InputError, match="belongs to another"):
            patching(model, pairs, config)
    path.write_bytes(b"noise")
    with pytest.raises(InputError, match="cannot be read"):
        patching(model, pairs, config)
