"""CPR and CMD against a literal transcription; Wang et al.'s three criteria on circuits whose answer is known."""

import json

import numpy as np
import pytest
from scipy.integrate import trapezoid

from interp.errors import InputError
from interp.evaluation.faithfulness import GRID, completeness, faithfulness, faithfulness_curves, minimality
from interp.interventions.ablation import Ablator, all_or_none
from tests.oracles import mask, planted, written
from tests.pairs import random_pairs


@pytest.fixture(scope="module")
def backup():
    return _planted("planted-backup")


def _planted(name: str):
    model, pairs = planted(name, 12, seed=5)
    return Ablator(model, pairs), written(name)


def _transcribed_areas(model, pairs, scores):
    """MIB's ``evaluate_area_under_curve``, one circuit at a time, with heads in place of edges."""
    ablator = Ablator(model, pairs)

    def mean_metric(kept):
        circuit = np.zeros(scores.size, dtype=bool)
        circuit[kept] = True
        return ablator.metric(circuit.reshape(1, *scores.shape)).mean()

    baseline, corrupted = mean_metric(np.arange(scores.size)), mean_metric([])
    areas = {}
    for absolute in (False, True):
        key = np.abs(scores).ravel() if absolute else scores.ravel()
        order = sorted(range(scores.size), key=lambda i: -key[i])
        kept = [order[: int(fraction * scores.size)] for fraction in GRID]
        shares = np.array([(mean_metric(heads) - corrupted) / (baseline - corrupted) for heads in kept])
        areas[absolute] = trapezoid(shares, GRID), trapezoid(abs(1 - shares), GRID)
    return areas[False][0], areas[True][1]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_cpr_and_cmd_are_mibs(tiny_model, family):
    model = tiny_model(family)
    pairs = random_pairs(model.cfg.d_vocab, n=5)
    scores = np.random.default_rng(3).normal(size=(model.cfg.n_layers, model.cfg.n_heads))
    curves = faithfulness_curves(Ablator(model, pairs), scores)
    cpr, cmd = _transcribed_areas(model, pairs, scores)
    assert curves.cpr == pytest.approx(cpr, rel=1e-4) and curves.cmd == pytest.approx(cmd, rel=1e-4)
    assert curves.counts[:4] == (0, 0, 0, 0) and curves.counts[-1] == scores.size
    assert curves.f_signed[-1] == curves.f_absolute[-1] == 1.0 and curves.f_absolute[0] == 0.0
    json.dumps(curves.to_dict(), allow_nan=False)


def test_signed_order_leaves_heads_that_hurt_for_last_and_passes_one(backup):
    ablator, circuit = backup
    scores = np.where(circuit, 1.0, 0.0)
    scores[3, 2] = -2.0  # the negative name mover
    curves = faithfulness_curves(ablator, scores, sizes=(4, 5, 50))
    assert max(curves.f_signed) > 1.1
    assert curves.f_at[5] == pytest.approx(1.0, abs=0.02)
    assert curves.f_at[50] is None
    assert curves.cpr > 1 > curves.cmd


def test_faithfulness_of_the_written_circuit_and_of_one_without_its_first_head():
    ablator, circuit = _planted("planted-inhibition")
    whole = faithfulness(ablator, circuit)
    assert whole.share == pytest.approx(1.0, abs=0.02) and whole.gap < 0.02 * whole.metric_full
    broken = circuit.copy()
    broken[1, 2] = False  # S-inhibition
    part = faithfulness(ablator, broken)
    assert part.share < 0.7 and part.gap > 0.3 * part.metric_full


def test_a_circuit_without_its_backups_is_faithful_enough_but_not_complete(backup):
    """Taking the mover from both: the model falls back on its backups, the circuit has none."""
    ablator, circuit = backup
    without = circuit & ~mask(["a2.h1", "a2.h3"], ablator.model)
    assert faithfulness(ablator, without).share == pytest.approx(1.0, abs=0.05)
    full_gap = np.ptp(ablator.metric(all_or_none(circuit.shape)).mean(1))
    short, whole = completeness(ablator, without), completeness(ablator, circuit)
    assert short.worst > 0.3 * full_gap > 0.03 * full_gap > whole.worst
    # the mover, or the counter that it reads: without either the backups wake, which only the model has
    assert {"a1.h4", "a0.h2"} & set(short.worst_subset)
    alone = dict(short.subsets).get((), 0.0)
    assert alone < 0.03 * full_gap
    # the greedy subset is found by random ones as well in a circuit this small, and never beats an exhaustive search
    assert short.worst >= short.random_worst >= short.random_mean
    json.dumps(short.subsets)


def test_backups_are_minimal_only_once_the_mover_is_gone_and_decoys_never(backup):
    ablator, circuit = backup
    padded = circuit | mask(["a0.h0", "a3.h1"], ablator.model)  # two decoys
    curves = minimality(ablator, padded)
    by_site = {part.site: part for part in curves}
    full_gap = np.ptp(ablator.metric(all_or_none(circuit.shape)).mean(1))
    assert {part.site for part in curves[:2]} == {"a0.h0", "a3.h1"}
    assert all(part.contribution < 0.01 * full_gap for part in curves[:2])
    for site in ("a2.h1", "a2.h3"):
        assert by_site[site].contribution > 0.2 * full_gap
        assert {"a1.h4", "a0.h2"} & set(by_site[site].subset)
        head = mask([site], ablator.model)
        with_it, without_it = ablator.metric(np.stack([circuit, circuit & ~head])).mean(1)
        assert abs(with_it - without_it) < 0.03 * full_gap  # nothing, while the mover does the work
    assert by_site["a1.h4"].contribution > 0.5 * full_gap


def test_subsets_are_drawn_from_the_seed(backup):
    curves = [completeness(*backup, n_random=4, greedy_runs=0, seed=seed) for seed in (0, 0, 1)]
    assert curves[0] == curves[1] and curves[0].subsets != curves[2].subsets


def test_what_cannot_be_measured_is_said(backup):
    ablator, circuit = backup
    for criterion in (completeness, minimality):
        with pytest.raises(InputError, match="circuit is empty"):
            criterion(ablator, circuit & ~circuit)
