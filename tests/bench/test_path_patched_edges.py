"""``benchmarks/path_patched_edges.py``: effects against the written edges, intervals against known ones."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from interp.interventions.edges import EdgeList
from interp.models.sites import parse_site
from interp.planted.models import planted_truth
from tests.oracles import planted

PLANTED = "planted-induction"
SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "path_patched_edges.py"))
SCRIPT["_compare"].__globals__["RESAMPLES"] = 200


def test_path_patching_finds_the_written_edges_and_no_other():
    (model, pairs), truth = planted(PLANTED, 6), planted_truth(PLANTED)
    written, decoys = set(truth.edges), {"a0.h0", "a1.h3"}
    assert not decoys & set(truth.heads)
    edges = EdgeList.among([parse_site(site) for site in sorted({*truth.heads, *decoys})])
    effects, gaps = SCRIPT["_measure"](model, pairs, edges)
    assert effects.shape == (6, len(edges)) and (gaps > 0).all()
    names = [str(site) for site in edges.sites]
    ends = zip(edges.sender, edges.receiver, edges.into, strict=True)
    named = [(names[u], names[v], str(into)) for u, v, into in ends]
    moved = np.abs(effects.mean(0)) >= 0.02 * gaps.mean()
    assert {edge for edge, true in zip(named, moved, strict=True) if true} == written


@pytest.fixture(scope="module")
def compared() -> tuple[list[dict], np.ndarray, dict[str, dict]]:
    """Two seeds of a method that knows everything, of EAP-IG that knows half, and of one that knows nothing."""
    generator = np.random.default_rng(0)
    exact = generator.normal(0, 0.01, (20, 30))
    exact[:, :6] += 1
    knows, half, nothing = exact.mean(0), generator.normal(size=(2, 30)), generator.normal(size=(2, 30))
    half[:, :3] += 5
    runs = [
        {"adaptive-patching": (knows, 7.0), "eap-ig": (half[k], 26.0), "random": (nothing[k], 0.0)} for k in range(2)
    ]
    rows = SCRIPT["_compare"](runs, exact, np.full(20, 4.0), 0.02)
    return runs, exact, {row["method"]: row for row in rows}


def test_rows_are_means_over_seeds_and_differences_are_from_eap_ig(compared):
    runs, exact, rows = compared
    truth = np.abs(exact.mean(0)) >= 0.02 * 4
    for method in runs[0]:
        scores = [run[method][0] for run in runs]
        assert rows[method]["roc_auc"][0] == pytest.approx(np.mean([roc_auc_score(truth, s) for s in scores]))
        precision = np.mean([average_precision_score(truth, s) for s in scores])
        assert rows[method]["average_precision"][0] == pytest.approx(precision)
        less = rows[method]["roc_auc"][0] - rows["eap-ig"]["roc_auc"][0]
        assert rows[method]["roc_auc_less"][0] == pytest.approx(less)
    assert rows["adaptive-patching"]["roc_auc"] == [1.0] * 3 and rows["eap-ig"]["roc_auc_less"] == [0.0] * 3
    assert [row["forwards"] for row in rows.values()] == [7.0, 26.0, 0.0]


def test_intervals_draw_pairs_and_seeds(compared):
    """One seed, and an edge whose effect is at the threshold: which pairs are drawn decides whether it is a member."""
    runs, exact, rows_of_both = compared
    exact = exact.copy()
    exact[:, 6] = np.where(np.arange(20) % 2, 0.16, 0.0)
    rows = SCRIPT["_compare"](runs[:1], exact, np.full(20, 4.0), 0.02)
    [random] = [row for row in rows if row["method"] == "random"]
    scores = runs[0]["random"][0]
    either = sorted(roc_auc_score(np.arange(30) < members, scores) for members in (6, 7))
    assert random["roc_auc"][1:] == pytest.approx(either) and either[0] < either[1]
    # of two seeds whose every pair agrees on the members, what is left to vary are the seeds
    by_seed = sorted(roc_auc_score(np.arange(30) < 6, run["random"][0]) for run in runs)
    assert rows_of_both["random"]["roc_auc"][1:] == pytest.approx(by_seed)
