"""The picture: valid, whole and legible whatever tokens say and however many there are."""

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest

from interp.contrast.picture import STYLE, WIDTH, page, shown_nodes, svg
from interp.contrast.words import signed
from tests.contrast.synthetic import EVIL, make_why

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = [
    {"n_tokens": 5, "n_nodes": 1},
    {"n_tokens": 14, "n_nodes": 20, "mlps": True, "seed": 1},
    {"n_tokens": 40, "n_nodes": 12, "longer": 2, "seed": 2},
    {"n_tokens": 200, "n_nodes": 40, "seed": 3},
    {"n_tokens": 4, "n_nodes": 0},
]


def rect_of(element) -> tuple[float, ...]:
    return tuple(float(element.get(name)) for name in ("x", "y", "width", "height"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [3, 12, 40])
def test_every_shown_node_and_arrow_is_there_and_no_boxes_overlap(shape, n):
    explanation = make_why(**shape)
    root = ElementTree.fromstring(svg(explanation, n))
    shown = shown_nodes(explanation, n)
    assert len(shown) == min(n, len(explanation.nodes)) and len(set(shown)) == len(shown)
    groups = {int(group.get("data-node")): group for group in root.iter(f"{SVG}g") if group.get("data-node")}
    assert groups.keys() == set(shown)
    arrows = {group.get("data-arrow") for group in root.iter(f"{SVG}g")} - {None}
    assert arrows == {f"{x.sender}-{x.receiver}" for x in explanation.arrows if {x.sender, x.receiver} <= set(shown)}
    width, height = (float(root.get(name)) for name in ("width", "height"))
    assert width >= WIDTH and (shape["n_tokens"] > 40 or width == WIDTH)
    boxes = {i: rect_of(next(group.iter(f"{SVG}rect"))) for i, group in groups.items()}
    for x, y, w, h in boxes.values():
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
    for (x, y, w, h), (x2, y2, w2, h2) in combinations(boxes.values(), 2):
        assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
    layers = {i: int(explanation.nodes[i].site[1]) for i in boxes}
    for i, j in combinations(boxes, 2):
        if layers[i] < layers[j]:
            assert boxes[i][1] > boxes[j][1]
    for i, group in groups.items():
        node = explanation.nodes[i]
        assert ("kept" in group.get("class")) == (i < explanation.kept)
        texts = [text.text for text in group.iter(f"{SVG}text")]
        assert texts[0] == f"{node.site}\u2002{signed(node.effect)}"
    assert min(float(size) for size in re.findall(r"(\d+)px", STYLE)) >= 11


def test_what_tokens_say_is_no_markup_in_the_picture_nor_the_page():
    explanation = make_why(longer=1, mlps=True)
    drawn, html = svg(explanation), page(explanation)
    titles = {element.text for element in ElementTree.fromstring(drawn).iter(f"{SVG}title")}
    assert any(repr(EVIL[0]) in title for title in titles)
    for text in (drawn, html):
        assert not re.search(r"<script|<!--|\x07|\u202e", text)
    assert html.count("</title>") == drawn.count("</title>") + 1
    body = html[html.index("<body>") : html.index("</html>")].replace("<p></p>", "")
    ElementTree.fromstring(body)  # every element is closed
    assert "default-src 'none'" in html.replace("&#39;", "'")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(", html)
