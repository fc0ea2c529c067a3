"""Code overlap against a literal transcription of the published definition, and on small real models."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from interp.activations.means import HeadMeans, output_weights
from interp.activations.stream import feed
from interp.bottlenecks.discrete_sae import DiscreteSAE, DiscreteSAEConfig
from interp.errors import InputError
from interp.planted.models import load_planted_model
from interp.planted.tasks import load_planted_task
from interp.prompts.pairs import PromptPair, PromptPairs
from interp.scores.head_codes import HeadCodes, HeadCodesConfig, fit_head_codes, usage
from interp.scores.method import Context
from interp.scores.overlap import (
    OverlapConfig,
    edge_overlap,
    head_edges,
    head_overlap,
    overlap,
    published_edge_fold,
    read_means,
    top_edges,
)

SMALL = OverlapConfig(n_codes=20, examples=6, epochs=40, l1=0.001, lr=0.01)


def nodes_as_published(clean: np.ndarray, corrupt: np.ndarray, normalise: bool = False) -> list[float]:
    scores = []
    for head in range(clean.shape[1]):
        positive, negative = set(clean[:, head].tolist()), set(corrupt[:, head].tolist())
        unique = len(positive - negative)
        scores.append(unique / len(positive | negative) if normalise else unique)
    return scores


def edges_as_published(clean: np.ndarray, corrupt: np.ndarray, n_codes: int) -> np.ndarray:
    heads = clean.shape[1]

    def occurrences(ids: np.ndarray) -> np.ndarray:
        counts = np.zeros((heads, heads, n_codes, n_codes))
        for example, h1, h2 in product(range(len(ids)), range(heads), range(heads)):
            if h1 != h2:
                counts[h1, h2, ids[example, h1], ids[example, h2]] += 1
        return counts

    return ((occurrences(clean) > 0) & ~(occurrences(corrupt) > 0)).sum((2, 3))


def fold_as_published(matrix: np.ndarray, layers: int, heads: int, entries: int) -> np.ndarray:
    pairs = list(product(range(len(matrix)), repeat=2))
    pairs.sort(key=lambda pair: (matrix[pair], pair), reverse=True)
    ends = [head for pair in pairs for head in pair]
    counts = np.zeros((layers, heads), dtype=int)
    for head in ends[:entries]:
        counts[head // heads, head % heads] += 1
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
    found = head_overlap(as_codes(clean, corrupt, 3, 9), normalise=normalise)
    assert found.shape == (3, 2)
    assert found.ravel().tolist() == nodes_as_published(clean, corrupt, normalise)
    assert len(set(found.ravel())) > 1


@pytest.mark.parametrize("seed", range(5))
def test_edge_matrix_equals_the_published_definition(seed):
    clean, corrupt = random_ids(seed, pairs=15, heads=6, n_codes=9)
    found = edge_overlap(clean, corrupt, 9)
    assert (found == edges_as_published(clean, corrupt, 9)).all()
    assert found.max() > found.min() == 0


def test_edge_matrix_of_unequal_sides_equals_the_published_definition():
    clean, corrupt = random_ids(0, pairs=15, heads=5, n_codes=9)
    assert (edge_overlap(clean, corrupt[:4], 9) == edges_as_published(clean, corrupt[:4], 9)).all()
    assert (edge_overlap(clean, corrupt[:0], 9) == edges_as_published(clean, corrupt[:0], 9)).all()


def test_edge_matrix_holds_for_dictionaries_too_large_for_32_bits():
    clean, corrupt = random_ids(1, pairs=15, heads=5, n_codes=9)
    spread = 10_007  # the square of the dictionary's size no longer fits
    found = edge_overlap(clean * spread, corrupt * spread, 9 * spread)
    assert (found == edges_as_published(clean, corrupt, 9)).all()


@pytest.mark.parametrize("entries", [None, 1, 5, 18, 72])
@pytest.mark.parametrize("seed", range(3))
def test_edge_fold_equals_the_published_definition(seed, entries):
    clean, corrupt = random_ids(seed, pairs=12, heads=6, n_codes=5)
    matrix = edge_overlap(clean, corrupt, 5)
    found = published_edge_fold(matrix, 2, 3, entries)
    assert (found == fold_as_published(matrix, 2, 3, 4 if entries is None else entries)).all()
    assert found.sum() == (4 if entries is None else entries)


def test_ties_of_the_edge_fold_fall_to_the_last_pairs():
    matrix = np.ones((4, 4), dtype=int)
    assert published_edge_fold(matrix, 2, 2, entries=4).tolist() == [[0, 0], [1, 3]]


def test_slots_are_summed():
    sides = [random_ids(seed, pairs=10, heads=4, n_codes=7) for seed in (0, 1)]
    ids = np.stack([np.stack(side) for side in sides], axis=2).reshape(2, 10, 2, 2, 2)
    both, single = head_codes(ids, 7), [as_codes(*side, 2, 7) for side in sides]
    assert (head_overlap(both) == head_overlap(single[0]) + head_overlap(single[1])).all()
    assert (head_edges(both) == head_edges(single[0]) + head_edges(single[1])).all()


def test_codes_unique_to_positives_are_found_and_one_negative_deletes_them():
    clean, corrupt = np.zeros((2, 8, 6), dtype=int)
    clean[:, 4] = [1, 1, 2, 2, 3, 3, 0, 0]  # three codes of its own
    clean[:, 5] = np.arange(8) % 2  # none by itself, but pairs with head 4
    corrupt[:, 5] = np.arange(8) % 2
    found = head_overlap(as_codes(clean, corrupt, 3, 5))
    assert found.tolist() == [[0, 0], [0, 0], [3, 0]]
    assert edge_overlap(clean, corrupt, 5)[4, 5] == 6
    corrupt[0, 4] = 2
    assert head_overlap(as_codes(clean, corrupt, 3, 5))[2, 0] == 2


def test_scattered_codes_score_high_without_any_signal():
    """The weakness that the documentation names: noise is counted."""
    rng = np.random.default_rng(0)
    clean, corrupt = rng.integers(0, 200, (2, 50, 2))
    clean[:, 1] = np.arange(50) % 2  # a head that tells the sides apart perfectly, with two codes
    corrupt[:, 1] = 2
    noise, signal = head_overlap(as_codes(clean, corrupt, 1, 200))[0]
    assert noise > 10 * signal == 20


def test_edges_go_from_earlier_to_later_layers_best_first():
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 4, (6, 6))
    matrix = matrix + matrix.T
    edges = top_edges(matrix, 3, 2, 100)
    expected = sorted(
        (
            (-matrix[a, b], a, b)
            for a, b in product(range(6), repeat=2)
            if a // 2 < b // 2 and matrix[a, b] > 0
        ),
    )
    assert [(-e.score, e.sender, e.receiver) for e in edges] == [
        (score, f"a{a // 2}.h{a % 2}", f"a{b // 2}.h{b % 2}") for score, a, b in expected
    ]
    assert all(edge.into is None for edge in edges)
    assert top_edges(matrix, 3, 2, 2) == edges[:2]


@pytest.mark.parametrize("code", [-1, 9])
def test_codes_outside_the_dictionary_are_refused(code):
    clean, corrupt = random_ids(0, pairs=5, heads=3, n_codes=9)
    clean[2, 1] = code
    with pytest.raises(InputError, match="must be 0 to 8"):
        edge_overlap(clean, corrupt, 9)


@pytest.fixture(scope="module")
def planted():
    model = load_planted_model("planted-induction")
    return model, load_planted_task("planted-induction").sample(model.tokenizer, 12, seed=0)


def means_of(model, pairs, positions="mean") -> HeadMeans:
    means = HeadMeans(pairs, positions)
    feed(model, pairs, [means])
    return means


def test_there_is_no_bos_to_leave_out_where_the_tokenizer_has_none(planted):
    model, pairs = planted
    wanted, bos = OverlapConfig(include_bos=False), model.tokenizer.bos_token
    assert pairs.bos and read_means(Context(model, pairs, wanted)).first == 1
    model.tokenizer.bos_token = None
    try:
        assert read_means(Context(model, pairs, wanted)).first == 0
    finally:
        model.tokenizer.bos_token = bos


@pytest.mark.parametrize("positions", ["mean", "last", "roles"])
@pytest.mark.parametrize("dictionary", ["shared", "per-head"])
def test_codes_are_those_of_the_head_results_one_by_one(planted, positions, dictionary):
    model, pairs = planted
    means, w_o = means_of(model, pairs, positions), output_weights(model)
    config = HeadCodesConfig(n_codes=20, examples=6, epochs=20, dictionary=dictionary, lr=0.01, l1=0.001)
    codes = fit_head_codes(means, w_o, config)
    layers, heads = w_o.shape[:2]
    assert codes.ids.shape == (2, 12, len(means.roles_), layers, heads)
    assert len(set(codes.train_indices)) == 6 and max(codes.train_indices) < 24
    for side, pair, slot, layer, head in product(
        (0, 1), (0, 7), range(len(means.roles_)), range(layers), (0, 2)
    ):
        result = means.z_[side, pair, slot, layer, head] @ w_o[layer, head]
        group = layer * heads + head
        sae = codes.dictionary if dictionary == "shared" else codes.dictionary.select(slice(group, group + 1))
        assert codes.ids[side, pair, slot, layer, head] == sae.encode(result).ids.item()
    assert len(np.unique(codes.ids)) > 3


def test_dictionary_is_trained_on_the_chosen_prompts_alone(planted):
    model, pairs = planted
    means, w_o = means_of(model, pairs), output_weights(model)
    config = HeadCodesConfig(n_codes=20, examples=6, epochs=5)
    codes = fit_head_codes(means, w_o, config)
    flat = means.z_.reshape(24, *means.z_.shape[2:])
    rest = [i for i in range(24) if i not in codes.train_indices]
    flat[rest] = torch.randn_like(flat[rest])
    again = fit_head_codes(means, w_o, config)
    assert torch.equal(again.dictionary.weights_.encoder, codes.dictionary.weights_.encoder)
    flat[codes.train_indices[0]] *= 2
    changed = fit_head_codes(means, w_o, config)
    assert not torch.equal(changed.dictionary.weights_.encoder, codes.dictionary.weights_.encoder)


def test_usage_is_the_share_of_prompts_with_each_code():
    ids = np.zeros((2, 4, 1, 2, 3), dtype=np.int32)
    ids[0, :, 0, 1, 2] = [7, 5, 7, 7]
    codes = head_codes(ids, 9)
    assert usage(codes, 1, 2, "clean") == [(7, 0.75), (5, 0.25)]
    assert usage(codes, 1, 2, "corrupt") == [(0, 1.0)]
    with pytest.raises(InputError, match="no head a2.h0"):
        usage(codes, 2, 0, "clean")


def test_method_scores_every_head_and_the_edges_of_a_real_model(planted):
    model, pairs = planted
    seen = means_of(model, pairs)
    other, done = HeadMeans(pairs), []
    scores = overlap(model, pairs, SMALL, consumers=[other], progress=done.append)
    codes = fit_head_codes(seen, output_weights(model), SMALL)
    assert (scores.heads == head_overlap(codes)).all() and scores.heads.max() > 0
    assert scores.edges == top_edges(head_edges(codes), *scores.heads.shape, 200)
    assert not scores.signed and scores.mlps is None and scores.heads_per_pair is None
    assert torch.equal(other.z_, seen.z_) and sum(done) == 100
    assert scores.cost.forwards == 24 and scores.cost.seconds > 0
    assert scores.metric_clean.mean() > scores.metric_corrupt.mean()
    assert scores.config["n_codes"] == 20 and len(scores.provenance["train_indices"]) == 6


def test_method_repeats_itself_and_depends_on_its_seed(planted):
    model, pairs = planted
    first, again, other = (overlap(model, pairs, replace(SMALL, seed=seed)).heads for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def random_pairs() -> PromptPairs:
    rows = torch.randint(5, 100, (2, 8, 9)).tolist()
    pairs = [PromptPair("", "", tuple(a), tuple(b), (1,), (2,)) for a, b in zip(*rows, strict=True)]
    return PromptPairs(pairs, task="random", metric="logit_diff", counterfactual="", seed=0, bos=True)


def test_every_option_runs_on_a_model_with_grouped_keys(tiny_model):
    model = tiny_model("llama")
    pairs = random_pairs()
    for change in ({"positions": "last"}, {"include_bos": False}, {"normalise": True}, {"edges": False}):
        scores = overlap(model, pairs, replace(SMALL, **change))
        assert scores.heads.shape == (2, 4)
        assert bool(scores.edges) == change.get("edges", True)
        assert scores.heads.max() <= (1 if "normalise" in change else 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_codes": 0}, "n_codes 0"),
        ({"examples": 0}, "examples 0"),
        ({"examples": 1, "dictionary": "per-head"}, "at least 2"),
        ({"l1": -1.0}, "l1 -1.0"),
        ({"epochs": 0}, "epochs 0"),
        ({"lr": -1.0}, "lr -1.0"),
        ({"seed": -3}, "seed -3"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        OverlapConfig(**changes)


def test_unknown_dictionary_is_refused():
    settings = OverlapConfig()
    # set past the constructor, where the tests' type checker would be quicker than our own message
    object.__setattr__(settings, "dictionary", "private")
    with pytest.raises(InputError, match="choose shared, per-head"):
        settings.__post_init__()


def test_more_examples_than_prompts_are_refused(planted):
    model, pairs = planted
    with pytest.raises(InputError, match="only 24 prompts"):
        overlap(model, pairs, replace(SMALL, examples=25))
