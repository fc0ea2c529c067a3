"""Plotly figures of a circuit: the numbers given, whole, and text that is only text."""

import itertools
import re

import numpy as np
import pytest

from interp.circuits.circuit import Edge
from interp.report.circuit_plots import code_plot, edge_plot, grid_plot, pattern_plot, scores_plot
from interp.report.components import Scale, edge_figure, edges_told, member_nodes
from interp.report.edge_graph import Node, edge_graph
from interp.report.plots import GREY
from interp.report.token_bars import token_bars
from interp.report.wording import signed
from tests.report.synthetic import EVIL, make_run


def test_a_method_without_signs_has_one_hue():
    run = make_run(n_layers=4, n_heads=3, members=2, method="overlap")
    run.settings.signed = False
    for head in run.heads:
        head.score = abs(head.score)
    grid = grid_plot(run, Scale.of(run), "black").data[0]
    assert grid.zmin == 0 and len(grid.colorscale) == 2 and grid.z.max() == pytest.approx(1)


def test_the_colour_bar_names_the_scores_that_colours_stand_for():
    run = make_run(n_layers=4, n_heads=3, members=2)
    scale = Scale.of(run)
    bar = grid_plot(run, scale, "black").data[0].colorbar
    assert bar.ticktext[-1] == signed(scale.largest_score, 1) and bar.tickvals[-1] == 1
    assert bar.tickvals[3] == pytest.approx(0.25**0.6)


def test_the_colour_bar_of_counts_has_whole_numbers_without_signs():
    run = make_run(n_layers=4, n_heads=3, members=2, method="overlap")
    run.settings.signed = False
    for place, head in enumerate(run.heads):
        head.score = float(2 * place)
    bar = grid_plot(run, Scale.of(run), "black").data[0].colorbar
    assert bar.ticktext == ("0", "2", "9", "22")


def test_edges_of_rounding_and_of_strangers_are_not_told():
    run = make_run(n_layers=6, n_heads=3, members=3)
    a, b, c = (part.site for part in run.members)
    scores = {(a, b): 2.0, (a, c): -0.0021, (b, c): 0.0019, (a, "a0.h9"): 5.0}
    run.edges = [
        Edge(sender=sender, receiver=receiver, into="q", score=score)
        for (sender, receiver), score in reversed(scores.items())
    ]
    assert [(edge.sender, edge.receiver) for edge in edges_told(run)] == [(a, b), (a, c)]
    assert "0.0019" not in edge_figure(run, Scale.of(run))


@pytest.mark.parametrize("n", [3, 24])
def test_no_node_of_a_plot_lies_on_another(n):
    nodes = [Node(f"a2.h{head}", 2, 1.0, "") for head in range(n)] + [Node("m3", 3, 1.0, "")]
    boxes = edge_plot(nodes, [], "black").layout.shapes[:n]
    left = sorted(box.x0 for box in boxes)
    width = boxes[0].x1 - boxes[0].x0
    assert all(right - here >= width for here, right in itertools.pairwise(left))


def test_a_pattern_marks_roles_and_takes_the_last_rows_of_long_prompts():
    pattern = (np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]).astype(np.float32)  # as of a model
    figure = pattern_plot(pattern, ["a", " b", "<i>", "d"], {2: "S<"}, "black")
    assert figure.layout.xaxis.ticktext == ("a", "·b", "<b>&lt;i&gt; S&lt;</b>", "d")
    assert [list(row) for row in figure.data[0].text[:2]] == [["1", "", "", ""], [".50", ".50", "", ""]]
    end = pattern_plot(pattern[-1:], ["a", " b", "c", "d"], {}, "black")
    assert end.layout.yaxis.ticktext == ("d",)


