"""The guesses of the greedy search change no decision; the sweep gives the largest threshold that is survived."""

import numpy as np
import pytest

from interp.scores.baselines.acdc import Pruner

GROUPS = [[7, 6, 5, 4], [3], [2, 1, 0]]


def _damage(seed):
    """Weights of parts and of pairs of parts, some of them negative."""
    rng = np.random.default_rng(seed)
    single, pair = rng.normal(0.3, 0.5, 8), rng.normal(0, 0.2, (8, 8))

    def damage(removed):
        gone = np.isin(np.arange(8), list(removed))
        return float(single @ gone + gone @ pair @ gone)

    return damage


def _literal(damage, threshold):
    """ACDC's Algorithm 1, one part at a time."""
    removed, kept, rise = set(), [], np.zeros(8)
    for part in (part for group in GROUPS for part in group):
        rise[part] = damage(removed | {part}) - damage(removed)
        if rise[part] < threshold:
            removed.add(part)
        else:
            kept.append(part)
    return sorted(kept), rise


@pytest.mark.parametrize("most", [1, 2, 8])
@pytest.mark.parametrize("seed", range(5))
def test_decisions_equal_one_part_at_a_time(seed, most):
    damage = _damage(seed)
    pruner = Pruner(GROUPS, lambda _group, sets: [damage(s) for s in sets], most)
    assert not pruner.prune(np.inf)[0].any() and pruner.prune(-np.inf)[0].all()
    for threshold in (0.0, 0.2, 0.5):
        kept, rise = pruner.prune(threshold)
        wanted, wanted_rise = _literal(damage, threshold)
        assert np.nonzero(kept)[0].tolist() == wanted
        np.testing.assert_allclose(rise, wanted_rise)
