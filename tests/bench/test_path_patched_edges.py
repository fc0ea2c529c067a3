"""``benchmarks/path_patched_edges.py``: effects against the written edges, intervals against known ones."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

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
