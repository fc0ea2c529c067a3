"""The finder recovers planted circuits, redundancies included, says why, and keeps its budget."""

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from interp.activations.metric import task_metric
from interp.activations.stream import MetricConsumer, end_logits, feed
from interp.errors import InputError
from interp.models import Site, load_model
from interp.planted.models import planted_truth
from interp.planted.tasks import planted_task_names
from interp.scores.adaptive_patching.method import (
    AdaptivePatchingBase,
    AdaptivePatchingConfig,
    adaptive_patching,
    expected_of_mlps,
)
from interp.scores.adaptive_patching.partial_ablation import PartialGradients
from interp.scores.adaptive_patching.role_codes import RoleCodes, RoleOutputs
from interp.scores.attribution import attribution
from interp.scores.method import Context
from interp.scores.patch_runner import PatchRunner
from interp.scores.patching import patching
from interp.tasks import load_task
from tests.pairs import random_pairs
from tests.tiny_models import FAMILIES


def _planted(name: str, n: int, seed: int = 0):
    model = load_model(name)
    return model, load_task(name).sample(model.tokenizer, n, seed)


def _written(name: str, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    for site in planted_truth(name).heads:
        layer, head = site[1:].split(".h")
        mask[int(layer), int(head)] = True
    return mask


@pytest.mark.parametrize(
    "name", [name for name in planted_task_names() if not planted_truth(name).distractors]
)
def test_planted_heads_outrank_all_decoys(name):
    """An OR-gate included, whose arms have no effect and no gradient of their own."""
    model, pairs = _planted(name, 24)
    found = adaptive_patching(model, pairs)
    written = _written(name, found.heads.shape)
    assert np.abs(found.heads)[written].min() > np.abs(found.heads)[~written].max()


def test_a_method_that_tells_no_probabilities_has_no_circuit_of_its_own():
    model, pairs = _planted("planted-induction", 8)
    with pytest.raises(InputError, match="method attribution: it tells no probability"):
        attribution(model, pairs).circuit(0.1)
    found = adaptive_patching(model, pairs)
    assert (found.circuit(0.1) == _written("planted-induction", found.heads.shape)).all()


def test_gradients_alone_miss_the_or_gate():
    model, pairs = _planted("planted-or", 24)
    written = _written("planted-or", (model.cfg.n_layers, model.cfg.n_heads))
    scores = np.abs(attribution(model, pairs).heads)
    assert scores[written].min() < scores[~written].max()


def test_patches_are_exact_interchange():
    model, pairs = _planted("planted-backup", 6)
    exact = patching(model, pairs)
    runner = PatchRunner(model, pairs, range(6))
    feed(model, pairs, [runner])
    pair, layer, head = (index.ravel() for index in np.indices(exact.heads_per_pair.shape))
    effects, cost = runner.effects(pair, layer, head)
    assert np.allclose(effects.reshape(exact.heads_per_pair.shape), exact.heads_per_pair, atol=1e-4)
    assert cost > 0
    own = [runner.clean(*which) for which in zip(pair.tolist(), layer.tolist(), head.tolist(), strict=True)]
    nothing, _ = runner.effects(pair, layer, head, own)
    assert np.abs(nothing).max() < 1e-4, "a head given its own output changes nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_patches_start_at_the_first_difference(family, tiny_model):
    """Where the prefix is cached, effects equal those of activation_patching, whatever rows are asked for."""
    model, pairs = tiny_model(family), random_pairs(60, n=4, lengths=(10, 12))
    for i, pair in enumerate(pairs):
        shared = pair.clean_tokens[:6]
        corrupt = (*shared, *((token + 1) % 60 for token in pair.clean_tokens[6:]))
        pairs[i] = replace(pair, corrupt_tokens=corrupt)
    runner = PatchRunner(model, pairs, range(len(pairs)))
    feed(model, pairs, [runner])
    exact = patching(model, pairs).heads_per_pair
    pair, layer, head = (index.ravel() for index in np.indices(exact.shape))
    shuffled = np.random.default_rng(0).permutation(len(pair))
    found, _ = runner.effects(pair[shuffled], layer[shuffled], head[shuffled])
    assert np.allclose(found, exact.ravel()[shuffled], atol=1e-4)
    assert any(run.share < 1 for run in runner.runs)


def test_with_all_heads_wholly_on_the_partial_gradient_is_attribution():
    model, pairs = _planted("planted-inhibition", 5)
    runner = PatchRunner(model, pairs, range(5))
    feed(model, pairs, [runner])
    values, _ = PartialGradients(model, runner).of(range(5), share=1.0)
    assert np.allclose(values, attribution(model, pairs).heads_per_pair, atol=1e-3)


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("family", [*FAMILIES, "planted-or"])
def test_partial_gradients_add_up_to_the_metrics_derivative(family, share, tiny_model):
    """The sum over heads against a central difference of the metric in the share that stays on."""
    if family == "planted-or":
        model, pairs = _planted(family, 3)
    else:
        model, pairs = tiny_model(family), random_pairs(60, n=3, lengths=(9,))
    runner = PatchRunner(model, pairs, range(3))
    feed(model, pairs, [runner])
    values = PartialGradients(model, runner).of(range(3), share)[0].sum((1, 2))
    (run,) = runner.runs

    def metric(share: float) -> np.ndarray:
        def mix(layer: int):
            off = run.corrupt_z[layer]
            begin = clean.shape[1] - off.shape[1]
            return lambda z: torch.cat([z[:, :begin], torch.lerp(off, z[:, begin:], share)], 1)

        clean = torch.tensor([pair.clean_tokens for pair in run.pairs])
        hooks = {f"blocks.{layer}.attn.hook_z": mix(layer) for layer in range(model.cfg.n_layers)}
        with torch.no_grad():
            return task_metric(end_logits(model, clean, hooks), run.pairs, pairs.metric).double().numpy()

    step = 5e-3
    slope = (metric(share + step) - metric(share - step)) / (2 * step)
    in_order = np.empty(3)
    in_order[list(run.indices)] = slope
    assert np.allclose(values, in_order, rtol=0.02, atol=5e-3 * np.abs(slope).max() + 1e-4)


def test_arms_of_a_gate_have_a_value_with_others_half_off_and_decoys_have_none():
    model, pairs = _planted("planted-or", 8)
    truth, runner, metrics = (
        planted_truth("planted-or"),
        PatchRunner(model, pairs, range(8)),
        MetricConsumer(8),
    )
    feed(model, pairs, [runner, metrics])
    values = PartialGradients(model, runner).of(range(8), 0.5)[0].mean(0)
    sizes = {str(Site("attn", *head)): abs(values[head]) for head in np.ndindex(values.shape)}
    gap = (metrics.metric_[0] - metrics.metric_[1]).mean()
    assert min(sizes[site] for site in truth.heads) > 0.01 * gap
    assert max(size for site, size in sizes.items() if site not in truth.heads) < 1e-3 * gap


def test_budget_is_kept_and_more_of_it_patches_more():
    model, pairs = _planted("planted-backup", 10)
    for budget in (0.0, 2.0, 4.0):
        found = adaptive_patching(model, pairs, AdaptivePatchingConfig(budget=budget))
        assert found.cost.forwards <= (4 + budget) * len(pairs) + 1e-9


def test_of_few_pairs_runs_with_others_off_leave_patches_for_what_a_gradient_gets_wrong(monkeypatch):
    """Two decoys of planted-gates have an attribution of 4 and 5 % of the gap and hardly an effect."""
    model, pairs = _planted("planted-gates", 50)
    written = _written("planted-gates", (model.cfg.n_layers, model.cfg.n_heads)).ravel()
    base = AdaptivePatchingBase(Context(model, pairs), kept=range(50))

    def found() -> tuple[int, float]:
        tens = [base.rank(range(start, start + 10), AdaptivePatchingConfig()) for start in range(0, 50, 10)]
        precision = [average_precision_score(written, np.abs(ranking.heads).ravel()) for ranking in tens]
        return sum(ranking.estimates.patched.sum() for ranking in tens), np.mean(precision)

    patches, precision = found()
    monkeypatch.setattr(sys.modules[AdaptivePatchingBase.__module__], "PARTIAL_SHARE", 1.0)
    fewer, lower = found()
    assert patches > 2 * fewer
    assert precision > lower + 0.05


@pytest.mark.parametrize("n", [2, 3])
def test_arms_of_a_gate_are_found_from_two_pairs(n):
    model, pairs = _planted("planted-or", n)
    found = adaptive_patching(model, pairs)
    written = _written("planted-or", found.heads.shape)
    assert np.abs(found.heads)[written].min() > np.abs(found.heads)[~written].max()


def test_same_seed_same_scores():
    model, pairs = _planted("planted-inhibition", 8)
    first, second = (adaptive_patching(model, pairs, AdaptivePatchingConfig(seed=3)) for _ in range(2))
    assert np.array_equal(first.heads, second.heads)


def test_evidence_of_members():
    model, pairs = _planted("planted-inhibition", 16)
    found = adaptive_patching(model, pairs)
    assert set(planted_truth("planted-inhibition").heads) <= set(found.evidence)
    mover = found.evidence["a2.h0"]
    assert mover.probability > 0.99
    assert mover.p_value < 0.01
    assert mover.changes
    assert mover.changes[0].role == "END"
    assert mover.set_codes == pytest.approx(mover.whole, rel=0.2), "its codes carry the head's effect"


def test_code_attribution_adds_up_when_every_vector_has_its_own_code():
    """With as many codes as vectors the books are exact, and codes' attribution is the roles' share of attribution."""
    model, pairs = _planted("planted-inhibition", 4)
    outputs = RoleOutputs(pairs)
    feed(model, pairs, [outputs])
    read = RoleCodes(outputs, 10_000, 0)
    direct = ((outputs.z_[0] - outputs.z_[1]) * outputs.gradient_).sum(-1)
    assert np.allclose(read.attribution, direct, atol=0.02)
    assert torch.allclose(read.vectors, outputs.z_, atol=1e-3)


def test_pairs_of_which_some_name_no_roles_are_read_at_their_last_position():
    model, pairs = _planted("planted-induction", 8)
    found = []
    for nameless in (1, len(pairs)):
        some = copy.copy(pairs)
        some[:nameless] = [replace(pair, positions={}) for pair in pairs[:nameless]]
        found.append(adaptive_patching(model, some).heads)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"threshold": 0.0}, "threshold 0"), ({"budget": -1.0}, "budget -1"), ({"n_codes": 0}, "n_codes 0")],
)
def test_bad_config(options, message):
    with pytest.raises(InputError, match=message):
        AdaptivePatchingConfig(**options)


def test_one_pair_is_too_few():
    model, pairs = _planted("planted-inhibition", 1)
    with pytest.raises(InputError, match="at least 2"):
        adaptive_patching(model, pairs)


def test_mlps_are_ranked_by_the_size_that_is_expected_above_the_threshold_as_heads_are():
    draws = np.random.default_rng(0).normal(size=(40, 6))
    attribution = 0.01 * draws + np.array([-1.0, 0.5, 0.019, 0.0, 0.0, 0.0])
    found = expected_of_mlps(attribution, 0.02)
    assert found[:2] == pytest.approx([-1.0, 0.5], rel=0.05)
    assert 0 < found[2] < 0.015 and (np.abs(found[3:]) < 1e-4).all()


def test_mlps_have_the_sign_of_their_attribution(tiny_model):
    found = adaptive_patching(tiny_model("llama"), random_pairs(60, n=6))
    assert (np.sign(found.mlps) == np.sign(found.mlps_per_pair.mean(0))).all()
