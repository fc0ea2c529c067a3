"""An explanation as a picture: tokens of A from left to right, layers upwards, nodes in boxes, arrows between them.

The SVG needs nothing else, follows the theme of who looks, and holds no text that is not escaped. Of tokens, those with
nodes, those looked at and those in which the prompts differ have room for their text; the others stand upright.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from interp.contrast.explanation import Arrow, Why, WhyNode
from interp.contrast.prompts import common_length
from interp.contrast.words import MINUS, about, curves, headline, label, signed
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


BOLD = 1.25  # so many times as wide bold text is
STYLE = """
.why{color:#1f2328;--ground:#fff;--for:#2f76b8;--against:#c4661f;font:11px system-ui,sans-serif}
@media(prefers-color-scheme:dark){.why{color:#e6e6e6;--ground:#16181d;--for:#5fa8e8;--against:#f0994d}}
.why text{fill:currentColor;stroke:none}.why .strong{font-weight:600;font-size:12px}.why .weak{opacity:.75}
.why .for{color:var(--for)}.why .against{color:var(--against)}.why .ground{fill:var(--ground)}
.why .tint{fill:currentColor}.why .frame{fill:none;stroke:currentColor}.why .arrow{fill:none;stroke:currentColor}
.why .guide{stroke:currentColor;opacity:.16}.why .look{fill:none;stroke:currentColor;opacity:.5;stroke-dasharray:1 3}
.why .head{fill:currentColor;stroke:none}.why .against .arrow{stroke-dasharray:6 3}
"""


def svg(explanation: Why, n: int = MOST_NODES) -> str:
    """The picture with at most ``n`` nodes: the kept ones first, then those of the largest effects.

    The group of a node has its place in ``explanation.nodes`` as ``data-node``.
    """
    nodes, shown = explanation.nodes, shown_nodes(explanation, n)
    columns = place_columns(explanation, shown)
    boxes, rows, floor = place_boxes(explanation, shown, columns)
    beneath = b_beneath(explanation)
    standing = [label(token) for i, token in enumerate(explanation.tokens) if i not in columns.flat]
    upright = max(map(width_of, standing), default=0.0)
    tokens_high = max(2.2 * LINE, min(upright, UPRIGHT) if columns.upright else 0) + 10
    height = floor + BETWEEN + tokens_high + 2 * LINE + EDGE
    at = {box.index: box for box in boxes}
    largest = max((abs(nodes[i].effect) for i in shown), default=0.0) or 1.0
    arrows = [x for x in explanation.arrows or [] if {x.sender, x.receiver} <= at.keys()]
    widest = max((abs(x.direct) for x in arrows), default=0.0) or 1.0
    at_nodes = [columns.middles[i] for i in sorted({nodes[i].position for i in shown})]
    beside = [(box, box.y + HEIGHT / 2) for box in boxes if abs(box.x - box.column) > BOX / 2]
    parts = [
        *(_guide(x, TOP - 12, x, floor + BETWEEN) for x in at_nodes),
        *(_text("weak", EDGE, y + HEIGHT / 2 + 4, row) for row, y in rows.items()),
        *(_look(nodes[box.index], box, columns, floor + BETWEEN) for box in boxes),
        *(_guide(box.x, y, box.column, y) for box, y in beside),
        *(_arrow(x, at, nodes, widest) for x in arrows),
        *(_node(explanation, box, largest) for box in boxes),
        *_tokens(explanation, columns, beneath, floor + BETWEEN),
        *_answers(explanation, columns),
        *_legend(floor + BETWEEN + tokens_high + LINE, explanation, len(shown)),
    ]
    head = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="why" viewBox="0 0 {w:.0f} {h:.0f}" width="{w:.0f}" '
        'height="{h:.0f}" role="group" aria-label="Heads at tokens and the arrows between them"><style>{style}</style>'
    ).format(w=columns.end, h=height, style=Markup(STYLE))
    return str(head + Markup("\n").join(parts) + Markup("</svg>"))


def _text(look: str, x: float, y: float, text: str, anchor: str = "start", title: str = "") -> Markup:
    tooltip = Markup("<title>{}</title>").format(title) if title else ""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}{}</text>').format(
        look, x, y, anchor, text, tooltip
    )


def _guide(x0: float, y0: float, x1: float, y1: float) -> Markup:
    line = '<line class="guide" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    return Markup(line).format(x0, y0, x1, y1)


def _look(node: WhyNode, box: Box, columns: Columns, floor: float) -> Markup:
    """From a node to the token that it looks at most."""
    if not node.looks_at:
        return Markup("")
    x, y = columns.middles[node.looks_at[0][1]], box.y + HEIGHT
    return Markup(
        '<path class="look" d="M{x0:.1f} {y:.1f}C{x0:.1f} {m:.1f} {x:.1f} {m:.1f} {x:.1f} {floor:.1f}"/>'
    ).format(x0=box.x - BOX / 4, x=x, y=y, m=(y + floor) / 2, floor=floor)


def _arrow(arrow: Arrow, boxes: Mapping[int, Box], nodes: Sequence[WhyNode], widest: float) -> Markup:
    """From the top of a box to the bottom of another one; past other rows at their left sides."""
    begin, end = boxes[arrow.sender], boxes[arrow.receiver]
    near = begin.y - end.y < HEIGHT + GAP + BETWEEN + 1 or abs(begin.x - end.x) > 1.5 * BOX
    if near:
        (x0, y0), (x1, y1) = (begin.x, begin.y), (end.x, end.y + HEIGHT + 7)
        curve = f"C{x0:.1f} {(y0 + y1) / 2:.1f} {x1:.1f} {(y0 + y1) / 2:.1f} {x1:.1f} {y1:.1f}"
        tip = f"M{x1 - 5:.1f} {y1:.1f}h10l-5 -7z"
        middle = (x0 + x1) / 2, (y0 + y1) / 2
    else:
        (x0, y0), (x1, y1) = (begin.x - BOX / 2, begin.y + 14), (end.x - BOX / 2 - 7, end.y + HEIGHT - 14)
        bend = max(min(x0, x1) - 16 - 0.1 * (y0 - y1), 4)
        curve = f"C{bend:.1f} {y0:.1f} {bend:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
        tip = f"M{x1:.1f} {y1 - 5:.1f}v10l7 -5z"
        middle = 0.125 * (x0 + x1) + 0.75 * bend, (y0 + y1) / 2
    tooltip = (
        f"{nodes[arrow.sender]} \u2192 {nodes[arrow.receiver]}\ndirect {signed(arrow.direct)}, in all "
        f"{signed(arrow.total)} logits"
    )
    mark = Markup("")
    if arrow.detour:
        tooltip += f"\n{arrow.detour}"
        mark = Markup('<circle class="ground" cx="{:.1f}" cy="{:.1f}" r="8"/>').format(*middle)
        mark += _text("strong", middle[0], middle[1] + 4, "\u2260", "middle")
    place = f"{arrow.sender}-{arrow.receiver}"
    return Markup(
        '<g class="{}" data-arrow="{}"><title>{}</title><path class="arrow" stroke-width="{:.1f}" '
        'd="M{:.1f} {:.1f}{}"/><path class="head" d="{}"/>{}</g>'
    ).format(_sign(arrow.direct), place, tooltip, 1 + 4 * abs(arrow.direct) / widest, x0, y0, curve, tip, mark)


def _node(explanation: Why, box: Box, largest: float) -> Markup:
    node, kept = explanation.nodes[box.index], box.index < explanation.kept
    share, left, room = abs(node.effect) / largest, box.x - BOX / 2, BOX - 12
    looks = ""
    if node.looks_at:
        token, _, part = node.looks_at[0]
        end = f" {part:.0%}"
        looks = "sees " + cut(label(token), room - width_of("sees " + end)) + end
    writes = (("\u2191", node.raises), ("\u2193", node.lowers))
    written = [f"{sign}{cut(label(words[0]), room / 2 - 12)}" for sign, words in writes if words]
    name = f"{node.site}\u2002{signed(node.effect)}"
    token = cut(label(node.token), room - BOLD * width_of(name) - 4)
    lines = [
        _text("strong", left + 7, box.y + 16, name),
        _text("weak", left + BOX - 7, box.y + 16, token, "end"),
        _text("weak", left + 7, box.y + 31, looks),
        _text("weak", left + 7, box.y + 46, " ".join(written)),
    ]
    return Markup(
        '<g class="node{}" data-node="{}"><title>{}</title><g class="{}"><rect class="ground" x="{x:.1f}" y="{y:.1f}" '
        'width="{w}" height="{h}" rx="7"/><rect class="tint" x="{x:.1f}" y="{y:.1f}" width="{w}" height="{h}" rx="7" '
        'opacity="{tint:.2f}"/><rect class="frame" x="{x:.1f}" y="{y:.1f}" width="{w}" height="{h}" rx="7" '
        'stroke-width="{line:.1f}"/></g>{lines}</g>'
    ).format(
        " kept" if kept else "",
        box.index,
        about(explanation, box.index),
        _sign(node.effect),
        x=left,
        y=box.y,
        w=BOX,
        h=HEIGHT,
        tint=0.12 + 0.3 * share if kept else 0,
        line=1 + 1.5 * share,
        lines=Markup("").join(lines),
    )


def _tokens(explanation: Why, columns: Columns, beneath: Mapping[int, str], floor: float) -> list[Markup]:
    parts = [_text("strong", EDGE, floor + LINE, "A")]
    if beneath:
        parts.append(_text("strong", EDGE, floor + 2 * LINE, "B"))
    for i, (token, x) in enumerate(zip(explanation.tokens, columns.middles, strict=True)):
        text, room, title = label(token), columns.widths[i] - 3, f"{i} {token!r}"
        if i in columns.flat:
            parts.append(_text("", x, floor + LINE, cut(text, room), "middle", title))
        elif columns.upright:
            turned = Markup('<g transform="translate({:.1f} {:.1f})rotate(90)">{}</g>')
            flat = _text("weak", 0.0, 0.0, cut(text, UPRIGHT), title=title)
            parts.append(turned.format(x - 4, floor + 5, flat))
        else:
            tick = Markup(
                '<rect class="tint" opacity=".3" x="{:.1f}" y="{:.1f}" width="2" height="9"><title>{}</title></rect>'
            )
            parts.append(tick.format(x - 1, floor + 6, title))
        if i in beneath:
            parts.append(_text("strong against", x, floor + 2 * LINE, cut(beneath[i], room), "middle"))
    return parts


def _answers(explanation: Why, columns: Columns) -> list[Markup]:
    """At the top of END: both answers with their probabilities after A and B."""
    parts, width = list[Markup](), 186
    box = Markup('<g class="{}"><rect class="frame" x="{:.1f}" y="8" width="{}" height="26" rx="13"/>{}</g>')
    for name, look, sign, place in (("answer", "for", "+", 2), ("instead", "against", MINUS, 1)):
        answer = explanation.answers[name]
        x = columns.end - EDGE - place * width + GAP
        numbers = f"\u2003A {answer['a']:.0%}\u2002B {answer['b']:.0%}"
        text = cut(label(answer["token"]), (width - GAP - 36) / BOLD - width_of(numbers)) + numbers
        title = f"{answer['token']!r}: {answer['a']:.1%} after A, {answer['b']:.1%} after B"
        parts.append(box.format(look, x, width - GAP, _text("strong", x + 12, 25.0, f"{sign} {text}", title=title)))
    return parts


def _legend(y: float, explanation: Why, n: int) -> list[Markup]:
    rest = len(explanation.nodes) - n
    lines = (
        "Filled: kept. Number: by so many logits A's difference falls with B's value there. Dotted: looks at most.",
        "Arrow: direct effect by width, dashed where negative; \u2260 where other paths halve or double it."
        + (f" {rest} more nodes are not shown." if rest else ""),
    )
    return [_text("weak", EDGE, y + i * LINE, line) for i, line in enumerate(lines)]


def _sign(value: float) -> str:
    return "for" if value >= 0 else "against"


def page(explanation: Why) -> str:
    """One self-contained HTML file: sentences, picture, nodes, curve, notes."""
    by_name = curves(explanation)
    sizes = sorted({row.nodes for rows in by_name.values() for row in rows})
    lines = []
    for name, rows in by_name.items():
        restored = {row.nodes: f"{row.restored:z.0%}" for row in rows}
        lines.append((name, *(restored.get(size, "") for size in sizes)))
    drawn = Markup(svg(explanation))
    return _template().render(why=explanation, headline=headline(explanation), svg=drawn, sizes=sizes, curves=lines)


@cache
def _template() -> Template:
    """Everything put into it is escaped, and a name that it lacks is an error."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"label": label, "signed": signed, "percent": "{:.0%}".format}
    return environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
