"""HISP, the norm of mean differences, and the rankings that look at nothing; and what all methods have in common."""

import numpy as np
import pytest
import torch

from interp.activations.means import HeadMeans, output_weights
from interp.activations.stream import MetricConsumer, feed
from interp.errors import InputError
from interp.planted.models import load_planted_model, planted_truth
from interp.scores.attribution import attribution
from interp.scores.baselines import RandomConfig, layer_index, random_ranking
from interp.scores.hisp import HISPConfig, by_layer_norm, hisp
from interp.scores.mean_difference import mean_difference, mean_difference_norm
from interp.scores.registry import load_method
from interp.tasks import load_task
from tests.pairs import random_pairs

BASELINES = (
    "nap-ig",
    "nap-ig-activations",
    "atp-star",
    "eap",
    "eap-ig",
    "eap-ig-activations",
    "hisp",
    "mean-difference",
    "random",
    "layer-index",
)


def test_hisp_takes_the_absolute_value_of_every_pair_and_norms_every_layer(tiny_model):
    model, pairs = tiny_model("llama"), random_pairs(60, n=5, lengths=(8, 9))
    per_pair = attribution(model, pairs).heads_per_pair
    plain, scores = hisp(model, pairs, HISPConfig(norm=False)), hisp(model, pairs)
    np.testing.assert_array_equal(plain.heads_per_pair, abs(per_pair))
    mean = np.zeros(per_pair.shape[1:])
    for layer in range(len(mean)):
        for head in range(mean.shape[1]):
            mean[layer, head] = sum(abs(row[layer, head]) for row in per_pair) / len(pairs)
        mean[layer] /= sum(x**2 for x in mean[layer]) ** 0.5
    np.testing.assert_allclose(scores.heads, mean)
    np.testing.assert_allclose(scores.heads_per_pair.mean(0), mean)


def test_hisp_of_some_pairs_is_a_slice_normed_again(tiny_model):
    model, pairs = tiny_model("gpt2"), random_pairs(60, n=4)
    some = by_layer_norm(hisp(model, pairs).heads_per_pair[[0, 2]].mean(0))
    np.testing.assert_allclose(some, hisp(model, pairs.subset([0, 2])).heads, rtol=1e-4)
    np.testing.assert_array_equal(by_layer_norm(np.zeros((2, 3))), 0)


def test_mean_difference_equals_what_transformer_lens_caches(tiny_model):
    model, pairs = tiny_model("gpt2"), random_pairs(60, n=3)
    sides = []
    for side in ("clean", "corrupt"):
        tokens = torch.tensor([getattr(pair, f"{side}_tokens") for pair in pairs])
        _, cache = model.run_with_cache(tokens)
        sides.append([cache[f"blocks.{k}.attn.hook_z"] for k in range(model.cfg.n_layers)])
    found = mean_difference(model, pairs)
    for layer, (clean, corrupt) in enumerate(zip(*sides, strict=True)):
        for head in range(model.cfg.n_heads):
            results = [(z[:, :, head] @ model.blocks[layer].attn.W_O[head]) for z in (clean, corrupt)]
            wanted = (results[0].mean((0, 1)) - results[1].mean((0, 1))).norm()
            assert found.heads[layer, head] == pytest.approx(wanted.item(), rel=1e-4)


def test_mean_difference_of_some_pairs_comes_from_the_means_of_all(tiny_model):
    model, pairs = tiny_model("llama"), random_pairs(60, n=4)
    means = HeadMeans(pairs)
    feed(model, pairs, [means])
    some = mean_difference_norm(means.z_[:, [3, 1]], output_weights(model))
    np.testing.assert_allclose(some, mean_difference(model, pairs.subset([3, 1])).heads, rtol=1e-4)


def test_mean_difference_is_misled_by_decoys_that_know():
    model = load_planted_model("planted-induction")
    pairs = load_task("planted-induction").sample(model.tokenizer, 16, 0)
    scores = mean_difference(model, pairs).heads
    order = [f"a{k // 6}.h{k % 6}" for k in np.argsort(-scores, axis=None)]
    assert set(order[:3]) != set(planted_truth("planted-induction").heads)


def test_priors_run_nothing_and_follow_their_seed(tiny_model):
    model, pairs = tiny_model("llama"), random_pairs(60, n=2)
    first, again, other = (random_ranking(model, pairs, RandomConfig(seed=s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.heads, again.heads)
    assert not np.array_equal(first.heads, other.heads)
    assert first.cost.forwards == 0
    assert first.metric_clean is None
    np.testing.assert_array_equal(layer_index(model, pairs).heads, [[0] * 4, [1] * 4])
    with pytest.raises(InputError, match="seed -1"):
        RandomConfig(seed=-1)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_feeds_consumers_and_returns_one_kind_of_result(name, tiny_model):
    model, pairs, method = tiny_model("qwen2"), random_pairs(60, n=3, lengths=(7, 8)), load_method(name)
    metric, told = MetricConsumer(3), []
    scores = method(model, pairs, method.config(), consumers=[metric], progress=told.append)
    assert sum(told) == 100
    assert scores.method == name
    assert scores.heads.shape == (2, 4)
    assert np.isfinite(scores.heads).all()
    assert scores.signed or (scores.heads >= 0).all()
    np.testing.assert_array_equal(scores.metric_clean, metric.metric_[0])
    np.testing.assert_array_equal(scores.metric_corrupt, metric.metric_[1])
    assert np.ptp(metric.metric_) > 0
    assert set(scores.config) >= {"batch_size"}
    if scores.heads_per_pair is not None:
        np.testing.assert_allclose(scores.heads_per_pair.mean(0), scores.heads)


@pytest.mark.parametrize("name", BASELINES)
def test_no_baseline_leaves_a_hook_or_a_gradient_behind(name, tiny_model):
    model, pairs, method = tiny_model("llama"), random_pairs(60, n=1), load_method(name)
    tokens = torch.tensor([pairs[0].clean_tokens])
    with torch.no_grad():
        before = model(tokens)
    method(model, pairs, method.config())
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
