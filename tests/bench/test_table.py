"""Paired differences: the interval is of the differences, by task and over tasks. And the page of kept results."""

import numpy as np
import pytest
import torch

from benchmarks.common import RESULTS
from benchmarks.tables import PAGE, filled
from interp.bench.plan import BenchPlan
from interp.bench.table import METRICS, _groups, compare_subsets


def test_the_interval_is_the_bootstrap_of_the_differences():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=40)
    a, b = shared + 0.05 + 0.02 * rng.normal(size=40), shared
    comparison = compare_subsets([(a - b).tolist()])
    assert 0.03 < comparison["low"] < comparison["difference"] < comparison["high"] < 0.07
    half = 1.96 * (a - b).std(ddof=1) / np.sqrt(40)
    assert comparison["high"] - comparison["low"] == pytest.approx(2 * half, rel=0.15)
    # over two tasks alike, by the square root of two narrower
    both = compare_subsets([(a - b).tolist()] * 2)
    assert (both["high"] - both["low"]) * np.sqrt(2) == pytest.approx(comparison["high"] - comparison["low"], rel=0.15)


@pytest.mark.parametrize(("differences", "expected"), [([[0.1], [0.2, 0.3]], (None, None)), ([[0.0] * 10], (0, 0))])
def test_one_seed_has_no_interval_and_no_difference_none_that_is_wide(differences, expected):
    comparison = compare_subsets(differences)
    assert (comparison["low"], comparison["high"]) == expected


def test_a_groups_row_is_the_mean_of_its_tasks():
    names = ("planted-or", "planted-backup")
    plan, lines = BenchPlan(tasks=names, methods=("attribution",)), []
    for name, value in zip(names, (0.2, 0.6), strict=True):
        spread = {"mean": value, "least": 0.0, "largest": 1.0, "count": 2}
        line = {"task": name, "model": name, "method": "attribution", "n": 10, "decides": True}
        jaccard = {"jaccard_seeds": value, "jaccard_bootstrap": None}
        lines.append(line | dict.fromkeys(METRICS, spread) | jaccard)
    (group_row,) = _groups(plan, lines)
    assert group_row["roc_auc"] == pytest.approx(0.4) and group_row["jaccard_seeds"] == pytest.approx(0.4)
    assert (group_row["tasks"], group_row["of_tasks"]) == (2, 2)


def test_the_page_is_what_the_kept_results_give(monkeypatch):
    """Run ``python -m benchmarks.tables`` where it is not."""
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # scripts set it for themselves
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page


def test_every_kept_result_is_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    assert not [path.name for path in RESULTS.iterdir() if f"`{path.name}" not in page]
