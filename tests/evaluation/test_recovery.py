"""How well heads and edges are recovered, against sklearn and scipy, and what chance and priors give."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from interp.circuits.references import load_reference
from interp.errors import InputError
from interp.evaluation.recovery import compare_paired, recover, recover_edges, roc_curve_points
from interp.models.sites import parse_site
from interp.scores.result import EdgeScore, layer_prior

PRIOR = {"ioi/wang": 0.680, "greater-than/acdc": 0.416, "docstring/acdc": 0.551, "docstring/blog8": 0.417}


@pytest.mark.parametrize(("name", "expected"), PRIOR.items())
def test_layer_index_recovers_the_published_circuits_as_well_as_it_was_computed_to(name, expected):
    reference = load_reference(name)
    recovery = recover(layer_prior(reference.n_layers, reference.n_heads), reference.members())
    assert recovery.roc_auc == pytest.approx(expected, abs=5e-4)
    assert recovery.nulls.layer_index == recovery.nulls.layer_mean == recovery.roc_auc


@pytest.mark.parametrize(("name", "sd"), [("ioi/wang", 0.063), ("greater-than/acdc", 0.1), ("docstring/acdc", 0.133)])
def test_random_scorers_average_one_half_and_equal_scores_are_exactly_one_half(name, sd):
    members = load_reference(name).members()
    nulls = recover(members.astype(float), members, n_random=20_000).nulls
    assert nulls.random_mean == pytest.approx(0.5, abs=0.01)
    assert nulls.random_sd == pytest.approx(sd, abs=0.005)
    constant = np.full(members.shape, 0.1)
    recovery = recover(constant, members, constant, np.full((7, *members.shape), 3.0))
    assert recovery.roc_auc == 0.5 and recovery.interval == (0.5, 0.5) and recovery.spearman is None
    assert recovery.average_precision == pytest.approx(members.mean())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=4, max_size=40).filter(
        lambda rows: 0 < sum(label for _, label in rows) < len(rows)
    )
)
def test_statistics_agree_with_sklearn_and_scipy_under_many_ties(rows):
    scores = np.array([[float(s) for s, _ in rows]])
    truth = np.array([[label for _, label in rows]])
    effects = np.arange(len(rows), dtype=float)[None] - 2
    recovery = recover(scores, truth, effects, n_random=2)
    assert recovery.roc_auc == pytest.approx(roc_auc_score(truth[0], np.abs(scores[0])))
    assert recovery.average_precision == pytest.approx(average_precision_score(truth[0], np.abs(scores[0])))
    if recovery.spearman is not None:
        assert recovery.spearman == pytest.approx(spearmanr(np.abs(scores[0]), np.abs(effects[0])).statistic)
    points = np.array(roc_curve_points(scores, truth))
    assert auc(points[:, 0], points[:, 1]) == pytest.approx(recovery.roc_auc)
    assert points[0].tolist() == [0, 0] and points[-1].tolist() == [1, 1]


def test_scores_rank_by_size_and_the_layer_mean_null_takes_away_what_is_within_a_layer():
    truth = np.array([[True, False], [True, False]])
    assert recover(np.array([[-3.0, 1.0], [2.0, -0.5]]), truth).roc_auc == 1.0
    recovery = recover(np.array([[2.0, 0.0], [3.0, 0.0]]), truth)
    assert recovery.roc_auc == 1.0 and recovery.nulls.layer_mean == 0.5


def test_bootstrap_interval_agrees_with_resampling_one_by_one():
    rng = np.random.default_rng(1)
    truth = load_reference("docstring/blog8").members()
    per_pair = rng.normal(size=(30, *truth.shape)) + truth * 0.3
    recovery = recover(per_pair.mean(0), truth, per_pair=per_pair, n_boot=2000)
    truths, draws = truth.ravel(), rng.integers(30, size=(600, 30))
    slow = [roc_auc_score(truths, np.abs(per_pair[rows].mean(0)).ravel()) for rows in draws]
    assert recovery.interval == pytest.approx(np.percentile(slow, [2.5, 97.5]), abs=0.03)
    assert recovery.interval[0] < recovery.roc_auc < recovery.interval[1]
    assert recovery.n_pairs == 30


@pytest.mark.parametrize("fill", [True, False])
def test_one_class_has_no_auc_but_still_a_correlation(fill):
    scores = np.arange(6.0).reshape(2, 3)
    recovery = recover(scores, np.full((2, 3), fill), scores, scores[None])
    assert recovery.roc_auc is None and recovery.interval is None and recovery.nulls.random_mean is None
    assert (recovery.average_precision is None) == (not fill)
    assert recovery.spearman == pytest.approx(1.0)
    assert roc_curve_points(scores, np.full((2, 3), fill)) == []


def test_bad_scores_are_input_errors():
    truth, zeros = np.array([[True, False]]), np.zeros((3, 1, 2))
    with pytest.raises(InputError, match="not finite"):
        recover(np.array([[np.nan, 1.0]]), truth)
    with pytest.raises(InputError, match="scores per pair hold 1"):
        recover(zeros[0], truth, per_pair=np.array([[[np.inf, 1.0]]]))
    with pytest.raises(InputError, match="empty"):
        compare_paired(zeros[:0], zeros[:0], truth)
    with pytest.raises(InputError, match="3 pairs against 4"):
        compare_paired(zeros, np.zeros((4, 1, 2)), truth)
    with pytest.raises(InputError, match="0 of 2"):
        compare_paired(zeros, zeros, ~truth & truth)


def test_paired_comparison_sees_a_difference_that_the_separate_intervals_hide():
    rng = np.random.default_rng(0)
    truth = load_reference("ioi/wang").members()
    shared = np.abs(rng.normal(size=truth.shape)) + truth * 0.8
    b = shared + 4.0 * rng.normal(size=(20, *truth.shape))
    a = b + truth * 0.3 * np.sign(b.mean(0))
    recovery_a, two = (recover(s.mean(0), truth, per_pair=s) for s in (a, b))
    comparison = compare_paired(a, b, truth)
    assert comparison.difference == pytest.approx(recovery_a.roc_auc - two.roc_auc)
    assert recovery_a.interval[0] < two.interval[1]
    assert comparison.interval[0] > 0
    swapped = compare_paired(b, a, truth)
    assert swapped.difference == -comparison.difference
    same = compare_paired(a, a, truth)
    assert same.difference == 0 and same.interval == (0, 0)


def test_true_edges_are_recovered_and_others_are_not():
    reference = load_reference("docstring/acdc")
    recovery = recover_edges([EdgeScore(*e, -1.0) for e in reference.head_edges], reference)
    assert (recovery.roc_auc, recovery.average_precision, recovery.within_roc_auc) == (1.0, 1.0, 1.0)
    assert (recovery.n_positive, recovery.n_edges) == (14, 6 * 8 * 8 * 3)
    assert recover_edges([], reference).roc_auc == 0.5


def test_knowing_only_the_heads_gives_an_edge_auc_but_none_within_the_circuit():
    reference = load_reference("ioi/wang")
    names = [f"a{layer}.h{head}" for layer, head in np.argwhere(reference.members())]
    forward = [(s, r) for s, r in product(names, repeat=2) if parse_site(s).layer < parse_site(r).layer]
    edges = [EdgeScore(s, r, letter, 1.0) for s, r in forward for letter in "qkv"]
    recovery = recover_edges(edges, reference)
    assert recovery.roc_auc > 0.95
    assert recovery.within_roc_auc == 0.5


def test_unsplit_edges_are_compared_by_pairs_of_heads():
    reference = load_reference("docstring/acdc")
    pairs = {(s, r) for s, r, _ in reference.head_edges}
    recovery = recover_edges([EdgeScore(s, r, None, 1.0) for s, r in pairs], reference)
    assert recovery.roc_auc == 1.0
    assert (recovery.n_positive, recovery.n_edges) == (len(pairs), 6 * 8 * 8)


def test_impossible_edges_and_edgeless_references_are_input_errors():
    reference = load_reference("docstring/acdc")
    with pytest.raises(InputError, match="without edges"):
        recover_edges([], load_reference("ioi/cdt"))
    for ends in [("a1.h0", "a0.h0"), ("a0.h0", "a9.h0"), ("a0.h0", "a0.h1")]:
        with pytest.raises(InputError, match="no such edge"):
            recover_edges([EdgeScore(*ends, "q", 1.0)], reference)
    with pytest.raises(InputError, match="finite"):
        recover_edges([EdgeScore("a0.h0", "a1.h0", "q", float("nan"))], reference)


def test_one_pair_has_no_interval():
    truth, scores = np.array([[True, False, False]]), np.array([[3.0, 1.0, 2.0]])
    assert recover(scores, truth, per_pair=scores[None]).interval is None
    assert recover(scores, truth, per_pair=np.stack([scores, scores])).interval == (1.0, 1.0)
