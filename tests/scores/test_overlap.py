"""Code overlap against a literal transcription of the published definition, and on small real models."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from interp.activations.means import HeadMeans, output_weights
from interp.activations.stream import feed
from interp.bottlenecks.kinds.discrete_sae import DiscreteSAE, DiscreteSAEConfig
from interp.errors import InputError
from interp.scores.overlap import (
    HeadCodes,
    OverlapConfig,
    edge_overlap,
    fit_head_codes,
    head_edges,
    head_overlap,
    overlap,
    top_edges,
)
from tests.oracles import planted

SMALL = OverlapConfig(n_codes=20, examples=6, epochs=40, l1=0.001, lr=0.01)


def nodes_as_published(clean: np.ndarray, corrupt: np.ndarray, normalise: bool = False) -> list[float]:
    scores = []
    for head in range(clean.shape[1]):
        positive, negative = set(clean[:, head].tolist()), set(corrupt[:, head].tolist())
        unique = len(positive - negative)
        scores.append(unique / len(positive | negative) if normalise else unique)
    return scores


def edges_as_published(clean: np.ndarray, corrupt: np.ndarray) -> np.ndarray:
    heads = clean.shape[1]
    counts = np.zeros((heads, heads), dtype=int)
    for h1, h2 in product(range(heads), repeat=2):
        positive, negative = ({(row[h1], row[h2]) for row in ids.tolist()} for ids in (clean, corrupt))
        counts[h1, h2] = len(positive - negative) if h1 != h2 else 0
    return counts


def random_ids(seed: int, pairs: int, heads: int, n_codes: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of which small ones are common, so that many are shared between the sides and some are not."""
    rng = np.random.default_rng(seed)
    return tuple(np.minimum(rng.geometric(0.3, (2, pairs, heads)) - 1, n_codes - 1))


def head_codes(ids: np.ndarray, n_codes: int) -> HeadCodes:
    return HeadCodes(ids, n_codes, DiscreteSAE(DiscreteSAEConfig(d_in=1)), (0,))


def as_codes(clean: np.ndarray, corrupt: np.ndarray, layers: int, n_codes: int) -> HeadCodes:
    return head_codes(np.stack([clean, corrupt]).reshape(2, len(clean), 1, layers, -1), n_codes)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("normalise", [False, True])
def test_head_scores_equal_the_published_definition(seed, normalise):
    clean, corrupt = random_ids(seed, pairs=15, heads=6, n_codes=9)
    overlaps = head_overlap(as_codes(clean, corrupt, 3, 9), normalise=normalise)
    assert overlaps.shape == (3, 2)
    assert overlaps.ravel().tolist() == nodes_as_published(clean, corrupt, normalise)
    assert len(set(overlaps.ravel())) > 1


@pytest.mark.parametrize("n_corrupt", [15, 4, 0])
@pytest.mark.parametrize("spread", [1, 10_007])  # the square of the dictionary's size no longer fits 32 bits
@pytest.mark.parametrize("seed", range(3))
def test_edge_matrix_equals_the_published_definition(seed, spread, n_corrupt):
    clean, corrupt = random_ids(seed, pairs=15, heads=6, n_codes=9)
    corrupt = corrupt[:n_corrupt]
    matrix = edge_overlap(clean * spread, corrupt * spread, 9 * spread)
    assert (matrix == edges_as_published(clean, corrupt)).all()
    assert matrix.max() > matrix.min() == 0


def test_slots_are_summed():
    sides = [random_ids(seed, pairs=10, heads=4, n_codes=7) for seed in (0, 1)]
    ids = np.stack([np.stack(side) for side in sides], axis=2).reshape(2, 10, 2, 2, 2)
    two_slots, single = head_codes(ids, 7), [as_codes(*side, 2, 7) for side in sides]
    assert (head_overlap(two_slots) == head_overlap(single[0]) + head_overlap(single[1])).all()
    assert (head_edges(two_slots) == head_edges(single[0]) + head_edges(single[1])).all()


