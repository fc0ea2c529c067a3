"""PatchRunner are spent where they tell most, and correct what attribution gets wrong."""

import numpy as np
import pytest

from interp.scores.adaptive_patching.posterior import EffectEstimates

N, HEADS = 20, 40


def _case(seed: int = 0):
    """Exact effects, and attribution with a bias in a few heads; the first 6 heads are members."""
    generator = np.random.default_rng(seed)
    exact = generator.normal(0, 0.02, (N, HEADS))
    exact[:, :6] += np.array([2.0, -1.0, 0.5, 0.3, 0.2, 0.1])
    attribution = exact + generator.normal(0, 0.005, exact.shape)
    attribution[:, 3] -= 0.25  # a member that the gradient hardly sees
    return exact, attribution


def _estimates(attribution, rms=3.0, allowed=None) -> EffectEstimates:
    return EffectEstimates(attribution, rms, 0.02, np.arange(len(attribution)) if allowed is None else allowed)


def test_all_patched_is_the_exact_mean():
    exact, attribution = _case()
    estimates = _estimates(attribution)
    pairs, heads = (index.ravel() for index in np.indices((N, HEADS)))
    estimates.exact[pairs, heads] = exact[pairs, heads]
    estimate, variance = estimates.estimate()
    assert np.allclose(estimate, exact.mean(axis=0))
    # moderated: a head's own variance is out by up to 90 %
    assert np.allclose(variance, 0.02**2 / N, rtol=0.35)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize(("pairs", "patched"), [(10, 3), (10, 9), (10, 10), (25, 12)])
def test_intervals_hold_the_true_mean_where_attribution_is_of_another_size(scale, pairs, patched):
    """Taken for attribution's, the variance of effects would give errors up to three times too small at .3."""
    generator = np.random.default_rng(0)
    means = generator.normal(size=2000)
    exact = means + generator.normal(size=(pairs, 2000))
    attribution = scale * (0.8 * exact + 0.6 * (means + generator.normal(size=exact.shape)))
    estimates = _estimates(attribution)
    for head in range(2000):
        rows = generator.permutation(pairs)[:patched]
        estimates.exact[rows, head] = exact[rows, head]
    estimate, variance = estimates.estimate()
    held = (np.abs(estimate - means) < 1.96 * np.sqrt(variance)).mean()
    # attribution that is too large leaves them too wide: a slope of 1 is believed until patches say otherwise
    assert 0.85 < held < (0.98 if scale <= 1 else 1)


def test_a_head_is_not_believed_before_it_was_patched():
    """Where attribution was right of nineteen large heads it is sure of the twentieth; that one is looked at next."""
    attribution = np.random.default_rng(0).normal(0, 0.02, (N, HEADS))
    attribution[:, :20] += np.linspace(1.0, 3.0, 20)
    estimates = _estimates(attribution)
    for head in range(19):
        estimates.exact[:6, head] = attribution[:6, head]
    assert estimates.membership().probability[19] > 0.9999
    _, heads = estimates.next_patches(np.ones(HEADS), 3.0, 3)
    assert heads.tolist() == [19, 19, 19]


def test_no_head_is_patched_twice_on_a_pair_only_allowed_pairs_are_and_budget_is_kept():
    exact, attribution = _case()
    allowed, seen = np.arange(5, 15), set()
    estimates = _estimates(attribution, allowed=allowed)
    for _ in range(50):
        pairs, heads = estimates.next_patches(np.ones(HEADS), 40.0, 3)
        for key in zip(pairs.tolist(), heads.tolist(), strict=True):
            assert key not in seen and key[0] in allowed
            seen.add(key)
        estimates.exact[pairs, heads] = exact[pairs, heads]
    assert 0 < estimates.patched.max() <= len(allowed)
    cost, estimates = np.linspace(0.1, 1.0, HEADS), _estimates(attribution)
    _, heads = estimates.next_patches(cost, 2.5, 2)
    assert 0 < cost[heads].sum() <= 2.5
    assert len(estimates.next_patches(cost, 0.01, 2)[0]) == 0


def test_p_values_against_the_closed_form():
    """Four pairs with one effect: 2 of the 16 sign patterns are as large."""
    estimates = _estimates(np.ones((4, 1)), 1.0)
    assert estimates.p_values(0, flips=20_000)[0] == pytest.approx(2 / 16, abs=0.01)


@pytest.mark.parametrize("patched", [0, 1, 3, 12])
def test_without_an_effect_p_values_are_no_smaller_than_chance(patched):
    """Heads without any effect, whose patches say something else than attribution: however few the patches are."""
    generator = np.random.default_rng(0)
    pairs, heads = 12, 2000
    attribution = generator.normal(size=(pairs, heads)) * 0.1
    estimates = _estimates(attribution, 1.0)
    estimates.exact[:patched] = (attribution + generator.normal(size=(pairs, heads)) * 0.3)[:patched]
    p = estimates.p_values(0)
    for level in (0.01, 0.05, 0.2):
        assert np.mean(p <= level) < level + 3 * np.sqrt(level * (1 - level) / heads) + 0.002
