"""NAP-IG and EAP-IG: completeness where it must hold, finite differences, and the two agree with each other."""

import numpy as np
import pytest
import torch

from interp.activations.metric import task_metric
from interp.activations.stream import end_logits, run_batch
from interp.planted.models import planted_truth
from interp.scores.attribution import attribution
from interp.scores.baselines.gim import eap_gim, gim
from interp.scores.baselines.relp import eap_relp, relp
from interp.scores.eap import EAPConfig, eap, edge_scores
from interp.scores.eap_ig import EAPIGConfig, eap_ig, eap_ig_activations, input_path
from interp.scores.method import Context
from interp.scores.nap_ig import NAPIGConfig, nap_ig, nap_ig_activations
from interp.scores.patching import patching
from tests.oracles import assert_written_heads_first, at, kept, planted
from tests.pairs import random_pairs
from tests.tiny_models import FAMILIES


def metric_of(model, batch, pairs, hooks):
    with torch.no_grad():
        return task_metric(end_logits(model, batch.clean.tokens, hooks), batch.pairs, pairs.metric).numpy()


@pytest.mark.parametrize("method", [nap_ig, nap_ig_activations])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_step_is_attribution_patching(family, method, tiny_model):
    model, pairs = tiny_model(family), random_pairs(60, n=3, lengths=(8, 9))
    whole, one_step = attribution(model, pairs), method(model, pairs, NAPIGConfig(steps=1))
    np.testing.assert_array_equal(one_step.heads_per_pair, whole.heads_per_pair)
    np.testing.assert_array_equal(one_step.mlps_per_pair, whole.mlps_per_pair)
    assert one_step.cost.forwards == whole.cost.forwards


@pytest.mark.parametrize("family", FAMILIES)
def test_the_input_path_is_a_mean_of_slopes_at_its_points(family, tiny_model):
    model, pairs, steps, step = tiny_model(family), random_pairs(60, n=2), 3, 1e-2
    scores = nap_ig(model, pairs, NAPIGConfig(steps=steps))
    batch = run_batch(model, pairs, (0, 1))
    embedded = "blocks.0.hook_resid_pre"
    (clean,), (corrupt,) = (kept(model, side.tokens, embedded) for side in (batch.clean, batch.corrupt))
    for layer, head in ((0, 1), (1, 2)):
        change = batch.clean.z[layer] - batch.corrupt.z[layer]
        change[:, :, [h for h in range(model.cfg.n_heads) if h != head]] = 0
        slopes = []
        for k in range(1, steps + 1):
            start = {embedded: lambda _, point=corrupt + k / steps * (clean - corrupt): point}
            high, low = (
                metric_of(model, batch, pairs, start | {f"blocks.{layer}.attn.hook_z": lambda z, d=d: z + d})
                for d in (step * change, -step * change)
            )
            slopes.append((high - low) / (2 * step))
        effects, scale = scores.heads_per_pair[:, layer, head], abs(scores.heads).max()
        np.testing.assert_allclose(effects, np.mean(slopes, 0), rtol=0.03, atol=0.01 * scale)


@pytest.mark.parametrize("family", ["llama", "gpt2", "pythia", "gemma2"])
def test_heads_of_a_layer_add_up_to_the_effect_of_all_of_them(family, tiny_model):
    """And an MLP's score is its exact effect: completeness of the path through the layer's own activations."""
    model, pairs = tiny_model(family), random_pairs(60, n=3)
    few, many = (nap_ig_activations(model, pairs, NAPIGConfig(steps=m)) for m in (4, 32))
    batch = run_batch(model, pairs, (0, 1, 2))
    clean = metric_of(model, batch, pairs, {})
    hooks = [{f"blocks.{k}.attn.hook_z": lambda _, z=z: z} for k, z in enumerate(batch.corrupt.z)]
    exact = np.stack([clean - metric_of(model, batch, pairs, hook) for hook in hooks], axis=1)
    scale = abs(exact).max()
    errors = [abs(s.heads_per_pair.sum(2) - exact).max() / scale for s in (few, many)]
    assert errors[1] < 0.06
    assert errors[1] < 0.3 * errors[0]
    mlps = patching(model, pairs).mlps_per_pair
    np.testing.assert_allclose(many.mlps_per_pair, mlps, atol=0.06 * abs(mlps).max())


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "planted-inhibition"])
def test_edges_out_of_the_input_add_up_to_the_gap(name, tiny_model):
    model, pairs = planted(name, 3) if "planted" in name else (tiny_model(name), random_pairs(60, n=3))
    errors = []
    for steps in (3, 24):
        context = Context(model, pairs)
        edges = edge_scores(context, lambda run, m=steps: input_path(run, m))
        gap = context.metric[0] - context.metric[1]
        errors.append(abs(edges.out[:, 0] - gap).max() / abs(gap).max())
    assert errors[1] < 0.2
    assert errors[1] < 0.4 * errors[0]


@pytest.mark.parametrize("method", [eap_ig, eap_ig_activations])
def test_one_step_is_edge_attribution_patching(method, tiny_model):
    model, pairs = tiny_model("llama"), random_pairs(60, n=2)
    whole, one_step = eap(model, pairs, EAPConfig()), method(model, pairs, EAPIGConfig(steps=1))
    np.testing.assert_array_equal(one_step.heads, whole.heads)
    assert one_step.edges == whole.edges
    assert one_step.cost.forwards == whole.cost.forwards


@pytest.mark.parametrize("name", ["planted-induction", "planted-inhibition"])
@pytest.mark.parametrize(
    "method", [nap_ig, nap_ig_activations, eap_ig, eap_ig_activations, relp, gim, eap_relp, eap_gim]
)
def test_written_heads_come_first_and_those_that_act_through_others_do_not_vanish(name, method):
    (model, pairs), truth = planted(name, 8), planted_truth(name)
    scores = method(model, pairs)
    assert_written_heads_first(scores, name)
    gap = (scores.metric_clean - scores.metric_corrupt).mean()
    if method not in (relp, gim, eap_relp, eap_gim):
        assert all(abs(scores.heads[at(site)]) > 0.1 * gap for site in set(truth.heads) - set(truth.outputs))


def test_the_activation_path_sees_through_saturated_attention():
    """The previous-token head has an effect of 1.00 of the gap, of which the gradient at the clean prompt sees .11."""
    model, pairs = planted("planted-induction", 16)
    estimated = (
        attribution(model, pairs),
        nap_ig_activations(model, pairs, NAPIGConfig(steps=20)),
        patching(model, pairs),
    )
    at_clean, on_path, exact = (scores.heads[0, 3] for scores in estimated)
    assert at_clean < 0.2 * exact
    assert on_path == pytest.approx(exact, rel=0.1)
