"""Figures of the report as inline SVG: data in, markup out; every text is escaped on its way in.

Colours are CSS variables with the sign as hue and the size as opacity: one drawing serves light and dark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from interp.report.wording import token

EXPONENT = 0.6
"""Opacity = (|value| / largest) ** EXPONENT: a few large heads would otherwise hide all others."""

CSS = Markup("""
.pos{fill:var(--pos,#1a66ad)}.neg{fill:var(--neg,#bf5408)}
.edge{fill:none}.edge.pos{stroke:var(--pos,#1a66ad)}.edge.neg{stroke:var(--neg,#bf5408)}
.edge.counted{stroke:var(--grey,#8a9099)}
svg text{fill:var(--ink,#1b1f24);font:11px system-ui,sans-serif}svg .soft{fill:var(--soft,#5b6470)}
svg .small{font-size:9px}svg .on{paint-order:stroke;stroke:var(--paper,#fff);stroke-width:2.5px;stroke-linejoin:round}
.paper{fill:var(--paper,#fff)}.line{stroke:var(--line,#d5dae0);fill:none}
""")


def svg(
    width: int | float, height: int | float, label: str, body: Sequence[Markup], *, role: str = "img"
) -> Markup:
    """One SVG element, which also stands alone as a file."""
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" '
        'role="{role}" aria-label="{label}">{body}</svg>'
    ).format(w=short(width), h=short(height), role=role, label=label, body=Markup("").join(body))


@dataclass(frozen=True)
class Cell:
    """One component in the grid: ``value`` sets the colour (``None``: unknown), ``state`` the outline."""

    value: int | float | None
    title: str
    state: str = ""
    """``member``, ``checked`` or empty."""
    text: str = ""
    link: str = ""


def head_grid(rows: Mapping[str, Sequence[Cell]], largest: float, label: str) -> Markup:
    """Layers from left to right, one row a head, and a last row for MLPs where there are any.

    Args:
        rows: row name -> one cell a layer; the row ``MLP`` is set apart.
        largest: the absolute value that has the full colour.
    """
    n_layers = len(next(iter(rows.values())))
    left, top, height = 36.0, 8.0, 24.0
    width = min(56.0, max(27.0, 1006 / n_layers))
    body, outlines, y = [], [], top
    for name, cells in rows.items():
        if name == "MLP":
            y += 7
        body.append(text_at(left - 7, y + height / 2 + 4, name, "soft", anchor="end"))
        for layer, cell in enumerate(cells):
            drawn, outline = _cell(cell, left + layer * width, y, width, height, largest)
            body.append(drawn)
            outlines.append(outline)
        y += height
    step = 1 if width >= 27 and n_layers <= 40 else 5
    for layer in range(0, n_layers, step):
        body.append(text_at(left + (layer + 0.5) * width, y + 15, str(layer), "soft", anchor="middle"))
    body.append(text_at(left + n_layers * width / 2, y + 33, "layer", "soft", anchor="middle"))
    return svg(left + n_layers * width + 4, y + 40, label, [*body, *outlines], role="group")


def _cell(
    cell: Cell, x: float, y: float, width: float, height: float, largest: float
) -> tuple[Markup, Markup]:
    box = Markup('x="{}" y="{}" width="{}" height="{}"').format(
        short(x + 1), short(y + 1), short(width - 2), short(height - 2)
    )
    shade = opacity(cell.value, largest)
    known = "unknown" if cell.value is None else ("neg" if cell.value < 0 else "pos")
    parts = [
        Markup('<rect class="cell" {} rx="2"><title>{}</title></rect>').format(box, cell.title),
        Markup('<rect class="{}" {} rx="2" fill-opacity="{:.2f}" pointer-events="none"/>').format(
            known, box, shade
        ),
    ]
    if cell.text:
        parts.append(text_at(x + width / 2, y + height / 2 + 3.5, cell.text, "small on", anchor="middle"))
    drawn = Markup("").join(parts)
    if cell.link:
        drawn = Markup('<a href="#{}" aria-label="{}">{}</a>').format(cell.link, cell.title, drawn)
    outline = Markup("")
    if cell.state:
        outline = Markup('<rect class="{}" {} rx="2" pointer-events="none"/>').format(cell.state, box)
    return drawn, outline


def opacity(value: int | float | None, largest: int | float) -> float:
    """How strong a value is drawn, in [0, 1]."""
    if value is None or largest <= 0:
        return 0.0
    return min(1.0, abs(value) / largest) ** EXPONENT


_FAINT = ((0.01, 0.02), (0.02, 0.03), (0.03, 0.05))
_NAMED = 0.05
"""Attention from this weight on is a cell of its own, with its weight as the hover text."""


def attention_pattern(
    pattern: Float[np.ndarray, "query key"], tokens: Sequence[str], marked: Mapping[int, str], label: str
) -> Markup:
    """Attention from every token (rows) to every token (columns); weights below .01 are left out.

    Args:
        marked: token index -> its role in the task, written beside its tick.
    """
    n = len(tokens)
    size = min(19.0, max(11.0, 400 / n))
    ticks = [token(text, 11) for text in tokens]
    names = [f"{tick} {token(marked[i], 8)}" if i in marked else tick for i, tick in enumerate(ticks)]
    left = 14 + 6.6 * max(len(name) for name in names)
    top, side = 4.0, size * n
    body = [
        Markup('<path class="line" d="M{} {}V{}H{}"/>').format(
            *map(short, (left, top, top + side, left + side))
        )
    ]
    step = short(size)
    for low, high in _FAINT:
        found = np.argwhere((pattern >= low) & (pattern < high))
        path = "".join(
            f"M{short(left + k * size)} {short(top + q * size)}h{step}v{step}h-{step}z" for q, k in found
        )
        if path:
            body.append(
                Markup('<path class="pos" fill-opacity="{:.2f}" d="{}"/>').format(low**EXPONENT, path)
            )
    for q, k in np.argwhere(pattern >= _NAMED):
        weight = float(pattern[q, k])
        body.append(
            Markup(
                '<rect class="pos" x="{}" y="{}" width="{s}" height="{s}" fill-opacity="{:.2f}">'
                "<title>{} → {}: {:.2f}</title></rect>"
            ).format(
                short(left + k * size),
                short(top + q * size),
                min(1.0, weight) ** EXPONENT,
                names[q],
                names[k],
                weight,
                s=step,
            )
        )
    small = "" if size >= 13 else "small"
    for i, name in enumerate(names):
        tone = small if i in marked else f"soft {small}"
        middle = top + (i + 0.5) * size
        body.append(text_at(left - 5, middle + 3.5, name, tone, anchor="end"))
        x, y = left + (i + 0.5) * size + 3, top + side + 7
        body.append(
            Markup(
                '<text class="{}" text-anchor="end" transform="translate({} {}) rotate(-55)">{}</text>'
            ).format(tone, short(x), short(y), name)
        )
    below = 14 + 5.6 * max(len(name) for name in names)
    return svg(left + side + 6, top + side + below, label, body)


def roc_panel(
    curve: Sequence[tuple[float, float]],
    layer_curve: Sequence[tuple[float, float]],
    n_positive: int,
    n_negative: int,
    label: str,
) -> Markup:
    """ROC curve with what knows nothing of the task: the band of random rankings, and the layer's index.

    The band holds about 95 % of random rankings at each false positive rate: x ± 1.96 √(x(1−x)(1/P + 1/N)), which is
    too narrow near the ends where positives are few.
    """
    left, top, side = 40.0, 8.0, 250.0
    grid = np.linspace(0, 1, 51)
    spread = 1.96 * np.sqrt(grid * (1 - grid) * (1 / n_positive + 1 / n_negative))
    upper = list(zip(grid, np.clip(grid + spread, 0, 1), strict=True))
    lower = list(zip(grid, np.clip(grid - spread, 0, 1), strict=True))

    def path(points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{short(left + x * side)} {short(top + (1 - y) * side)}" for x, y in points)

    body = [
        Markup('<path class="band" d="{}Z"/>').format(path([*upper, *reversed(lower)])),
        Markup('<rect class="line" x="{}" y="{}" width="{s}" height="{s}"/>').format(left, top, s=side),
        Markup('<path class="diagonal" d="{}"/>').format(path([(0.0, 0.0), (1.0, 1.0)])),
        Markup('<path class="layer-curve" d="{}"><title>layer index</title></path>').format(
            path(layer_curve)
        ),
        Markup('<path class="roc" d="{}"/>').format(path(curve)),
    ]
    for tick in (0.0, 0.5, 1.0):
        body.append(text_at(left + tick * side, top + side + 15, f"{tick:g}", "soft", anchor="middle"))
        body.append(text_at(left - 6, top + (1 - tick) * side + 4, f"{tick:g}", "soft", anchor="end"))
    body.append(text_at(left + side / 2, top + side + 32, "false positive rate", "soft", anchor="middle"))
    body.append(
        Markup(
            '<text class="soft" text-anchor="middle" transform="translate(12 {}) rotate(-90)">'
            "true positive rate</text>"
        ).format(top + side / 2)
    )
    return svg(left + side + 14, top + side + 38, label, body)


def text_at(x: float, y: float, text: str, tone: str, *, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}" pointer-events="none">{}</text>').format(
        tone, short(x), short(y), anchor, text
    )


def short(value: int | float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
