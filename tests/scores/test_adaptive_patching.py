"""The finder recovers planted circuits, redundancies included, says why, and keeps its budget."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.activations.metric import task_metric
from interp.activations.stream import end_logits, feed
from interp.bottlenecks.kinds.codebook import Codebook, CodebookConfig
from interp.errors import InputError
from interp.interventions.clean_run import CleanRun
from interp.models import has_mlps
from interp.planted.models import planted_truth
from interp.planted.tasks import planted_task_names
from interp.scores.adaptive_patching.method import AdaptivePatchingConfig, adaptive_patching, expected_of_mlps
from interp.scores.adaptive_patching.partial_ablation import PartialGradients
from interp.scores.adaptive_patching.role_codes import RoleCodes, RoleOutputs
from interp.scores.attribution import AttributionConsumer, attribution
from tests.oracles import planted, written
from tests.pairs import random_pairs
from tests.tiny_models import FAMILIES


def _runner(model, pairs) -> CleanRun:
    runner = CleanRun(model, pairs, range(len(pairs)), mlps=has_mlps(model))
    feed(model, pairs, [runner])
    return runner


def _margin(heads: np.ndarray, name: str) -> float:
    """By how much the least of the written heads is above the largest decoy."""
    sizes, true = np.abs(heads), written(name)
    return sizes[true].min() - sizes[~true].max()


QUIET = [name for name in planted_task_names() if not planted_truth(name).distractors]


@pytest.mark.parametrize(("name", "n"), [*((name, 24) for name in QUIET), ("planted-or", 2), ("planted-or", 3)])
def test_planted_heads_outrank_all_decoys(name, n):
    """An OR-gate included, whose arms have no effect and no gradient of their own: from two pairs."""
    assert _margin(adaptive_patching(*planted(name, n)).heads, name) > 0


def test_a_method_that_tells_no_probabilities_has_no_circuit_of_its_own():
    model, pairs = planted("planted-induction", 8)
    with pytest.raises(InputError, match="method attribution: it tells no probability"):
        attribution(model, pairs).circuit(0.1)
    assert (adaptive_patching(model, pairs).circuit(0.1) == written("planted-induction")).all()


def test_with_all_heads_wholly_on_the_partial_gradient_is_attribution():
    model, pairs = planted("planted-inhibition", 5)
    values, _ = PartialGradients(_runner(model, pairs)).of(range(5), share=1.0)
    assert np.allclose(values, attribution(model, pairs).heads_per_pair, atol=1e-3)


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("family", [*FAMILIES, "planted-or"])
def test_partial_gradients_add_up_to_the_metrics_derivative(family, share, tiny_model):
    """The sum over heads against a central difference of the metric in the share that stays on."""
    known = family == "planted-or"
    model, pairs = planted(family, 3) if known else (tiny_model(family), random_pairs(60, n=3, lengths=(9,)))
    runner = _runner(model, pairs)
    values = PartialGradients(runner).of(range(3), share)[0].sum((1, 2))
    clean = torch.tensor([pair.clean_tokens for pair in pairs])
    begin = min(pair.first_difference for pair in pairs)

    def metric(share: float) -> np.ndarray:
        def mix(off):
            return lambda z: torch.cat([z[:, :begin], torch.lerp(off, z, share)[:, begin:]], 1)

        hooks = {f"blocks.{i}.attn.hook_z": mix(runner.corrupt_z[i]) for i in range(model.cfg.n_layers)}
        with torch.no_grad():
            return task_metric(end_logits(model, clean, hooks), pairs, pairs.metric).double().numpy()

    step = 5e-3
    slope = (metric(share + step) - metric(share - step)) / (2 * step)
    assert np.allclose(values, slope, rtol=0.02, atol=5e-3 * np.abs(slope).max() + 1e-4)


def test_budget_is_kept_and_a_seed_gives_one_result():
    model, pairs = planted("planted-backup", 10)
    for budget in (0.0, 2.0, 4.0):
        config = AdaptivePatchingConfig(budget=budget, seed=3)
        scores = adaptive_patching(model, pairs, config)
        assert scores.cost.forwards <= (4 + budget) * len(pairs) + 1e-9
    assert np.array_equal(adaptive_patching(model, pairs, config).heads, scores.heads)


def test_evidence_of_members():
    scores = adaptive_patching(*planted("planted-inhibition", 16))
    assert set(planted_truth("planted-inhibition").heads) <= set(scores.evidence)
    mover = scores.evidence["a2.h0"]
    assert mover.probability > 0.99 and mover.p_value < 0.01


def test_code_attribution_adds_up_when_every_vector_has_its_own_code():
    """With as many codes as vectors the books are exact, and codes' attribution is the roles' share of attribution."""
    model, pairs = planted("planted-inhibition", 4)
    outputs, scorer = RoleOutputs(pairs), AttributionConsumer(len(pairs))
    feed(model, pairs, [outputs, scorer])
    direct = ((outputs.z_[0] - outputs.z_[1]) * outputs.gradient_).sum(-1)
    heads = list(np.ndindex(*direct.shape[2:]))
    vectors = {f"a{layer}.h{head}": outputs.z_[..., layer, head, :].flatten(0, 2) for layer, head in heads}
    size = 2 * len(pairs) * len(outputs.roles_)
    config = CodebookConfig(outputs.z_.shape[-1], size, selection="matching_pursuit")
    books = {site: Codebook(config).fit(z) for site, z in vectors.items()}
    books[f"a0.h0 @ {outputs.roles_[0]}"] = books.pop("a0.h0")
    read = RoleCodes(outputs, books)
    assert (read.of(0, 0)[:, :, 1:] == -1).all() and (read.of(0, 0)[:, :, 0] >= 0).all()
    assert (read.vectors(0, 0)[:, :, 1:] == 0).all()
    clean, _ = read.usage(0, 1)
    assert clean[0][1] == max(share for _, share in clean) and sum(share for _, share in clean) == pytest.approx(1)
    ids = read.of(0, 1)[0]
    assert all((ids == code).mean() == pytest.approx(share) for code, share in clean)
    assert np.abs(direct.numpy()).max() > 0.1
    for layer, head in heads[1:]:
        assert np.allclose(read.attribution(layer, head), direct[:, :, layer, head], atol=0.02)
        assert torch.allclose(read.vectors(layer, head), outputs.z_[..., layer, head, :], atol=1e-3)


def test_pairs_of_which_some_name_no_roles_are_read_at_their_last_position():
    model, pairs = planted("planted-induction", 8)
    results = []
    for nameless in (1, len(pairs)):
        mixed = copy.copy(pairs)
        mixed[:nameless] = [replace(pair, positions={}) for pair in pairs[:nameless]]
        results.append(adaptive_patching(model, mixed).heads)
    np.testing.assert_array_equal(*results)


def test_mlps_are_ranked_by_the_size_that_is_expected_above_the_threshold_as_heads_are(tiny_model):
    draws = np.random.default_rng(0).normal(size=(40, 6))
    sizes = expected_of_mlps(0.01 * draws + np.array([-1.0, 0.5, 0.019, 0.0, 0.0, 0.0]), 0.02)
    assert sizes[:2] == pytest.approx([-1.0, 0.5], rel=0.05)
    assert 0 < sizes[2] < 0.015 and (np.abs(sizes[3:]) < 1e-4).all()
    scores = adaptive_patching(tiny_model("llama"), random_pairs(60, n=6))
    assert (np.sign(scores.mlps) == np.sign(scores.mlps_per_pair.mean(0))).all()
