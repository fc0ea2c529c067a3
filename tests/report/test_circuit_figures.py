"""Plotly figures of a circuit: the numbers given, whole, and text that is only text."""

import re

import numpy as np
import pytest

from interp.circuits.circuit import Edge
from interp.report import circuit_figures
from interp.report.circuit_figures import Scale, edge_plot, grid_plot, pattern_plot, strongest_edges
from interp.report.page import token_bars
from tests.report.synthetic import make_run


def test_edges_of_rounding_and_of_strangers_are_not_told():
    run = make_run(n_layers=6, n_heads=3, members=3)
    a, b, c = (part.site for part in run.members)
    scores = {(a, b): 2.0, (a, c): -0.0021, (b, c): 0.0019, (a, "a0.h9"): 5.0}
    edges = [Edge(sender=u, receiver=v, into="q", score=score) for (u, v), score in scores.items()]
    run.edges = edges[::-1]
    assert [(edge.sender, edge.receiver) for edge in strongest_edges(run)] == [(a, b), (a, c)]


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


def _lines(figure) -> list:
    return [trace for trace in figure.data if trace.hovertext and "→" in str(trace.hovertext)]


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
    edges = strongest_edges(run)
    assert [circuit_figures.strength(edge) for edge in edges] == [0.23, -0.09]
    weak, strong = _lines(edge_plot(run, Scale.of(run)))
    assert (weak.line.width - 1) / (strong.line.width - 1) == pytest.approx(0.09 / 0.23)
    assert "+0.230 ± 0.030, patched on 3 pairs" in strong.hovertext and "−0.090 ± 0.050" in weak.hovertext


def test_the_grid_has_a_row_of_mlps_on_the_heads_scale():
    run = make_run(n_layers=4, n_heads=3, members=2, mlp_members=1)
    _, outlines, heads, below, points = grid_plot(run, Scale.of(run), mlps=True).data
    assert len(outlines.x) == 6 * 3 and np.shape(below.z) == (1, 4) and np.abs(below.z).max() <= 1
    assert [site for site, _turn in points.customdata] == ["m0", "m1", "m2", "m3"] and points.text[0]
    assert len(heads.x) == 12 and heads.selectedpoints is None
    assert len(grid_plot(run, Scale.of(run)).data) == 3
