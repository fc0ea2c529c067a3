"""The bench's page and figure: values, the front, names that stand apart, and nothing that becomes markup."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.files import write_json
from interp.report import bench
from interp.report.style import BLUE
from interp.report.wording import EXACT
from tests.report.synthetic import EVIL, make_bench
from tests.report.test_page import Page

SCOPE = "ioi on smollm2-135m-instruct"


@pytest.fixture
def read(tmp_path):
    def written(result: dict):
        write_json(tmp_path / "bench.json", result)
        return bench.read_bench(tmp_path / "bench.json")

    return written


def test_points_are_means_and_bars_reach_to_the_seeds(read):
    rows = read(make_bench()).scopes[SCOPE]
    traces = {each.name: each for each in bench.bench_plot(rows, "average_precision").data}
    assert set(traces) == {EXACT, "attribution", "adaptive-patching", "random"}
    attribution = traces["attribution"]
    assert attribution.x == (40.0, 400.0)  # 4 n m forward passes
    assert attribution.y == pytest.approx((0.805, 0.85))  # 0.9 - 0.1 m + n / 2000
    assert attribution.error_y.array == pytest.approx((0.02, 0.02))
    assert attribution.error_y.arrayminus == pytest.approx((0.05, 0.05))


def test_a_metric_that_is_better_when_lower_is_ranked_so():
    rows = [bench.MethodRow(name, 10, "", {"cmd": bench.Spread(v)}) for name, v in (("a", 0.3), ("b", 0.1))]
    rows.append(bench.MethodRow("c", 10, "", {}))
    assert [row.method for row in bench.best_first(rows, "cmd")] == ["b", "a", "c"]


def test_the_page_is_whole_and_says_what_the_table_holds():
    page = Page(bench.render_bench(make_bench()))
    page.check()
    for text in ("0.805", "+0.100", "[+0.050, +0.200]", "too dear", "1,200"):
        assert text in page.text, text
    assert "edge ROC AUC" not in page.text and "f(50)" not in page.text  # nothing was measured
    assert "attribution has the best mean average precision with 100 pairs: 0.850" in page.text
    empty = make_bench() | {"table": [], "groups": [], "comparisons": [], "skipped": []}
    assert "3 methods on 1 tasks" in Page(bench.render_bench(empty)).text


def test_texts_from_outside_stay_texts():
    page = Page(bench.render_bench(make_bench((EVIL, "attribution"), model=EVIL, tasks=(EVIL,))))
    page.check()
    assert {"img", "b>"} & set(page.tags) == set() and page.text.count(EVIL) >= 4
    drawn = json.dumps(page.figures)
    assert "<script" not in drawn and "<img" not in drawn and "&lt;script" in drawn


def test_a_control_is_never_the_best_and_no_part_of_the_front():
    page = Page(bench.render_bench(make_bench(("random", "attribution"))))
    assert "attribution has the best mean average precision" in page.text
    [figure] = page.figures
    assert {each["name"] for each in figure["data"] if BLUE in each["marker"]["color"]} == {"attribution"}


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", EXACT, "random"]), st.integers(1, 300), st.floats(0, 1e6), st.floats(0, 1)
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_nothing_on_the_front_is_beaten_and_all_else_is(rows):
    made = [
        bench.MethodRow(method, n, "", {"roc_auc": bench.Spread(value), "forwards": bench.Spread(cost)})
        for method, n, cost, value in rows
    ]
    front = bench.pareto_front(made, "roc_auc")
    rivals = {i: (*rows[i][2:],) for i, row in enumerate(made) if row.kind == "method"}
    for i, point in rivals.items():
        beaten = any(c <= point[0] and v >= point[1] and (c, v) != point for c, v in rivals.values())
        assert any(made[i] is front_row for front_row in front) != beaten
    costs = [row.values["forwards"].mean for row in front]
    assert costs == sorted(costs)
