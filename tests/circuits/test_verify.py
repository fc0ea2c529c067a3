"""Choosing a circuit: planted heads are found, decoys are not, thin evidence is refused."""

import numpy as np
import pytest

from interp.circuits.verify import candidates, check, decide
from interp.errors import InputError
from interp.models import Site
from interp.planted.models import planted_truth
from interp.scores.attribution import attribution
from interp.scores.patching import PatchingEffects
from interp.scores.result import Scores
from interp.stats import mean_interval
from tests.oracles import planted


def test_candidates_are_the_largest_by_absolute_score_and_mlps_only_join_when_asked():
    scores = Scores(np.array([[0.1, -3.0], [2.0, 0.0]]), mlps=np.array([-2.5, 0.0]))
    assert [str(s) for s in candidates(scores, 2)] == ["a0.h1", "a1.h0"]
    assert [str(s) for s in candidates(scores, 3, mlps=True)] == ["a0.h1", "m0", "a1.h0"]
    with pytest.raises(InputError, match="-1 candidates"):
        candidates(scores, -1)


@pytest.mark.parametrize("name", ["planted-induction", "planted-inhibition"])
def test_the_planted_circuit_is_recovered_exactly(name):
    model, pairs = planted(name, 16)
    checked = check(model, pairs, candidates(attribution(model, pairs), 12))
    members = {str(site) for site, inside in zip(checked.sites, checked.member, strict=True) if inside}
    assert members == set(planted_truth(name).heads)
    with pytest.raises(InputError, match="3 pairs are too few"):
        check(model, pairs.subset(range(3)), [Site("attn", 0, 0)])


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
    checked = decide(PatchingEffects(sites, effects, np.full(n, 2.0), np.full(n, 0.0), 0.0, 0.0))
    assert checked.member.tolist() == [True, True, False, False]
    assert checked.effect[1] < 0


@pytest.mark.parametrize(("level", "why"), [(0.0, "does not do this task"), (-1.0, "exchanged")])
def test_a_model_that_does_not_do_the_task_has_no_circuit(level, why):
    clean, corrupt = np.random.default_rng(0).standard_normal((2, 30)) + 10 * np.array([[level], [-level]])
    with pytest.raises(InputError, match=why):
        decide(PatchingEffects((Site("attn", 0, 0),), np.zeros((30, 1)), clean, corrupt, 0.0, 0.0))


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    low, high = mean_interval(generator.standard_normal((50, 400)), 0)
    covered = ((low <= 0) & (high >= 0)).mean()
    assert 0.90 < covered < 0.97
