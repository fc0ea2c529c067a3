"""Choosing a circuit: planted heads are found, decoys are not, thin evidence is refused."""

import numpy as np
import pytest

from interp.activations.stream import BATCH_SIZE, feed
from interp.circuits.verify import LEVEL, LOOK, candidates, decide_members, is_settled, verify
from interp.errors import InputError
from interp.interventions.clean_run import CleanRun, PatchingEffects
from interp.interventions.effects import activation_patching
from interp.models import Site
from interp.planted.models import planted_truth
from interp.scores.attribution import attribution
from interp.scores.result import Scores
from interp.stats import mean_interval
from tests.oracles import planted
from tests.pairs import random_pairs


def test_candidates_are_the_largest_by_absolute_score_and_mlps_only_join_when_asked():
    scores = Scores(np.array([[0.1, -3.0], [2.0, 0.0]]), mlps=np.array([-2.5, 0.0]))
    assert [str(s) for s in candidates(scores, 2)] == ["a0.h1", "a1.h0"]
    assert [str(s) for s in candidates(scores, 3, mlps=True)] == ["a0.h1", "m0", "a1.h0"]
    with pytest.raises(InputError, match="-1 candidates"):
        candidates(scores, -1)


@pytest.mark.parametrize("name", ["planted-induction", "planted-inhibition"])
def test_the_planted_circuit_is_recovered_exactly(name):
    model, pairs = planted(name, 16)
    clean = CleanRun(model, pairs)
    checked = verify(attribution(model, pairs, consumers=[clean]), clean, n_candidates=12)
    assert {str(site) for site in checked.members} == set(planted_truth(name).heads)
    sizes = np.abs(checked.effects(checked.members)[:LOOK].mean(0))
    assert (np.diff(sizes) <= 1e-6).all() and sizes[-1] > 0, "the largest first, each with its own effects"
    few = pairs.subset(range(3))
    with pytest.raises(InputError, match="3 pairs are too few"):
        verify(attribution(model, few), CleanRun.of(model, few))


def test_a_small_or_uncertain_effect_is_no_member():
    generator = np.random.default_rng(0)
    n = 40
    effects = np.stack(
        [
            0.5 + 0.1 * generator.standard_normal(n),  # clear
            -0.5 + 0.1 * generator.standard_normal(n),  # clear and negative
            0.01 + 0.001 * generator.standard_normal(n),  # certain, below 2 % of the gap
            0.3 + 3.0 * generator.standard_normal(n),  # large, but the interval holds 0
        ],
        axis=1,
    )
    sites = tuple(Site("attn", 0, h) for h in range(4))
    checked = decide_members(PatchingEffects(sites, effects, np.full(n, 2.0), np.full(n, 0.0), 0.0, 0.0))
    assert checked.member.tolist() == [True, True, False, False]
    assert checked.effect[1] < 0


def test_settled_candidates_are_where_all_pairs_put_them():
    """Effects about the threshold, 400 of each: at most the stated share is settled on the wrong side at any look."""
    n, limit, generator = 100, 1.0, np.random.default_rng(0)
    means = np.repeat(np.linspace(0, 3, 13), 400)
    effects = means + generator.standard_normal((n, len(means)))
    above = abs(effects.mean(0)) > limit
    open_, wrong = np.ones(len(means), dtype=bool), np.zeros(len(means), dtype=bool)
    for look in range(LOOK, n + 1, LOOK):
        settled = open_ & is_settled(effects[:look], n, limit, LEVEL / 4)
        wrong |= settled & ((abs(effects[:look].mean(0)) > limit) != above)
        open_ &= ~settled
        if look == LOOK:
            assert settled[means == 0].mean() > 0.9 and settled[means == 3].mean() > 0.9
            assert settled[means == 1].mean() < 0.2
    assert not open_.any()
    assert wrong.mean() < 0.02 and wrong[means == 1].mean() < LEVEL / 2


def test_a_check_patches_settled_candidates_no_more_and_known_patches_never_again():
    model, pairs = planted("planted-induction", 60)
    sites = [Site("attn", layer, head) for layer in range(3) for head in range(4)]
    exact = activation_patching(model, pairs, sites).effects
    every = Scores(np.ones((3, 4)))
    checked = verify(every, CleanRun.of(model, pairs, batch_size=BATCH_SIZE))
    known = np.isfinite(checked.measured.effects)
    assert known[:LOOK].all() and not known[LOOK:].any(), "planted effects are clear from the first look"
    assert np.allclose(checked.measured.effects[known], exact[known], atol=1e-4)
    runner = CleanRun.of_first(model, pairs)
    feed(model, pairs, [runner])
    layers, heads = (np.tile([getattr(site, end) for site in sites], LOOK) for end in ("layer", "head"))
    runner.effects(np.repeat(np.arange(LOOK), len(sites)), layers, heads)
    runner.metric = None  # another patch would fail
    again = verify(every, runner)
    assert np.array_equal(again.effect, checked.effect) and again.member.sum() == 2


def test_pairs_beyond_those_that_are_kept_are_checked_as_well(tiny_model):
    model, pairs = tiny_model("llama"), random_pairs(60, n=60, lengths=(8, 10))
    scores = Scores(np.array([[0, 3, 0, 0], [2.0, 0, 0, 0]]), mlps=np.array([0, 1.0]))
    exact = activation_patching(model, pairs, candidates(scores, 3, mlps=True))
    runner = CleanRun(model, pairs, range(40), mlps=True)
    feed(model, pairs, [runner])
    runner.metric_[1] = runner.metric_[0] - 5  # random weights do no task
    checked = verify(scores, runner, n_candidates=3, mlps=True, threshold=1e-9)
    known = np.isfinite(checked.measured.effects)
    assert known[:LOOK].all()
    assert np.allclose(checked.measured.effects[known], exact.effects[known], atol=1e-4)
    assert known[50:].any() and np.abs(exact.effects).max() > 1e-3


@pytest.mark.parametrize(("level", "reason"), [(0.0, "does not do this task"), (-1.0, "exchanged")])
def test_a_model_that_does_not_do_the_task_has_no_circuit(level, reason):
    clean, corrupt = np.random.default_rng(0).standard_normal((2, 30)) + 10 * np.array([[level], [-level]])
    with pytest.raises(InputError, match=reason):
        decide_members(PatchingEffects((Site("attn", 0, 0),), np.zeros((30, 1)), clean, corrupt, 0.0, 0.0))


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    low, high = mean_interval(generator.standard_normal((50, 400)), 0)
    covered = ((low <= 0) & (high >= 0)).mean()
    assert 0.90 < covered < 0.97
