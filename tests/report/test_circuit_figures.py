"""Plotly figures of a circuit: the numbers given, whole, and text that is only text."""

import re

import numpy as np
import pytest

from interp.circuits.circuit import Edge
from interp.report import circuit_figures
from interp.report.circuit_figures import Scale, edge_plot, edges_told, grid_plot, pattern_plot
from interp.report.members import token_bars
from interp.report.style import BLUE, GREY, ORANGE
from interp.report.wording import number, percent, places, signed, token
from tests.report.synthetic import make_run


def test_the_colour_bar_names_the_scores_that_colours_stand_for():
    run = make_run(n_layers=4, n_heads=3, members=2)
    scale = Scale.of(run)
    bar = grid_plot(run, scale).data[0].colorbar
    assert bar.ticktext[-1] == signed(scale.largest_score, 1) and bar.tickvals[-1] == 1
    assert bar.tickvals[3] == pytest.approx(0.25**0.6)


def test_scores_without_signs_have_one_hue_and_counts_are_whole_numbers():
    run = make_run(n_layers=4, n_heads=3, members=2, method="overlap")
    run.settings.signed = False
    for place, head in enumerate(run.heads):
        head.score = float(2 * place)
    grid = grid_plot(run, Scale.of(run), mlps=True).data[0]
    assert grid.zmin == 0 and len(grid.colorscale) == 2 and grid.z.max() == pytest.approx(1)
    assert grid.colorbar.ticktext == ("0", "2", "9", "22")


def test_edges_of_rounding_and_of_strangers_are_not_told():
    run = make_run(n_layers=6, n_heads=3, members=3)
    a, b, c = (part.site for part in run.members)
    scores = {(a, b): 2.0, (a, c): -0.0021, (b, c): 0.0019, (a, "a0.h9"): 5.0}
    edges = [Edge(sender=u, receiver=v, into="q", score=score) for (u, v), score in scores.items()]
    run.edges = edges[::-1]
    assert [(edge.sender, edge.receiver) for edge in edges_told(run)] == [(a, b), (a, c)]


@pytest.mark.parametrize("n", [3, 24])
def test_no_node_of_a_graph_lies_on_another(n):
    run = make_run(n_layers=3, n_heads=n, members=3 * n - 6, mlp_members=1)
    boxes = edge_plot(run, Scale.of(run)).layout.shapes
    for i, box in enumerate(boxes):
        for other in boxes[:i]:
            assert abs(box.x0 - other.x0) >= box.x1 - box.x0 or abs(box.y0 - other.y0) >= box.y1 - box.y0


def test_a_pattern_marks_roles_and_takes_the_last_rows_of_long_prompts():
    pattern = (np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]).astype(np.float32)  # as of a model
    figure = pattern_plot(pattern, ["a", " b", "<i>", "d"], {2: "S<"})
    assert figure.layout.xaxis.ticktext == ("a", "·b", "<b>&lt;i&gt; S&lt;</b>", "d")
    assert [list(row) for row in figure.data[0].text[:2]] == [["1", "", "", ""], [".50", ".50", "", ""]]
    end = pattern_plot(pattern[-1:], ["a", " b", "c", "d"], {})
    assert end.layout.yaxis.ticktext == ("d",)


def test_tokens_have_bars_by_their_amount():
    text = token_bars([("up <", [("x", 2.0), ("<b>", 1.0)]), ("down", [("z", -3.0)])])
    assert re.findall(r"width:([\d.]+)%", text) == ["66.7", "33.3", "100.0"]
    assert re.findall(r">([+−][\d.]+)<", text) == ["+2.00", "+1.00", "−3.00"]
    assert "up &lt;" in text and "&lt;b&gt;" in text and not re.search(r"<(?!/?(?:div|span)\b)", text)
    assert "width" not in token_bars([("up", [])])


def test_pairs_are_in_the_order_of_the_first_series():
    series = {"a": [1.0, 3.0], "b": [2.0, 0.5], "c": [0, 0], "d": [1, 1]}
    figure = circuit_figures.code_plot({name: np.array(values) for name, values in series.items()}, "m<")
    assert figure.data[0].x == ("2", "1") and list(figure.data[1].y) == [0.5, 2.0]
    assert figure.layout.yaxis.title.text == "m&lt;"


def test_every_head_is_in_one_group_of_scores():
    x, y = np.arange(6.0).reshape(2, 3), -np.arange(6.0).reshape(2, 3)
    figure = circuit_figures.scores_plot(x, y, {"in <both>": [(0, 1)], "only here": [(1, 2)]}, "x", "y")
    assert [trace.name for trace in figure.data] == ["other heads", "in &lt;both&gt;", "only here"]
    assert [len(trace.x) for trace in figure.data] == [4, 1, 1]
    assert figure.data[2].hovertext == ("a1.h2",) and figure.data[2].x[0] == 5 and figure.data[2].y[0] == -5


def _lines(figure) -> list:
    return [trace for trace in figure.data if trace.hovertext and "→" in str(trace.hovertext)]


