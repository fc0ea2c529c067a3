"""The posterior is right about heads whose true effects are known, and better than the estimate alone."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from interp.errors import InputError
from interp.scores.adaptive_patching.posterior import at_false_discovery_rate, membership, moderated_variance


def _population(seed: int, power: float, heads: int = 300):
    """True effects of which 10 % are large, times error^power; errors differ from head to head by a factor of 300."""
    generator = np.random.default_rng(seed)
    noise = 10 ** generator.uniform(-3, -0.5, heads)
    size = {0: 0.3, 1: 3.0, 1.5: 10.0}[power] * noise**power
    truth = np.where(generator.random(heads) < 0.1, size * generator.normal(size=heads), 0.0)
    return truth, noise, generator


def _judged(seed: int, power: float):
    """True effects, their estimates, and what is said of them."""
    truth, noise, generator = _population(seed, power)
    estimate = truth + noise * generator.normal(size=len(noise))
    return truth, estimate, membership(estimate, noise**2, gap=1.0, threshold=0.02)


@pytest.mark.parametrize("power", [0, 1, 1.5])
def test_probabilities_are_calibrated_and_a_circuit_holds_its_false_discovery_rate(power):
    """Of the heads given a probability near p, a share near p are members, whatever errors tell of effects."""
    stated, in_circuit, false, better = [], [], [], 0
    for seed in range(20):
        truth, estimate, posterior = _judged(seed, power)
        members = np.abs(truth) >= 0.02
        stated.append(posterior.probability)
        in_circuit.append(members)
        chosen = at_false_discovery_rate(posterior.probability, 0.1)
        false.append((~members[chosen]).mean() if chosen.any() else 0.0)
        better += roc_auc_score(members, posterior.expected) > roc_auc_score(members, np.abs(estimate))
    stated, in_circuit = np.concatenate(stated), np.concatenate(in_circuit)
    for low, high in ((0.0, 0.1), (0.1, 0.4), (0.4, 0.8), (0.95, 1.01)):
        bin_ = (stated >= low) & (stated < high)
        assert bin_.sum() > 30
        assert in_circuit[bin_].mean() == pytest.approx(stated[bin_].mean(), abs=0.1)
    assert np.mean(false) < 0.15
    assert better >= 18 or power > 1, "ranks better than the estimate alone"


def test_what_varies_a_lot_is_not_taken_for_one_of_the_many_that_do_nothing():
    """Two hundred heads of tiny effects and errors say nothing about the one that has a large effect and error."""
    generator = np.random.default_rng(0)
    many, few = np.full(200, 1e-3), np.full(20, 0.02)
    error = np.concatenate([many, few])
    estimate = np.concatenate([1e-3 * generator.normal(size=200), 0.06 * generator.normal(size=20)])
    estimate[-1] = 0.05
    posterior = membership(estimate, error**2, gap=1.0, threshold=0.02)
    assert posterior.probability[-1] > 0.5 and posterior.mean[-1] > 0.02


def test_expected_is_the_integral_it_says():
    """Against sampling, for one head under a posterior that a huge common width makes known."""
    estimate = np.concatenate([[0.05], np.random.default_rng(0).normal(0, 1.5, 400)])
    variance = np.concatenate([[0.03**2], np.full(400, 1e-6)])
    posterior = membership(estimate, variance, gap=1.0, threshold=0.04)
    # the prior is nearly flat around 0.05, so the posterior is nearly the likelihood
    draws = np.random.default_rng(1).normal(posterior.mean[0], 0.03, 200_000)
    size = np.abs(draws)
    assert posterior.probability[0] == pytest.approx((size >= 0.04).mean(), abs=0.1)
    assert posterior.expected[0] == pytest.approx((size * (size >= 0.04)).mean(), abs=0.01)


def test_the_rate_is_the_expected_share_of_non_members_and_shapes_are_kept():
    probability = np.array([[0.99, 0.5], [0.95, 0.9]])
    assert at_false_discovery_rate(probability, 0.06).tolist() == [[True, False], [True, True]]
    assert at_false_discovery_rate(probability, 0.02).tolist() == [[True, False], [False, False]]
    assert at_false_discovery_rate(probability, 0.001).sum() == 0
    for rate in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match=f"false-discovery rate {rate}"):
            at_false_discovery_rate(probability, rate)


def test_moderated_variance_shrinks_more_with_fewer_pairs():
    generator = np.random.default_rng(0)
    true = 10 ** generator.uniform(-0.2, 0.2, 200)
    errors = {}
    for pairs in (4, 64):
        sample = generator.normal(size=(pairs, 200)) * true
        plain, moderated = sample.var(axis=0, ddof=1), moderated_variance(sample)
        errors[pairs] = [np.abs(np.log(estimated / true**2)).mean() for estimated in (plain, moderated)]
    assert errors[4][1] < 0.6 * errors[4][0]
    assert errors[64][1] <= errors[64][0]


def test_bad_input():
    with pytest.raises(InputError, match="gap of 0"):
        membership(np.zeros(3), np.ones(3), gap=0.0, threshold=0.02)
    for estimate, message in (([], "0 effects, 0 of them NaN"), ([np.nan, 0.1], "2 effects, 1 of them NaN")):
        with pytest.raises(InputError, match=message):
            membership(np.array(estimate), np.ones(len(estimate)), gap=1.0, threshold=0.02)
    with pytest.raises(InputError, match="1 pairs"):
        moderated_variance(np.zeros((1, 3)))
