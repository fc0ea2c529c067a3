"""Quality against cost, or against prompt pairs, as a plotly figure whose names stand beside their lines."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from interp.report.bench_rows import LOWER_IS_BETTER, TITLES, MethodRow
from interp.report.pareto import Point, pareto_front
from interp.report.plots import BLUE, GREY, layout, spread
from interp.report.wording import in_plot

HEIGHT, NAMES, LABEL = 460, 200, 16.0
"""Pixels: of the figure, of the room for names at the right, between two names."""
COST, PAIRS = "forward passes", "prompt pairs"
_PLOT = HEIGHT - 54


def bench_plot(rows: Sequence[MethodRow], metric: str, along: str = COST) -> go.Figure:
    """One line a method, fewest pairs first; bars reach from the least to the largest seed.

    Blue are points that none passes at their cost or less; the yardstick is hollow, controls are crosses.

    Args:
        along: ``COST`` or ``PAIRS``.
    """
    rows = [row for row in rows if metric in row.values and (along == PAIRS or "forwards" in row.values)]
    cost = {id(row): _cost(row, along) for row in rows}
    positive = [value for value in cost.values() if value > 0] or [1.0]
    edge = min(positive) / 2
    low, high = math.log10(edge), math.log10(max(positive) * 1.15)
    if high - low < 0.5:
        high = low + 0.5
    front = _front(rows, metric, cost)
    by_method: dict[str, list[MethodRow]] = {}
    for row in sorted(rows, key=lambda row: row.n):
        by_method.setdefault(row.method, []).append(row)
    figure = go.Figure()
    for method, its in sorted(
        by_method.items(), key=lambda entry: any((entry[0], r.n) in front for r in entry[1])
    ):
        on_front = [(method, row.n) in front for row in its]
        figure.add_trace(_line(method, its, metric, [max(cost[id(row)], edge) for row in its], on_front))
    least, largest = _bounds(rows, metric)
    _names(figure, by_method, metric, cost, edge, high, (least, largest), front)
    ticks = _ticks(edge, 10**high) if along == COST else sorted({float(row.n) for row in rows if row.n})
    none = min(cost.values(), default=1.0) == 0
    figure.update_xaxes(
        type="log",
        range=[low - 0.05, high],
        title=along,
        tickvals=[*([edge] if none else []), *ticks],
        ticktext=[
            *(["0"] if none else []),
            *(f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks),
        ],
    )
    title = TITLES[metric] + (" (lower is better)" if metric in LOWER_IS_BETTER else "")
    figure.update_yaxes(title=title, range=[least, largest], zeroline=False)
    return layout(figure, height=HEIGHT, left=60, right=NAMES)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers above the left edge: 1, 2, 5, 10, …, or only powers of ten over a long way."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) <= 4 else (1,)
    return [step * 10.0**p for p in powers for step in steps if low * 1.3 < step * 10.0**p <= high]


def _cost(row: MethodRow, along: str) -> float:
    return float(row.n) if along == PAIRS else row.values["forwards"].mean


def _front(rows: Sequence[MethodRow], metric: str, cost: dict[int, float]) -> set[tuple[str, int]]:
    sign = -1 if metric in LOWER_IS_BETTER else 1
    points = [
        Point(row.method, row.n, cost[id(row)], sign * row.values[metric].mean, row.kind != "method")
        for row in rows
    ]
    return {(point.name, point.n) for point in pareto_front(points)}


def _bounds(rows: Sequence[MethodRow], metric: str) -> tuple[float, float]:
    values = [row.values[metric] for row in rows]
    ends = [end for value in values for end in (value.mean, value.least, value.largest) if end is not None]
    least, largest = min(ends, default=0.0), max(ends, default=1.0)
    margin = 0.04 * (largest - least or 1.0)
    return least - margin, largest + margin


def _line(
    method: str, rows: Sequence[MethodRow], metric: str, x: Sequence[float], on_front: Sequence[bool]
) -> go.Scatter:
    kind, values = rows[0].kind, [row.values[metric] for row in rows]
    colour = [BLUE if best else GREY for best in on_front]
    symbol = {"yardstick": "circle-open", "control": "x-thin-open", "method": "circle"}[kind]
    known = all(value.least is not None for value in values)
    return go.Scatter(
        x=x,
        y=[value.mean for value in values],
        name=in_plot(method),
        mode="lines+markers",
        line={"color": GREY, "width": 1.4, "dash": "dot" if kind == "yardstick" else "solid"},
        marker={"size": 9, "color": colour, "symbol": symbol, "line": {"width": 1.8, "color": colour}},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [value.largest - value.mean for value in values],
            "arrayminus": [value.mean - value.least for value in values],
            "thickness": 1,
            "width": 0,
            "color": GREY,
        }
        if known
        else None,
        text=[f"{row.n} pairs" for row in rows],
        hovertemplate="%{fullData.name}, %{text}: %{y:.3f}<extra></extra>",
    )


def _names(
    figure: go.Figure,
    by_method: dict[str, list[MethodRow]],
    metric: str,
    cost: dict[int, float],
    edge: float,
    right: float,
    bounds: tuple[float, float],
    front: set[tuple[str, int]],
) -> None:
    """A method's name at the right, a thin line from it to the method's last point."""
    least, largest = bounds
    ends = sorted((its[-1].values[metric].mean, method) for method, its in by_method.items())
    heights = spread([y for y, _ in ends], LABEL * (largest - least) / _PLOT, least, largest)
    for (y, method), height in zip(ends, heights, strict=True):
        last = by_method[method][-1]
        figure.add_annotation(
            x=math.log10(max(cost[id(last)], edge)),
            y=y,
            ax=right + 0.03 * (right - math.log10(edge)),
            ay=float(height),
            axref="x",
            ayref="y",
            xanchor="left",
            text=f"<b>{in_plot(method)}</b>" if (method, last.n) in front else in_plot(method),
            align="left",
            arrowhead=0,
            arrowwidth=0.7,
            arrowcolor="rgba(128,128,128,.55)",
            standoff=6,
        )
