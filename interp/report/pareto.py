"""Quality against cost: a point a method and number of pairs, and the front that nothing beats at its price."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from interp.report.figures import short, svg, text_at
from interp.report.plots import spread

LEFT, TOP, WIDTH, HEIGHT = 48.0, 12.0, 640.0, 360.0
NAMES = 210.0
"""Room for the methods' names at the right."""
LINE = 14.0
"""Least distance between two names."""


@dataclass(frozen=True)
class Point:
    """A method with so many pairs.

    Attributes:
        cost: forward passes; 0 is drawn at the left edge.
        yardstick: drawn hollow, and not part of the front: what no method is expected to pass.
    """

    name: str
    n: int
    cost: float
    quality: float
    yardstick: bool = False


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats at their cost or less, cheapest first; the yardstick is none of them.

    Of points that are level in both, all are on the front.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.quality)):
        if point.yardstick:
            continue
        last = front[-1] if front else None
        if (
            last is None
            or point.quality > last.quality
            or (point.cost, point.quality) == (last.cost, last.quality)
        ):
            front.append(point)
    return front


def pareto_figure(points: Sequence[Point], quality: str, label: str) -> Markup:
    """Cost on a logarithmic axis, quality upwards from the worst point; one line a method, fewest pairs first."""
    costs = [p.cost for p in points if p.cost > 0] or [1.0]
    low, high = math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs)) + 1e-9)
    high = max(high, low + 1)
    bottom = math.floor(10 * max(0.0, min(p.quality for p in points))) / 10

    def place(point: Point) -> tuple[float, float]:
        along = (math.log10(point.cost) - low) / (high - low) if point.cost > 0 else 0.0
        return LEFT + along * WIDTH, TOP + (1 - (point.quality - bottom) / (1 - bottom or 1)) * HEIGHT

    front = pareto_front(points)
    steps = "".join(
        f"{'M' if i == 0 else 'H'}{short(x)}{' ' if i == 0 else 'V'}{short(y)}"
        for i, (x, y) in enumerate(map(place, front))
    )
    body = [*_axes(low, high, bottom, quality), Markup('<path class="front" d="{}"/>').format(steps)]
    by_name: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda p: p.n):
        by_name.setdefault(point.name, []).append(point)
    ends = sorted((place(its[-1])[1], name) for name, its in by_name.items())
    heights = spread([y for y, _ in ends], LINE, TOP, TOP + HEIGHT)
    for (_, name), y in zip(ends, heights, strict=True):
        body += _method(by_name[name], place, y, front)
    return svg(LEFT + WIDTH + NAMES, TOP + HEIGHT + 40, label, body, role="group")


def _axes(low: int, high: int, bottom: float, quality: str) -> list[Markup]:
    body = [
        Markup('<path class="line" d="M{} {}V{}H{}"/>').format(
            *map(short, (LEFT, TOP, TOP + HEIGHT, LEFT + WIDTH))
        )
    ]
    for power in range(low, high + 1):
        x = LEFT + (power - low) / (high - low) * WIDTH
        body.append(
            text_at(
                x,
                TOP + HEIGHT + 15,
                f"{10**power:,}" if power >= 0 else f"{10**power:g}",
                "soft",
                anchor="middle",
            )
        )
    for i in range(6):
        value = bottom + (1 - bottom) * i / 5
        y = TOP + (1 - i / 5) * HEIGHT
        body.append(Markup('<path class="line" d="M{} {}h{}"/>').format(short(LEFT), short(y), short(WIDTH)))
        body.append(text_at(LEFT - 7, y + 4, f"{value:.2f}", "soft", anchor="end"))
    body.append(text_at(LEFT + WIDTH / 2, TOP + HEIGHT + 33, "forward passes", "soft", anchor="middle"))
    middle = short(TOP + HEIGHT / 2)
    body.append(
        Markup(
            '<text class="soft" text-anchor="middle" transform="translate(12 {}) rotate(-90)">{}</text>'
        ).format(middle, quality)
    )
    return body


def _method(points: Sequence[Point], place, y_name: float, front: Sequence[Point]) -> list[Markup]:
    def tone_of(best: bool) -> str:
        return "yardstick" if points[0].yardstick else "best" if best else "other"

    tone = tone_of(points[-1] in front)  # the name stands beside the last point
    spots = [place(point) for point in points]
    path = "M" + "L".join(f"{short(x)} {short(y)}" for x, y in spots)
    edge = LEFT + WIDTH + 8
    x_end, y_end = spots[-1]
    body = [
        Markup('<path class="way {}" d="{}"/>').format(tone, path),
        Markup('<path class="leader" d="M{} {}L{} {}"/>').format(
            *map(short, (x_end + 6, y_end, edge, y_name))
        ),
        text_at(edge + 4, y_name + 4, points[0].name, "" if tone == "best" else "soft", anchor="start"),
    ]
    for point, (x, y) in zip(points, spots, strict=True):
        title = f"{point.name}, {point.n} pairs: {point.quality:.3f} for {point.cost:,.0f} forward passes"
        body.append(
            Markup('<circle class="dot {}" cx="{}" cy="{}" r="4.5"><title>{}</title></circle>').format(
                tone_of(point in front), short(x), short(y), title
            )
        )
    return body
