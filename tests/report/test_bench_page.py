"""The bench's page: well-formed, without scripts, nothing in it can become markup, and its figure tells the front."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.bench.table import METRICS
from interp.report.bench import _group, bench_command, render_bench
from interp.report.pareto import LINE, Point, pareto_figure, pareto_front
from interp.report.plots import spread
from tests.report.synthetic import EVIL
from tests.report.test_page import _Page


def make_result(
    methods=("attribution", "adaptive-patching", "random"), *, model="smollm2-135m-instruct", tasks=("ioi",)
) -> dict:
    """A table of any methods; a method called random has no seconds, one called adaptive-patching lacks 100 pairs."""
    table, groups, comparisons = [], [], []
    for m, method in enumerate(("yardstick", *methods)):
        for n in (10, 100) if method != "adaptive-patching" else (10,):
            value = 0.9 - 0.1 * m + n / 2000
            spread = {"mean": value, "least": value - 0.05, "largest": value + 0.02, "count": 3}
            numbers = dict.fromkeys(METRICS, spread) | {"edge_roc_auc": None, "f_50": None}
            numbers["forwards"] = {
                "mean": 4.0 * n * m,
                "least": 4.0 * n * m,
                "largest": 4.0 * n * m,
                "count": 3,
            }
            if method == "random":
                numbers["seconds"] = None
            stable = {"jaccard_seeds": 0.8, "jaccard_bootstrap": None}
            for task in tasks:
                start = {"task": task, "model": model, "reference": f"{task}/{model}", "decides": True}
                table.append({**start, "method": method, "n": n, "seeds": 3, **numbers, **stable})
            means = {key: value and value["mean"] for key, value in numbers.items()}
            start = {"group": model, "method": method, "n": n, "tasks": len(tasks), "of_tasks": len(tasks)}
            groups.append({**start, **means, **stable})
            if method != "attribution":
                compared = {"difference": 0.1, "low": 0.05, "high": 0.2, "seeds": 3, "tasks": 1}
                start = {
                    "scope": f"{tasks[0]} on {model}",
                    "group": model,
                    "method": method,
                    "against": "attribution",
                    "n": n,
                }
                comparisons.append({**start, "metric": "roc_auc", **compared})
                comparisons.append({**start, "metric": "cmd", **compared, "low": None, "high": None})
    return {
        "format": 1,
        "plan": {
            "tasks": list(tasks),
            "models": [model],
            "methods": list(methods),
            "pairs": [10, 100],
            "seeds": 3,
            "against": "attribution",
            "pool": 300,
            "held_out": 40,
            "reference": 200,
        },
        "cells": [],
        "table": table,
        "groups": groups,
        "comparisons": comparisons,
        "skipped": [{"task": tasks[0], "model": model, "method": "acdc", "why": f"too dear {EVIL}"}],
        "versions": {"interp": "0", "torch": "1"},
    }


def test_the_page_is_whole_and_says_what_the_table_holds():
    page = _Page(render_bench(make_result()))
    assert "script" not in page.tags and "img" not in page.tags
    assert not any(name.startswith("on") or name == "src" for name, _ in page.attributes)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    for text in ("activation patching (yardstick)", "0.805", "+0.100", "[+0.050, +0.200]", "too dear", "1,200"):
        assert text in page.text, text
    assert "edge ROC AUC" not in page.text and "f(50)" not in page.text  # nothing was measured
    assert "attribution has the best mean average precision with 100 pairs: 0.850" in page.text


def test_texts_from_outside_stay_texts():
    page = _Page(render_bench(make_result((EVIL, "attribution"), model=EVIL, tasks=(EVIL,))))
    assert {"script", "img", "b>"} & set(page.tags) == set()
    assert page.text.count(EVIL) >= 4


def test_a_table_of_nothing_is_still_a_page():
    empty = make_result() | {"table": [], "groups": [], "comparisons": [], "skipped": []}
    assert "3 methods on 1 tasks" in _Page(render_bench(empty)).text


def test_the_command_repeats_the_plan():
    words = bench_command(make_result()["plan"])
    assert words == (
        "interp bench --tasks ioi --models smollm2-135m-instruct --methods attribution,adaptive-patching,random "
        "--pairs 10,100 --seeds 3 --against attribution"
    )
    halved = bench_command(make_result()["plan"] | {"dtype": "bfloat16"})
    assert halved == words.replace(" --seeds", " --dtype bfloat16 --seeds")
    assert bench_command(make_result()["plan"], "my runs/b2") == f"{words} --out 'my runs/b2'"


POINTS = st.lists(
    st.builds(
        Point,
        st.sampled_from(["a", "b", "c"]),
        st.integers(1, 300),
        st.floats(0, 1e6),
        st.floats(0, 1),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(POINTS)
def test_nothing_on_the_front_is_beaten_and_all_else_is(points):
    front = pareto_front(points)
    rivals = [point for point in points if not point.yardstick]
    for point in rivals:
        beaten = any(
            other.cost <= point.cost
            and other.quality >= point.quality
            and (other.cost, other.quality) != (point.cost, point.quality)
            for other in rivals
        )
        assert (point in front) != beaten
    assert [p.cost for p in front] == sorted(p.cost for p in front)


@settings(max_examples=30, deadline=None)
@given(POINTS)
def test_every_point_is_drawn_inside_the_figure(points):
    drawn = str(pareto_figure(points, "quality", "label"))
    width, height = map(float, re.search(r'width="([\d.]+)" height="([\d.]+)"', drawn).groups())
    circles = re.findall(r'<circle class="[^"]+" cx="([-\d.]+)" cy="([-\d.]+)"', drawn)
    assert len(circles) == len(points)
    assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in circles)


def test_names_do_not_lie_on_each_other():
    found = spread([100.0, 100.5, 101.0, 300.0, 371.0, 371.5], LINE, 12.0, 372.0)
    assert all(b - a >= LINE - 1e-9 for a, b in zip(found, found[1:], strict=False))
    assert found[3] == 300.0 and max(found) <= 372
    crowded = spread([0.0] * 10, LINE, 0.0, 90.0)
    assert crowded.tolist() == [10.0 * i for i in range(10)]


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_opens_offline_and_fits(chromium, tmp_path, width):
    path = tmp_path / "bench.html"
    path.write_text(render_bench(make_result()), encoding="utf-8")
    page = chromium.new_page(viewport={"width": width, "height": 800})
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width and trouble == []
    page.close()


def test_metrics_of_fewer_seeds_say_of_how_many():
    result = make_result()
    for row in result["table"]:
        row["cmd"] = {"mean": 0.1, "least": 0.05, "largest": 0.2, "count": 2}
    page = _Page(render_bench(result))
    assert "[0.050, 0.200], 2 seeds" in page.text and ", 3 seeds" not in page.text


def test_a_control_is_never_the_best_and_no_part_of_the_front():
    result = make_result(("random", "attribution"))
    assert "attribution has the best mean average precision" in _Page(render_bench(result)).text
    (group,) = {row["group"] for row in result["groups"]}
    figure = str(_group(result, group)["figure"])
    assert figure.count('class="way best"') == 1 and figure.count("way yardstick") == 2
