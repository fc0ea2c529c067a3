"""AtP*: the QK fix against whole forwards, and GradDrop is a backward pass with a block cut out."""

import numpy as np
import pytest
import torch

from interp.activations.metric import task_metric
from interp.activations.stream import end_logits, run_batch
from interp.models import hooked
from interp.scores.attribution import attribution
from interp.scores.baselines.atp_star import AtPStarConfig, atp_star
from tests.oracles import assert_written_heads_first, kept, planted
from tests.pairs import random_pairs
from tests.tiny_models import FAMILIES


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_without_either_correction_it_is_attribution_patching(family, tiny_model):
    model, pairs = tiny_model(family), random_pairs(60, n=3, lengths=(8, 9))
    scores = atp_star(model, pairs, AtPStarConfig(node="z", drop=False, batch_size=2))
    whole = attribution(model, pairs)
    np.testing.assert_allclose(scores.heads_per_pair, whole.heads_per_pair, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(scores.mlps_per_pair, whole.mlps_per_pair, rtol=1e-5, atol=1e-7)
    assert scores.signed


def z_with(model, batch, layer, into):
    """A layer's z on the clean prompts with its queries, keys or values from the corrupt ones, by whole forwards."""
    point = f"blocks.{layer}.attn.hook_{into}"
    (corrupt,) = kept(model, batch.corrupt.tokens, point)
    (z,) = kept(model, batch.clean.tokens, f"blocks.{layer}.attn.hook_z", hooks={point: lambda _: corrupt})
    return z


@pytest.mark.parametrize("family", FAMILIES)
def test_the_qk_fix_recomputes_each_heads_attention(family, tiny_model):
    """Shared keys and values included: every query head is followed through its own z (grouped queries)."""
    model, pairs = tiny_model(family), random_pairs(60, n=3)
    scores = atp_star(model, pairs, AtPStarConfig(drop=False))
    batch = run_batch(model, pairs, (0, 1, 2), gradients=True)
    for layer in range(model.cfg.n_layers):
        change = sum(batch.clean.z[layer] - z_with(model, batch, layer, into) for into in "qkv")
        wanted = (change * batch.z_gradient[layer]).sum((1, 3))
        np.testing.assert_allclose(scores.heads_per_pair[:, layer], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "pythia", "llama", "gemma2", "planted-inhibition"])
def test_graddrop_is_the_mean_of_absolute_effects_with_each_block_cut_out_in_its_turn(name, tiny_model):
    planted_name = name.startswith("planted")
    model, pairs = planted(name, 3) if planted_name else (tiny_model(name), random_pairs(60, n=3))
    scores = atp_star(model, pairs, AtPStarConfig(node="z"))
    batch, layers = run_batch(model, pairs, (0, 1, 2)), model.cfg.n_layers
    totals = np.zeros_like(scores.heads_per_pair)
    mlp_totals = np.zeros((len(pairs), layers))
    for dropped in range(layers):
        z, mlps = _gradients_without(model, pairs, batch, dropped)
        for layer in range(layers):
            change = batch.clean.z[layer] - batch.corrupt.z[layer]
            totals[:, layer] += (change * z[layer]).sum((1, 3)).abs().numpy()
            if mlps:
                change = batch.clean.mlp[layer] - batch.corrupt.mlp[layer]
                mlp_totals[:, layer] += (change * mlps[layer]).sum((1, 2)).abs().numpy()
    np.testing.assert_allclose(scores.heads_per_pair, totals / (layers - 1), rtol=1e-3, atol=1e-4)
    if mlps:
        np.testing.assert_allclose(scores.mlps_per_pair, mlp_totals / (layers - 1), rtol=1e-3, atol=1e-4)
    assert not scores.signed
    assert scores.cost.forwards == len(pairs) * (4 + layers - 1)


def _gradients_without(model, pairs, batch, dropped):
    """Gradients at every z and MLP output where nothing passes back through one block but the residual stream."""
    sites, entry = {}, {}

    def leaf(name):
        def hook(x):
            sites[name] = x if x.requires_grad else x.requires_grad_(True)
            return sites[name]

        return hook

    layers = range(model.cfg.n_layers)
    names = [f"blocks.{k}.attn.hook_z" for k in layers]
    names += [f"blocks.{k}.hook_mlp_out" for k in layers] if batch.clean.mlp else []
    hooks = {"blocks.0.hook_resid_pre": lambda x: x.detach().requires_grad_(True)}
    cut = {
        f"blocks.{dropped}.hook_resid_pre": lambda x: entry.setdefault("x", x),
        f"blocks.{dropped}.hook_resid_post": lambda x: entry["x"] + (x - entry["x"]).detach(),
    }
    with hooked(model, hooks | {name: leaf(name) for name in names}), hooked(model, cut):
        values = task_metric(end_logits(model, batch.clean.tokens), list(pairs), pairs.metric)
    wanted = [sites[name] for name in names]
    gradients = torch.autograd.grad(values.sum(), wanted, allow_unused=True)
    gradients = [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, gradients, strict=True)]
    return gradients[: len(layers)], gradients[len(layers) :]


@pytest.mark.parametrize("node", ["qkv", "z"])
@pytest.mark.parametrize("name", ["planted-induction", "planted-inhibition"])
def test_planted_heads_come_first_and_those_that_act_through_others_do_not_vanish(name, node):
    model, pairs = planted(name, 8)
    assert_written_heads_first(atp_star(model, pairs, AtPStarConfig(node=node)), name)