def test_edges_go_from_earlier_to_later_layers_best_first():
    matrix = np.random.default_rng(0).integers(0, 4, (6, 6))
    matrix = matrix + matrix.T
    edges = top_edges(matrix, 3, 2, 100)
    forward = [(a, b) for a, b in product(range(6), repeat=2) if a // 2 < b // 2 and matrix[a, b] > 0]
    forward.sort(key=lambda ends: (-matrix[ends], ends))
    assert [(e.score, e.sender, e.receiver, e.into) for e in edges] == [
        (matrix[a, b], f"a{a // 2}.h{a % 2}", f"a{b // 2}.h{b % 2}", None) for a, b in forward
    ]
    assert top_edges(matrix, 3, 2, 2) == edges[:2]


@pytest.fixture(scope="module")
def case():
    return planted("planted-induction", 12)


def means_of(model, pairs, positions="mean") -> HeadMeans:
    means = HeadMeans(pairs, positions)
    feed(model, pairs, [means])
    return means


@pytest.mark.parametrize("positions", ["mean", "last", "roles"])
@pytest.mark.parametrize("dictionary", ["shared", "per-head"])
def test_codes_are_those_of_the_head_results_one_by_one(case, positions, dictionary):
    model, pairs = case
    means, w_o = means_of(model, pairs, positions), output_weights(model)
    config = OverlapConfig(n_codes=20, examples=6, epochs=20, dictionary=dictionary, lr=0.01, l1=0.001)
    codes = fit_head_codes(means, w_o, config)
    layers, heads = w_o.shape[:2]
    assert codes.ids.shape == (2, 12, len(means.roles_), layers, heads)
    assert len(set(codes.train_indices)) == 6 and max(codes.train_indices) < 24
    slots = range(len(means.roles_))
    for side, pair, slot, layer, head in product((0, 1), (0, 7), slots, range(layers), (0, 2)):
        result = means.z_[side, pair, slot, layer, head] @ w_o[layer, head]
        group = layer * heads + head
        sae = codes.dictionary if dictionary == "shared" else codes.dictionary.select(slice(group, group + 1))
        assert codes.ids[side, pair, slot, layer, head] == sae.encode(result).ids.item()
    assert len(np.unique(codes.ids)) > 3


def test_dictionary_is_trained_on_the_chosen_prompts_alone(case):
    model, pairs = case
    means, w_o = means_of(model, pairs), output_weights(model)
    config = OverlapConfig(n_codes=20, examples=6, epochs=5)
    codes = fit_head_codes(means, w_o, config)
    flat = means.z_.reshape(24, *means.z_.shape[2:])
    rest = [i for i in range(24) if i not in codes.train_indices]
    flat[rest] = torch.randn_like(flat[rest])
    again = fit_head_codes(means, w_o, config)
    assert torch.equal(again.dictionary.weights_.encoder, codes.dictionary.weights_.encoder)
    flat[codes.train_indices[0]] *= 2
    changed = fit_head_codes(means, w_o, config)
    assert not torch.equal(changed.dictionary.weights_.encoder, codes.dictionary.weights_.encoder)


def test_method_scores_every_head_and_the_edges_of_a_real_model(case):
    model, pairs = case
    seen, other, done = means_of(model, pairs), HeadMeans(pairs), []
    scores = overlap(model, pairs, SMALL, consumers=[other], progress=done.append)
    codes = fit_head_codes(seen, output_weights(model), SMALL)
    assert (scores.heads == head_overlap(codes)).all() and scores.heads.max() > 0
    assert scores.edges == top_edges(head_edges(codes), *scores.heads.shape, 200)
    assert not scores.signed and scores.mlps is None and scores.heads_per_pair is None
    assert torch.equal(other.z_, seen.z_) and sum(done) == 100
    assert scores.cost.forwards == 24 and scores.cost.seconds > 0
    assert scores.metric_clean.mean() > scores.metric_corrupt.mean()
    assert len(scores.provenance["train_indices"]) == 6
    again, reseeded = (overlap(model, pairs, replace(SMALL, seed=seed)).heads for seed in (0, 1))
    assert (scores.heads == again).all() and (scores.heads != reseeded).any()
    with pytest.raises(InputError, match="only 24 prompts"):
        overlap(model, pairs, replace(SMALL, examples=25))
