"""Where an explanation's nodes and tokens stand in its picture: no two boxes overlap, and of many tokens those that
matter have room for their text."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.contrast.explanation import Why
from interp.contrast.prompts import common_length
from interp.contrast.words import label
from interp.models import parse_site

MOST_NODES = 12
WIDTH, GUTTER, EDGE = 760.0, 34.0, 8.0
"""Pixels of the picture, more only where so many tokens do not fit; left of the tokens; and around all."""
BOX, HEIGHT, GAP, BETWEEN = 140.0, 54.0, 10.0, 34.0
"""Width and height of a box, and what is between boxes of a layer, and of two layers."""
NARROW, TICK, WIDE = 12.0, 4.0, (20.0, 86.0)
"""Widths of tokens without nodes, upright, of those that have no room at all, and of others, least and most."""
CHARACTER, LINE, TOP, UPRIGHT = 6.4, 15.0, 64.0, 70.0
"""Of a letter's width, a line, what stands above the rows, and the longest upright token."""


@dataclass(frozen=True)
class Box:
    """Where a node stands; x is its middle, y its top, and ``column`` the middle of its token."""

    index: int
    x: float
    y: float
    column: float


@dataclass(frozen=True)
class Columns:
    """The middle and width of every token of A, whether its text lies flat or stands upright, and where all end."""

    middles: list[float]
    widths: list[float]
    flat: set[int]
    upright: bool
    end: float


def shown_nodes(explanation: Why, n: int) -> list[int]:
    """Places of the nodes that a picture of ``n`` has, in its order."""
    places, kept = range(len(explanation.nodes)), explanation.kept
    others = sorted(places[kept:], key=lambda i: -abs(explanation.nodes[i].effect))
    return [*places[:kept], *others][:n]


def b_beneath(explanation: Why) -> dict[int, str]:
    """What B has in the place of tokens of A, by their positions: of other lengths all of it at the first one."""
    a, b = explanation.tokens, explanation.tokens_b
    if len(a) == len(b):
        return {i: label(other) for i, (token, other) in enumerate(zip(a, b, strict=True)) if token != other}
    begin = common_length(a, b)
    end = common_length(a[begin:][::-1], b[begin:][::-1])
    return {begin: label("".join(b[begin : len(b) - end])) or "\u2205"}


def place_columns(explanation: Why, shown: Sequence[int]) -> Columns:
    nodes, tokens, beneath = explanation.nodes, explanation.tokens, b_beneath(explanation)
    flat = {len(tokens) - 1, *beneath, *(nodes[i].position for i in shown)}
    flat |= {nodes[i].looks_at[0][1] for i in shown if nodes[i].looks_at}
    room = WIDTH - GUTTER - EDGE
    needed = [width_of(label(token)) for token in tokens]
    flat_widths = {i: min(max(needed[i], width_of(beneath.get(i, "")), WIDE[0]) + 8, WIDE[1]) for i in flat}
    n_others = len(tokens) - len(flat)
    upright = sum(flat_widths.values()) + NARROW * n_others <= room
    if not upright:
        most = max((room - TICK * n_others) / len(flat), 1.5 * WIDE[0])
        flat_widths = {i: min(width, most) for i, width in flat_widths.items()}
    least = [flat_widths.get(i, NARROW if upright else TICK) for i in range(len(tokens))]
    shares = np.array([1.0 if i in flat else 0.5 for i in range(len(tokens))])
    boxes_at = Counter((nodes[i].position, parse_site(nodes[i].site).order) for i in shown)
    for (position, _), number in boxes_at.items():
        shares[position] = max(shares[position], 3 * number)
    widths = np.array(least) + max(room - sum(least), 0) * shares / shares.sum()
    if upright and (np.array(needed) + 4 <= widths).all():
        flat = set(range(len(tokens)))
    ends = GUTTER + np.cumsum(widths)
    return Columns((ends - widths / 2).tolist(), widths.tolist(), flat, upright, max(float(ends[-1]) + EDGE, WIDTH))


def place_boxes(explanation: Why, shown: Sequence[int], columns: Columns) -> tuple[list[Box], dict[str, float], float]:
    """Boxes, the top of each layer's row by its name, and where the lowest row ends.

    In a row nodes of one token stand side by side, the strongest at its token; what does not fit goes below.
    """
    nodes = explanation.nodes
    layers: dict[tuple[int, int], list[int]] = {}
    for i in shown:
        layers.setdefault(parse_site(nodes[i].site).order, []).append(i)
    boxes, rows, y = list[Box](), dict[str, float](), TOP
    low, high = GUTTER + BOX / 2, columns.end - EDGE - BOX / 2
    for layer in sorted(layers, reverse=True):
        rows[f"{'m' if layer[1] else 'a'}{layer[0]}"] = y
        lines: list[list[float]] = [[]]
        for i in sorted(layers[layer], key=lambda i: -abs(nodes[i].effect)):
            column = columns.middles[nodes[i].position]
            at = min(max(column, low), high)
            steps = [at + k * (BOX + GAP) for k in (0, -1, 1, -2, 2, -3, 3)]
            x, line = _free(lines, [x for x in steps if low <= x <= high])
            boxes.append(Box(i, x, y + line * (HEIGHT + GAP), column))
        y += len(lines) * (HEIGHT + GAP) - GAP + BETWEEN
    return boxes, rows, y - BETWEEN


def _free(lines: list[list[float]], steps: Sequence[float]) -> tuple[float, int]:
    """The first of some places that is free, on the first line that has one, and is then taken."""
    for number, taken in enumerate(lines):
        for x in steps:
            if all(abs(x - other) >= BOX + GAP for other in taken):
                taken.append(x)
                return x, number
    lines.append([steps[0]])
    return steps[0], len(lines) - 1


def width_of(text: str) -> float:
    """About so many pixels."""
    return CHARACTER * sum(1.8 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, width: float) -> str:
    if width_of(text) <= width:
        return text
    while text and width_of(text) > width - CHARACTER:
        text = text[:-1]
    return text + "\u2026"