def test_edges_end_at_their_input_and_grow_with_the_layer():
    run = make_run(n_layers=6, n_heads=3, members=5, mlp_members=1)
    figure = edge_plot(run, Scale.of(run), n=7)
    assert figure == edge_plot(run, Scale.of(run), n=7)
    lines = _lines(figure)
    assert len(lines) == 7
    strongest = max(run.edges, key=lambda edge: abs(edge.score))
    widest = max(lines, key=lambda trace: trace.line.width)
    assert f"{strongest.sender} → {strongest.receiver}" in widest.hovertext
    sites = [site for [site] in figure.data[-1].customdata]
    boxes = dict(zip(sites, figure.layout.shapes, strict=True))
    assert all(line.y[0] < line.y[-1] for line in lines)
    start, end = boxes[strongest.sender], boxes[strongest.receiver]
    assert start.x0 < widest.x[0] < start.x1 and widest.y[0] == start.y1
    assert end.x0 < widest.x[-1] < end.x1 and widest.y[-1] == end.y0


def test_edges_are_as_wide_as_their_measured_effect_whatever_their_score_was_shrunken_to():
    run = make_run(n_layers=6, n_heads=3, members=3)
    a, b, c = sorted((part.site for part in run.members), key=lambda site: int(site[1]))
    run.edges = [
        Edge(sender=u, receiver=v, into="q", score=score, effect=effect, error=error, measured=3)
        for u, v, score, effect, error in (
            (a, b, 0.2, 0.23, 0.03),
            (a, c, 0.005, -0.09, 0.05),
            (b, c, 0.3, 0.3, None),  # was only scored
        )
    ]
    told = edges_told(run)
    assert [circuit_figures.strength(edge) for edge in told] == [0.23, -0.09]
    weak, strong = _lines(edge_plot(run, Scale.of(run)))
    assert (weak.line.width - 1) / (strong.line.width - 1) == pytest.approx(0.09 / 0.23)
    assert "+0.230 ± 0.030, patched on 3 pairs" in strong.hovertext and "−0.090 ± 0.050" in weak.hovertext
    assert weak.line.color.endswith("0.30)")  # within two errors of nothing
    assert strong.line.color.endswith("0.80)")


def test_edges_that_are_counted_have_neither_sign_nor_port():
    run = make_run(n_layers=6, n_heads=3, members=5, method="overlap")
    run.edges = [edge.model_copy(update={"into": None, "score": 3.0}) for edge in run.edges]
    lines = [trace for trace in edge_plot(run, Scale.of(run)).data if trace.mode == "lines"]
    assert {trace.line.color for trace in lines} == {GREY}
    assert [trace.name for trace in lines if trace.name] == ["a pair of heads"]
    assert all(trace.hovertext.endswith(": 3") for trace in lines if trace.hovertext)


def test_nodes_and_edges_have_the_colour_of_their_sign():
    run = make_run(n_layers=6, n_heads=3, members=6, mlp_members=1)
    figure = edge_plot(run, Scale.of(run))
    effects = {part.site: part.effect for part in run.members}
    hue = {True: tuple(bytes.fromhex(BLUE[1:])), False: tuple(bytes.fromhex(ORANGE[1:]))}
    for [site], box in zip(figure.data[-1].customdata, figure.layout.shapes, strict=True):
        assert box.fillcolor.startswith("rgba({},{},{},".format(*hue[effects[site] > 0]))
    for line in _lines(figure):
        assert line.line.color.startswith("rgba({},{},{},".format(*hue[": +" in line.hovertext]))


def test_the_grid_has_a_row_of_mlps_on_the_heads_scale():
    run = make_run(n_layers=4, n_heads=3, members=2, mlp_members=1)
    _, outlines, heads, below, points = grid_plot(run, Scale.of(run), mlps=True).data
    assert len(outlines.x) == 6 * 3 and np.shape(below.z) == (1, 4) and np.abs(below.z).max() <= 1
    assert [site for [site] in points.customdata] == ["m0", "m1", "m2", "m3"] and points.text[0]
    assert len(heads.x) == 12 and heads.selectedpoints is None
    assert len(grid_plot(run, Scale.of(run)).data) == 3


def test_opacity_grows_with_size_and_ends_at_one():
    values = [circuit_figures.opacity(value, 2.0) for value in (0.0, 0.1, -0.5, 2.0, 5.0)]
    assert values == sorted(values) and values[0] == 0 and values[-1] == values[-2] == 1
    assert circuit_figures.opacity(None, 2.0) == 0 and circuit_figures.opacity(1.0, 0.0) == 0


def test_a_roc_curve_stands_on_its_null():
    points = [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    band, layer, curve = circuit_figures.roc_plot(points, [(0.0, 0.0), (1.0, 1.0)], 50, 100).data
    assert list(zip(curve.x, curve.y, strict=True)) == points and layer.x == (0.0, 1.0)
    middle = 1.96 * (0.25 * (1 / 50 + 1 / 100)) ** 0.5
    assert band.y[25] == pytest.approx(0.5 + middle) and band.y[51 + 25] == pytest.approx(0.5 - middle)


def test_numbers_and_tokens_are_written_for_readers():
    assert signed(-0.2996, 2) == "−0.30" and signed(0.001, 2) == "+0.00" and signed(-0.001, 2) == "+0.00"
    assert number(None, 2) == "–" and percent(0.71) == "71 %" and percent(-0.024) == "−2.4 %"
    assert [places(scale) for scale in (350, 3.4, 0.6, 0.0)] == [0, 2, 3, 2]
    assert token(" Mary") == "·Mary" and token("\n\t") == "↵⇥" and token("") == "∅"
    assert token("a\u202eb\x00\xa0") == "a\\u202eb\\u0000\\u00a0"
    assert token("abcdefgh", 5) == "abcd…"
