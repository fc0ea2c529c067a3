"""Subnetwork probing: closed forms against draws, the masked forward against exact patches, planted circuits."""

import numpy as np
import pytest
import torch

from interp.activations.stream import feed
from interp.interventions.effects import activation_patching
from interp.models import Site
from interp.planted.models import planted_truth
from interp.scores.baselines import subnetwork_probing as hard_concrete
from interp.scores.baselines.subnetwork_probing import SubnetworkProbingConfig, _Masked, subnetwork_probing
from tests.oracles import planted
from tests.pairs import random_pairs

LOG_ALPHA = torch.tensor([-4.0, -1.0, 0.0, 0.7, 3.0])


def test_closed_forms_equal_the_mean_of_draws():
    draws = hard_concrete.sample(LOG_ALPHA.repeat(200_000, 1), torch.Generator().manual_seed(0))
    assert (draws.min(), draws.max()) == (0, 1)
    torch.testing.assert_close(draws.mean(0), hard_concrete.mean(LOG_ALPHA), atol=4e-3, rtol=0)
    opened = (draws > 0).float().mean(0)
    torch.testing.assert_close(opened, hard_concrete.open_probability(LOG_ALPHA), atol=4e-3, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_a_closed_mask_is_activation_patching_and_open_ones_change_nothing(family, tiny_model):
    model, pairs = tiny_model(family), random_pairs(60, n=2)
    masked = _Masked(model, pairs, SubnetworkProbingConfig(metric="task", mlps=True))
    feed(model, pairs, [masked])
    heads = model.cfg.n_heads
    assert masked.size == 2 * heads + 2
    with torch.no_grad():
        assert masked.damage(torch.ones(masked.size), 0).item() == pytest.approx(0, abs=1e-5)
        sites = {1: Site("attn", 0, 1), heads: Site("attn", 1, 0), 2 * heads: Site("mlp", 0)}
        for number, site in sites.items():
            mask = torch.ones(masked.size)
            mask[number] = 0
            wanted = activation_patching(model, pairs, [site]).effects.mean()
            assert masked.damage(mask, 0).item() == pytest.approx(wanted, abs=1e-4)


def test_the_gradient_of_a_mask_is_the_slope_of_the_damage(tiny_model):
    model, pairs = tiny_model("llama"), random_pairs(60, n=2)
    masked = _Masked(model, pairs, SubnetworkProbingConfig())
    feed(model, pairs, [masked])
    mask = torch.full((masked.size,), 0.5, requires_grad=True)
    with torch.enable_grad():
        masked.damage(mask, 0).backward()
    for number in (0, 5):
        step = torch.zeros(masked.size)
        step[number] = 1e-2
        with torch.no_grad():
            slope = (masked.damage(mask + step, 0) - masked.damage(mask - step, 0)) / 2e-2
        assert mask.grad[number].item() == pytest.approx(slope.item(), rel=0.02, abs=1e-4)


@pytest.mark.parametrize("name", ["planted-inhibition", "planted-backup"])
def test_planted_circuits_survive_backups_included(name):
    (model, pairs), truth, events = planted(name, 4), planted_truth(name), []
    config = SubnetworkProbingConfig(steps=60, lr=0.2, sparsity=0.3)
    scores = subnetwork_probing(model, pairs, config, progress=events.append)
    members = {f"a{layer}.h{h}" for layer, h in np.argwhere(scores.heads > 0.3)}
    # the negative mover is worth least, and goes or stays with the noise of so few steps
    needed = {site for site, role in truth.heads.items() if "negative" not in role}
    assert needed <= members <= set(truth.heads)
    assert sum(events) == 100
    # clean, corrupt, untouched answer; then a forward and a backward a step
    assert scores.cost.forwards == 4 * (2 + 1 + 60 * 3)