def test_tokens_have_bars_by_their_amount():
    text = token_bars([("up <", [("x", 2.0), ("<b>", 1.0)]), ("down", [("z", -3.0)])])
    assert re.findall(r"width:([\d.]+)%", text) == ["66.7", "33.3", "100.0"]
    assert re.findall(r">([+−][\d.]+)<", text) == ["+2.00", "+1.00", "−3.00"]
    assert "up &lt;" in text and "&lt;b&gt;" in text and not re.search(r"<(?!/?(?:div|span)\b)", text)
    assert "width" not in token_bars([("up", [])])


def test_pairs_are_in_the_order_of_the_first_series():
    series = {
        name: np.array(values)
        for name, values in {"a": [1.0, 3.0], "b": [2.0, 0.5], "c": [0, 0], "d": [1, 1]}.items()
    }
    figure = code_plot(series, "m<")
    assert figure.data[0].x == ("2", "1") and list(figure.data[1].y) == [0.5, 2.0]
    assert figure.layout.yaxis.title.text == "m&lt;"


def test_every_head_is_in_one_group_of_scores():
    x, y = np.arange(6.0).reshape(2, 3), -np.arange(6.0).reshape(2, 3)
    figure = scores_plot(x, y, {"in <both>": [(0, 1)], "only here": [(1, 2)]}, "x", "y")
    assert [trace.name for trace in figure.data] == ["other heads", "in &lt;both&gt;", "only here"]
    assert [len(trace.x) for trace in figure.data] == [4, 1, 1]
    assert figure.data[2].hovertext == ("a1.h2",) and figure.data[2].x[0] == 5 and figure.data[2].y[0] == -5


def test_edges_end_at_their_input_and_grow_with_the_layer():
    run = make_run(n_layers=6, n_heads=3, members=5, mlp_members=1)
    nodes = member_nodes(run, Scale.of(run))
    figure = edge_plot(nodes, edges_told(run), "black", n=7)
    lines = [trace for trace in figure.data if trace.hovertext and "→" in str(trace.hovertext)]
    assert len(lines) == 7
    strongest = max(run.edges, key=lambda edge: abs(edge.score))
    widest = max(lines, key=lambda trace: trace.line.width)
    assert f"{strongest.sender} → {strongest.receiver}" in widest.hovertext.replace("&gt;", ">")
    boxes = {node.site: shape for node, shape in zip(nodes, figure.layout.shapes, strict=True)}
    assert all(line.y[0] < line.y[-1] for line in lines)
    start, end = boxes[strongest.sender], boxes[strongest.receiver]
    assert start.x0 < widest.x[0] < start.x1 and widest.y[0] == start.y1
    assert end.x0 < widest.x[-1] < end.x1 and widest.y[-1] == end.y0


def test_edges_that_are_counted_have_neither_sign_nor_port():
    run = make_run(n_layers=6, n_heads=3, members=5)
    counted = [edge.model_copy(update={"into": None, "score": 3.0}) for edge in run.edges]
    figure = edge_plot(member_nodes(run, Scale.of(run)), counted, "black", signed=False)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert {trace.line.color for trace in lines} == {GREY}
    assert [trace.name for trace in lines if trace.name] == ["a pair of heads"]
    drawn = edge_graph(member_nodes(run, Scale.of(run)), counted, "edges", signed=False)
    assert 'class="edge counted"' in drawn and "edge pos" not in drawn and "+3" not in drawn


def test_no_figure_holds_markup_of_a_run():
    run = make_run(n_layers=4, n_heads=3, members=3, evil=True)
    for head in run.heads:
        head.roles = {EVIL: 0.9}
    example = run.examples[0]
    roles = {position: role for role, position in example.positions.items()}
    for figure in (
        grid_plot(run, Scale.of(run), "black"),
        pattern_plot(run.pattern(run.circuit.heads[0].site), example.clean, roles, "black"),
        edge_plot(member_nodes(run, Scale.of(run)), run.edges, "black"),
    ):
        text = figure.to_json().replace("\\u003c", "<")
        assert "<script" not in text and "<img" not in text
