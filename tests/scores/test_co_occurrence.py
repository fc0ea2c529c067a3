"""Bits that two heads' codes tell of each other: none of what is independent, one of a coin, at the right input."""

import numpy as np
import pytest

from interp.bottlenecks.discrete_sae import DiscreteSAE, DiscreteSAEConfig
from interp.models import Site
from interp.scores.adaptive_patching.edges import EdgeList, co_occurrence
from interp.scores.head_codes import HeadCodes

EDGES = EdgeList.among([Site("attn", 0, 0), Site("attn", 1, 0)])


def bits(ids: np.ndarray) -> dict[str, float]:
    """By the input of the later head; ids are [side, pair, slot, head, 1]."""
    codes = HeadCodes(ids, 2, DiscreteSAE(DiscreteSAEConfig(d_in=1)), (0,))
    found = co_occurrence(EDGES, codes, ids.shape[1])
    return {str(into): float(bit) for into, bit in zip(EDGES.into, found, strict=True)}


def coins(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, size=(2, n, 2, 2, 1))


@pytest.mark.parametrize(
    ("sender", "receiver", "expected"),
    [
        (0, 0, {"q": 1, "k": 1, "v": 1}),
        (1, 1, {"q": 1, "k": 1, "v": 1}),
        (0, 1, {"q": 0, "k": 1, "v": 1}),  # keys and values are read where they stand, before END
        (1, 0, {"q": 0, "k": 0, "v": 0}),  # what is written later cannot be read
    ],
)
def test_a_copied_coin_is_one_bit_where_it_can_be_read(sender, receiver, expected):
    ids = coins(200)
    ids[:, :, receiver, 1] = ids[:, :, sender, 0]
    assert {into: round(bit) for into, bit in bits(ids).items()} == expected


def test_few_prompts_of_independent_codes_tell_next_to_nothing():
    found = np.mean([list(bits(coins(20, seed)).values()) for seed in range(50)])
    assert found < 0.07, "what chance brings to so few prompts is taken off"
