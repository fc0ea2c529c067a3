"""Plotly figures of a bench: its values, names that stand apart, and nothing that becomes markup."""

import math

import pytest

from interp.errors import InputError
from interp.files import write_json
from interp.report.bench_plot import COST, LABEL, PAIRS, bench_plot
from interp.report.bench_rows import MethodRow, Spread, best_first, read_bench
from interp.report.plots import BLUE, GREY
from tests.report.synthetic import EVIL
from tests.report.test_bench_page import make_result

SCOPE = "ioi on smollm2-135m-instruct"


@pytest.fixture
def read(tmp_path):
    def written(result: dict):
        write_json(tmp_path / "bench.json", result)
        return read_bench(tmp_path / "bench.json")

    return written


def test_points_are_means_bars_reach_to_the_seeds_and_the_front_is_blue(read):
    rows = read(make_result()).scopes[SCOPE]
    figure = bench_plot(rows, "average_precision")
    traces = {trace.name: trace for trace in figure.data}
    assert set(traces) == {"yardstick", "attribution", "adaptive-patching", "random"}
    # 0.9 - 0.1 m + n / 2000, for 4 n m forward passes
    assert traces["attribution"].x == (40.0, 400.0)
    assert traces["attribution"].y == pytest.approx((0.805, 0.85))
    assert traces["attribution"].error_y.array == pytest.approx((0.02, 0.02))
    assert traces["attribution"].error_y.arrayminus == pytest.approx((0.05, 0.05))
    assert set(traces["attribution"].marker.color) == {BLUE}
    assert BLUE not in (*traces["adaptive-patching"].marker.color, *traces["yardstick"].marker.color)
    assert traces["yardstick"].line.dash == "dot"


def test_of_a_method_those_points_alone_are_blue_that_nothing_passes(read):
    result = make_result()
    for row in result["table"]:
        if row["method"] == "attribution" and row["n"] == 10:
            row["average_precision"] = {"mean": 0.99, "least": 0.98, "largest": 1.0, "count": 3}
    traces = bench_plot(read(result).scopes[SCOPE], "average_precision").data
    [colours] = [trace.marker.color for trace in traces if trace.name == "attribution"]
    assert list(colours) == [BLUE, GREY]


def test_what_costs_nothing_stands_at_the_left_edge_and_is_labelled_so(read):
    rows = read(make_result()).scopes[SCOPE]
    figure = bench_plot(rows, "average_precision", COST)
    free = next(trace for trace in figure.data if trace.name == "yardstick")  # made so by the table
    assert set(free.x) == {20.0} and figure.layout.xaxis.ticktext[0] == "0"
    assert figure.layout.xaxis.tickvals[0] == 20.0
    along_pairs = bench_plot(rows, "average_precision", PAIRS)
    assert along_pairs.layout.xaxis.tickvals == (10, 100)
    assert next(trace for trace in along_pairs.data if trace.name == "yardstick").x == (10.0, 100.0)


def test_names_stand_apart_inside_the_figure():
    rows = [
        MethodRow(f"m{i}", 10, "3 seeds", {"roc_auc": Spread(0.9 + i / 1e4), "forwards": Spread(40.0)})
        for i in range(12)
    ]
    figure = bench_plot(rows, "roc_auc")
    low, high = figure.layout.yaxis.range
    heights = sorted(note.ay for note in figure.layout.annotations)
    plot_height = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    gaps = [(b - a) / (high - low) * plot_height for a, b in zip(heights, heights[1:], strict=False)]
    assert min(gaps) > LABEL - 1 and low <= heights[0] and heights[-1] <= high
    assert all(note.x == pytest.approx(math.log10(40)) for note in figure.layout.annotations)


def test_a_metric_that_is_better_when_lower_is_ranked_so():
    rows = [MethodRow(name, 10, "", {"cmd": Spread(v)}) for name, v in (("a", 0.3), ("b", 0.1))]
    rows.append(MethodRow("c", 10, "", {}))
    assert [row.method for row in best_first(rows, "cmd")] == ["b", "a", "c"]


def test_names_from_outside_stay_text(read):
    rows = read(make_result((EVIL, "attribution"))).scopes[SCOPE]
    drawn = bench_plot(rows, "average_precision").to_json()
    assert "<script" not in drawn and "<img" not in drawn and "&lt;script" in drawn


def test_means_over_tasks_come_first_and_a_second_reference_is_named(read):
    result = make_result(tasks=("ioi", "docstring"))
    result["table"] += [
        row | {"reference": "ioi/wang", "decides": False} for row in result["table"] if row["task"] == "ioi"
    ]
    found = read(result)
    assert list(found.scopes)[0] == "mean over smollm2-135m-instruct"
    assert {name for name in found.scopes if name.startswith("ioi")} == {
        f"{SCOPE}, against ioi/smollm2-135m-instruct",
        f"{SCOPE}, against ioi/wang",
    }
    # differences were measured against the reference that decides
    by_name = {name: {r.method: r for r in rows} for name, rows in found.scopes.items()}
    assert by_name[f"{SCOPE}, against ioi/smollm2-135m-instruct"]["random"].differences
    assert not by_name[f"{SCOPE}, against ioi/wang"]["random"].differences


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"table": 3}', '{"task": "t", "rows": []}', "\x00"])
def test_what_is_no_bench_is_one_clear_line(tmp_path, text):
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bench\.json (is damaged|holds no rows)"):
        read_bench(path)
