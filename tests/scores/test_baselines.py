"""HISP, the norm of mean differences, and the rankings that look at nothing; and what all methods have in common."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.activations.stream import MetricConsumer
from interp.errors import InputError
from interp.scores.attribution import attribution
from interp.scores.baselines.hisp import HISPConfig, hisp, layer_norms
from interp.scores.baselines.mean_difference import mean_difference
from interp.scores.baselines.trivial import RandomConfig, layer_index, random
from interp.scores.registry import METHODS, load_method, method_config
from tests.oracles import planted
from tests.pairs import random_pairs

BASELINES = ("nap-ig", "nap-ig-activations", "atp-star", "eap", "eap-ig", "eap-ig-activations", "hisp")
BASELINES += ("relp", "gim", "eap-relp", "eap-gim", "mean-difference", "random", "layer-index")


def test_hisp_takes_the_absolute_value_of_every_pair_and_norms_every_layer(tiny_model):
    model, pairs = tiny_model("llama"), random_pairs(60, n=5, lengths=(8, 9))
    sizes = abs(attribution(model, pairs).heads_per_pair)
    plain, scores = hisp(model, pairs, HISPConfig(norm=False)), hisp(model, pairs)
    np.testing.assert_array_equal(plain.heads_per_pair, sizes)
    mean = sizes.mean(0) / np.linalg.norm(sizes.mean(0), axis=1, keepdims=True)
    np.testing.assert_allclose(scores.heads, mean)
    np.testing.assert_allclose(scores.heads_per_pair.mean(0), mean)
    subset = scores.heads_per_pair[[0, 2]].mean(0)  # a slice, normed again
    np.testing.assert_allclose(subset / layer_norms(subset), hisp(model, pairs.subset([0, 2])).heads, rtol=1e-4)
    np.testing.assert_array_equal(layer_norms(np.zeros((2, 3))), 1)


def test_mean_difference_equals_what_transformer_lens_caches(tiny_model):
    model, pairs = tiny_model("gpt2"), random_pairs(60, n=3)
    sides = []
    for side in ("clean", "corrupt"):
        tokens = torch.tensor([getattr(pair, f"{side}_tokens") for pair in pairs])
        _, cache = model.run_with_cache(tokens)
        sides.append([cache[f"blocks.{k}.attn.hook_z"] for k in range(model.cfg.n_layers)])
    scores = mean_difference(model, pairs)
    for layer, (clean, corrupt) in enumerate(zip(*sides, strict=True)):
        for head in range(model.cfg.n_heads):
            results = [(z[:, :, head] @ model.blocks[layer].attn.W_O[head]) for z in (clean, corrupt)]
            wanted = (results[0].mean((0, 1)) - results[1].mean((0, 1))).norm()
            assert scores.heads[layer, head] == pytest.approx(wanted.item(), rel=1e-4)


def test_priors_run_nothing_and_follow_their_seed(tiny_model):
    model, pairs = tiny_model("llama"), random_pairs(60, n=2)
    first, again, other = (random(model, pairs, RandomConfig(seed=s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.heads, again.heads)
    assert not np.array_equal(first.heads, other.heads)
    assert first.cost.forwards == 0
    assert first.metric_clean is None
    np.testing.assert_array_equal(layer_index(model, pairs).heads, [[0] * 4, [1] * 4])


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_feeds_consumers_and_leaves_the_model_alone(name, tiny_model):
    model, pairs, method = tiny_model("qwen2"), random_pairs(60, n=3, lengths=(7, 8)), load_method(name)
    metric, events, tokens = MetricConsumer(3), [], torch.tensor([pairs[0].clean_tokens])
    with torch.no_grad():
        before = model(tokens)
    config = method.config(steps=2) if "-ig" in name else method.config()
    scores = method(model, pairs, config, consumers=[metric], progress=events.append)
    assert sum(events) == 100 and scores.method == name
    assert scores.heads.shape == (2, 4) and np.isfinite(scores.heads).all()
    assert scores.signed or (scores.heads >= 0).all()
    np.testing.assert_array_equal([scores.metric_clean, scores.metric_corrupt], metric.metric_)
    assert np.ptp(metric.metric_) > 0
    if scores.heads_per_pair is not None:
        np.testing.assert_allclose(scores.heads_per_pair.mean(0), scores.heads)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("name", ["attribution", "contextual-decomposition", "flow-routes"])
def test_batches_of_several_lengths_change_nothing(name, tiny_model):
    model, pairs, method = tiny_model("llama"), random_pairs(60, n=4, lengths=(7, 9)), load_method(name)
    together = method(model, pairs).heads_per_pair
    for i in range(4):
        np.testing.assert_allclose(together[i], method(model, pairs.subset([i])).heads, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "family", "message"),
    [
        ("acdc", {"level": "edges"}, "gemma2", "edge-level acdc needs heads that add"),
        ("acdc", {"level": "edges"}, "opt", "edge-level acdc cannot compute the MLP"),
        ("contextual-decomposition", {}, "gemma2", "needs heads that add"),
        ("eap", {}, "olmo2", "edges cannot be attributed"),
        ("flow-routes", {}, "olmo2", "needs heads that add"),
    ],
)
def test_models_that_a_method_cannot_take_apart_are_refused(name, options, family, message, tiny_model):
    method = load_method(name)
    with pytest.raises(InputError, match=message):
        method(tiny_model(family), random_pairs(60, n=2), method.config(**options))


SUBSET = [7, 2, 2, 9, 0, 5]


@pytest.mark.parametrize("name", [name for name in METHODS if load_method(name).subsets])
def test_a_subset_of_a_pool_scores_as_by_itself(name):
    (model, pairs), method = planted("planted-inhibition", 10), load_method(name)
    config = method.config()
    if name == "overlap":
        config = replace(config, n_codes=20, epochs=5, examples=4)
    if name == "eap-ig":
        config = replace(config, steps=2)
    rank, forwards = method.pool(model, pairs, config)
    heads, more = [rank(SUBSET, config) for _ in range(2)][1]  # the second time every patch is known
    alone = method(model, pairs.subset(SUBSET), config)
    np.testing.assert_allclose(heads, alone.heads, rtol=1e-3, atol=1e-5)
    if name != "adaptive-patching":  # which goes on to set codes
        assert forwards * len(SUBSET) + more == pytest.approx(alone.cost.forwards)


WRONG = {
    "acdc": ["lowest=0.0", "lowest=0.2", "thresholds=0"],
    "adaptive-patching": ["threshold=0.0", "budget=-1.0", "seed=-1"],
    "eap": ["edges=0"],
    "eap-ig": ["steps=0"],
    "gim": ["temperature=0.0", "temperature=nan", "temperature=inf"],
    "nap-ig": ["steps=0"],
    "overlap": ["n_codes=0", "examples=0", "l1=-1.0", "epochs=0", "lr=-1.0", "seed=-3"],
    "random": ["seed=-1"],
    "role-overlap": ["n_codes=0", "seed=-1"],
    "subnetwork-probing": ["steps=0", "lr=0.0", "lr=nan", "sparsity=-1.0"],
}


@pytest.mark.parametrize(("method", "option"), [(method, o) for method, all_of in WRONG.items() for o in all_of])
def test_impossible_options_are_refused_by_name(method, option):
    name, value = option.split("=")
    with pytest.raises(InputError, match=f"{name}.*{value}|{value}.*{name}"):
        method_config(method, "ioi", {name: value})
