"""Figures: what is drawn is what is given, and each stands alone as well-formed XML."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from interp.circuits.circuit import Edge
from interp.report.edge_graph import DRAWN, NODE_HEIGHT, Node, edge_graph
from interp.report.figures import Cell, attention_pattern, head_grid, opacity, roc_panel
from interp.report.wording import number, percent, places, signed, token
from tests.report.synthetic import EVIL

_NS = "{http://www.w3.org/2000/svg}"


def _titles(figure: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(figure).iter(f"{_NS}title")]


def test_grid_draws_every_cell_and_outlines_members_only():
    rows = {
        f"h{h}": [
            Cell(0.1 * layer - 0.2, f"a{layer}.h{h}", "member" if layer == h else "") for layer in range(5)
        ]
        for h in range(3)
    }
    figure = head_grid(rows, 0.2, "grid")
    assert sorted(_titles(figure)) == sorted(f"a{layer}.h{h}" for layer in range(5) for h in range(3))
    drawn = [element.get("class") for element in ElementTree.fromstring(figure).iter(f"{_NS}rect")]
    assert drawn.count("member") == 3
    assert drawn.count("neg") == 6 and drawn.count("pos") == 9


def test_opacity_grows_with_size_and_ends_at_one():
    values = [opacity(value, 2.0) for value in (0.0, 0.1, -0.5, 2.0, 5.0)]
    assert values == sorted(values) and values[0] == 0 and values[-1] == values[-2] == 1
    assert opacity(None, 2.0) == 0 and opacity(1.0, 0.0) == 0


def test_attention_cell_sits_at_its_query_and_key():
    pattern = np.zeros((4, 4))
    pattern[3, 1] = 0.7
    figure = ElementTree.fromstring(attention_pattern(pattern, ["a", "b", "c", "d"], {3: "END"}, "pattern"))
    cells = list(figure.iter(f"{_NS}rect"))
    assert [cell.find(f"{_NS}title").text for cell in cells] == ["d END → b: 0.70"]
    size = float(cells[0].get("width"))
    axis = re.match(r"M([\d.]+) ([\d.]+)V", figure.find(f"{_NS}path").get("d"))
    left, top = map(float, axis.groups())
    assert round((float(cells[0].get("x")) - left) / size, 1) == 1
    assert round((float(cells[0].get("y")) - top) / size, 1) == 3


def test_figures_escape_what_they_are_given():
    figures = [
        head_grid({EVIL: [Cell(1.0, EVIL, "member", EVIL, EVIL)]}, 1.0, EVIL),
        attention_pattern(np.eye(2), [EVIL, EVIL], {0: EVIL}, EVIL),
        roc_panel([(0.0, 0.0), (1.0, 1.0)], [(0.0, 0.0), (1.0, 1.0)], 2, 3, EVIL),
        edge_graph([Node("a0.h0", 0, 1.0, EVIL)], [], EVIL),
    ]
    for figure in figures:
        root = ElementTree.fromstring(figure)
        assert root.get("aria-label") == EVIL
        assert not list(root.iter(f"{_NS}script")) + list(root.iter(f"{_NS}img"))


def _members(n: int) -> list[Node]:
    rng = np.random.default_rng(1)
    chosen = rng.choice(30 * 9, n, replace=False)
    return [
        Node(f"a{p // 9}.h{p % 9}", int(p // 9), float(rng.normal()), f"a{p // 9}.h{p % 9}") for p in chosen
    ]


def _edges(nodes: list[Node]) -> list[Edge]:
    rng = np.random.default_rng(2)
    return [
        Edge(sender=a.site, receiver=b.site, into=into, score=float(rng.normal()))
        for a in nodes
        for b in nodes
        if a.layer < b.layer
        for into in "qkv"
    ]


@pytest.mark.parametrize("n", [1, 2, 14, 30])
def test_graph_draws_the_strongest_edges_and_no_node_on_another(n):
    nodes = _members(n)
    edges = sorted(_edges(nodes), key=lambda e: -abs(e.score))
    figure = ElementTree.fromstring(edge_graph(nodes, edges, "graph"))
    titles = [element.text for element in figure.iter(f"{_NS}title")]
    strongest = edges[:DRAWN]
    for edge in strongest:
        assert f"{edge.sender} → {edge.receiver} ({edge.into}): {edge.score:+.3g}" in titles
    assert len(titles) == len(nodes) + len(strongest)
    boxes = [
        (float(rect.get("x")), float(rect.get("y")))
        for rect in figure.iter(f"{_NS}rect")
        if rect.get("class") == "paper"
    ]
    height = float(figure.get("height"))
    for i, (x, y) in enumerate(boxes):
        assert 0 <= x <= float(figure.get("width")) and 0 <= y <= height - NODE_HEIGHT
        assert not [1 for other in boxes[:i] if abs(other[0] - x) < 1 and abs(other[1] - y) < NODE_HEIGHT]


def test_graph_chosenlater_layers_further_right_and_is_the_same_each_time():
    nodes = sorted(_members(14), key=lambda node: node.layer)
    figure = edge_graph(nodes, _edges(nodes), "graph")
    assert figure == edge_graph(nodes, _edges(nodes), "graph")
    x = [
        float(rect.get("x"))
        for rect in ElementTree.fromstring(figure).iter(f"{_NS}rect")
        if rect.get("class") == "paper"
    ]
    assert x == sorted(x)


def test_edges_and_nodes_have_the_colour_of_their_sign():
    nodes = [Node("a0.h0", 0, 2.0, "up"), Node("a1.h0", 1, -1.0, "down"), Node("m2", 2, 1.0, "end")]
    edges = [
        Edge(sender="a0.h0", receiver="m2", into=None, score=0.5),
        Edge(sender="a1.h0", receiver="m2", into=None, score=-0.3),
    ]
    figure = ElementTree.fromstring(edge_graph(nodes, edges, "graph"))
    lines = {
        line.find(f"{_NS}title").text: line.get("class") for line in figure.iter(f"{_NS}path") if len(line)
    }
    assert lines == {"a0.h0 → m2: +0.5": "edge pos", "a1.h0 → m2: -0.3": "edge neg"}
    boxes = {
        link.get("aria-label"): [rect.get("class") for rect in link.iter(f"{_NS}rect")][1]
        for link in figure.iter(f"{_NS}a")
    }
    assert boxes == {"up": "pos", "down": "neg", "end": "pos"}
    grey = ElementTree.fromstring(edge_graph(nodes, edges, "graph", signed=False))
    assert {line.get("class") for line in grey.iter(f"{_NS}path") if len(line)} == {"edge counted"}


def test_roc_curve_runs_from_corner_to_corner():
    figure = ElementTree.fromstring(
        roc_panel([(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)], [(0.0, 0.0), (1.0, 1.0)], 5, 10, "roc")
    )
    path = next(p.get("d") for p in figure.iter(f"{_NS}path") if p.get("class") == "roc")
    points = [tuple(map(float, point.split())) for point in path[1:].split("L")]
    (x0, y0), corner, (x1, y1) = points
    assert corner == (x0, y1) and x1 > x0 and y1 < y0


def test_numbers_are_written_for_readers():
    assert signed(-0.2996, 2) == "−0.30" and signed(0.001, 2) == "+0.00" and signed(-0.001, 2) == "+0.00"
    assert number(None, 2) == "–" and percent(0.71) == "71 %" and percent(-0.024) == "−2.4 %"
    assert [places(scale) for scale in (350, 3.4, 0.6, 0.0)] == [0, 2, 3, 2]


def test_tokens_show_their_white_space_and_no_control_characters():
    assert token(" Mary") == "·Mary" and token("\n\t") == "↵⇥" and token("") == "∅"
    assert token("a\u202eb\x00\xa0") == "a\\u202eb\\u0000\\u00a0"
    assert token("abcdefgh", 5) == "abcd…"
