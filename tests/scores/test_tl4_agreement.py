"""Attribution and EAP against transformer-lens 4's own, which know nothing of each other's code."""

import numpy as np
import pytest

from benchmarks.peer_eap import by_name, edges_of, ours, peer
from tests.oracles import TL4
from tests.pairs import random_pairs

pytestmark = pytest.mark.skipif(not TL4, reason="transformer-lens 3.9 scores no edges")


def assert_equal_and_telling(scores: dict, peer_scores: dict, same_side: dict) -> None:
    """Close to the peer's, and far from nothing, from the wrong sign and from the gradient at the other prompt."""
    assert scores.keys() == peer_scores.keys()
    given, wanted, other = (np.array([by[key] for key in scores]) for by in (scores, peer_scores, same_side))
    size = abs(wanted).max()
    assert size > 0.05 and (abs(wanted) > 0.01 * size).mean() > 0.5
    np.testing.assert_allclose(given, wanted, rtol=1e-3, atol=1e-5 * size)
    for wrong in (-wanted, other):
        assert abs(given - wrong).max() > 0.5 * size


@pytest.mark.parametrize("family", ["gpt2", "pythia"])
def test_every_edge_is_that_of_transformer_lens(family, tiny_model):
    """A sequential and a parallel block; the sides exchanged, and so the sign, as they differentiate at the corrupt."""
    model, pairs = tiny_model(family), random_pairs(60, n=3)
    peers = by_name(peer(model, pairs), sign=-1), by_name(peer(model, pairs, exchanged=False))
    assert_equal_and_telling(edges_of(ours(model, pairs, batch_size=2)), *peers)
