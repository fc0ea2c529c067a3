"""Figures of a circuit for the report and the workbench: a run in, plotly out.

Colours are half-tones that hold on a light and on a dark page, the sign as hue and the size as opacity. Plotly reads
a little HTML in labels: every token and name is escaped. ``ink`` is the colour of text that stands on a colour of the
figure's own; a report sets it in the browser.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from interp.circuits.circuit import Component, Edge
from interp.circuits.roles import ROLE_BAR
from interp.report import wording
from interp.report.style import BLUE, GREY, ORANGE, spread
from interp.report.wording import in_plot
from interp.runs.run import Run

EXPONENT = 0.6  # opacity = (|value| / largest) ** EXPONENT: a few large heads would otherwise hide all others
FAINT = 1e-3  # share of the largest strength from which on an edge is told
SMALL = 10
CHOSEN = "#dc325a"
MOST_TICKS = 36  # tokens that are named below a pattern; of more every other one, or fewer
_CELL = 22  # pixels of a row of heads


@dataclass(frozen=True)
class Scale:
    """The units of a run: the clean–corrupt gap, and the decimals of effects and of scores."""

    gap: float
    places: int
    score_places: int
    # largest_effect, largest_score: absolute values; the score is of a head
    largest_effect: float
    largest_score: float
    has_sign: bool  # whether the method's scores say if a head helps or hurts

    @classmethod
    def of(cls, run: Run) -> "Scale":
        gap = run.metric.gap
        counted = all(head.score.is_integer() for head in run.heads)
        largest_score = max(abs(head.score) for head in run.heads)
        return cls(
            gap=gap,
            places=max(2, wording.places(abs(gap))),
            score_places=0 if counted else max(2, wording.places(largest_score)),
            largest_effect=max((abs(part.effect or 0.0) for part in run.checked), default=0.0),
            largest_score=largest_score,
            has_sign=run.settings.signed,
        )

    def score(self, score: float) -> str:
        return (wording.signed if self.has_sign else wording.number)(score, self.score_places)

    def share(self, effect: float | None) -> float | None:
        return None if effect is None or self.gap == 0 else effect / self.gap

    def bar(self, effect: float) -> float:
        """Its size in percent of the largest."""
        return 100 * abs(effect) / self.largest_effect if self.largest_effect else 0.0


def roles_named(roles: dict[str, float]) -> list[tuple[str, float]]:
    """The roles that a head is called by, best first."""
    return sorted(((r, s) for r, s in roles.items() if s >= ROLE_BAR), key=lambda pair: -pair[1])


def effect_text(part: Component, scale: Scale) -> str:
    if part.effect is None:
        return "effect not checked"
    effect, low, high = (wording.signed(value, scale.places) for value in (part.effect, part.low, part.high))
    return f"effect {effect} [{low}, {high}], {wording.percent(scale.share(part.effect))} of the gap"


def tone(value: int | float, alpha: float) -> str:
    red, green, blue = (int((ORANGE if value < 0 else BLUE)[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:.2f})"


_NOTHING = "rgba(128,128,128,.08)"
_UNSIGNED = [[0, _NOTHING], [1, tone(1, 0.95)]]
_SIGNED = [[0, tone(-1, 0.95)], [0.5, _NOTHING], [1, tone(1, 0.95)]]


def opacity(value: int | float | None, largest: int | float) -> float:
    """How strong a value is drawn, in [0, 1]."""
    return min(1.0, abs(value) / largest) ** EXPONENT if value is not None and largest > 0 else 0.0


def grid_plot(
    run: Run, scale: Scale, ink: str | None = None, chosen: str | None = None, turn: int = 0, *, mlps: bool = False
) -> go.Figure:
    """Layers from left to right, a row a head: the score as colour, members outlined, checked heads numbered.

    The number is the exact effect in percent of the clean–corrupt gap.

    Args:
        chosen: the site that has a ring at first; clicks move it. ``None``: no head can be chosen.
        turn: stands in the ``customdata`` of every point, after its site.
        mlps: whether the MLPs that were scored are a last row.
    """
    heads = run.heads
    below = run.mlps if mlps else []
    n_layers, n_heads = run.shape
    shade = np.zeros((n_heads, n_layers))
    for head in heads:
        shade[head.head, head.layer] = _shade(head, scale)
    colours: dict[str, Any] = {
        "colorscale": _SIGNED if scale.has_sign else _UNSIGNED,
        "zmin": -1 if scale.has_sign else 0,
        "zmax": 1,
        "xgap": 1,
        "ygap": 1,
        "hoverinfo": "skip",
    }
    figure = go.Figure(go.Heatmap(z=shade, colorbar=_colorbar(scale), **colours))
    members: list[tuple[int, float]] = [(head.layer, head.head or 0) for head in heads if head.in_circuit]
    members += [(mlp.layer, n_heads + 0.3) for mlp in below if mlp.in_circuit]
    half = 0.47
    # squares around cells as one line with gaps: hundreds of shapes would take plotly a second
    figure.add_scatter(
        x=[x + dx for x, _ in members for dx in (-half, half, half, -half, -half, np.nan)],
        y=[y + dy for _, y in members for dy in (-half, -half, half, half, -half, np.nan)],
        mode="lines",
        line={"color": GREY, "width": 2},
        hoverinfo="skip",
        showlegend=False,
    )
    square = {"symbol": "square-open", "size": _CELL - 2, "color": CHOSEN, "line": {"width": 3}}

    def cells(parts: Sequence[Component], rows: Sequence[int | float], *, ring: bool) -> go.Scatter:
        shares = [scale.share(part.effect) for part in parts]
        return go.Scatter(
            x=[part.layer for part in parts],
            y=rows,
            customdata=[[part.site, turn] for part in parts],
            mode="markers+text",
            marker=square | {"opacity": int(ring)},
            text=["" if share is None else wording.number(100 * share, 0) for share in shares],
            textfont={"size": SMALL + 1, "color": ink},
            hovertext=[_hover_text(part, scale) for part in parts],
            hoverinfo="text",
            showlegend=False,
        )

    figure.add_trace(cells(heads, [head.head or 0 for head in heads], ring=chosen is not None))
    if chosen is not None:
        figure.data[-1].update(
            selectedpoints=[i for i, head in enumerate(heads) if head.site == chosen],
            selected={"marker": {"opacity": 1}, "textfont": {"color": ink}},
            unselected={"marker": {"opacity": 0}, "textfont": {"color": ink}},
        )
    if below:
        row = [_shade(mlp, scale) for mlp in below]
        edges = [n_heads - 0.2, n_heads + 0.8]
        figure.add_heatmap(z=[row], x=[mlp.layer for mlp in below], y=edges, showscale=False, **colours)
        figure.add_trace(cells(below, [n_heads + 0.3] * len(below), ring=False))
    bottom = n_heads - 0.45 + (1.3 if below else 0)
    ticks = {"tickmode": "linear", "dtick": 1 if n_layers <= 40 else 5, "tickangle": 0}
    figure.update_xaxes(title="layer", range=[-0.55, n_layers - 0.45], **ticks, **_plain_axis())
    rows = list(range(n_heads))
    figure.update_yaxes(
        title="head",
        tickvals=[*rows, n_heads + 0.3] if below else rows,
        ticktext=[*map(str, rows), "MLP"] if below else [*map(str, rows)],
        range=[bottom, -0.55],
        **_plain_axis(),
    )
    return finished(figure, 46 + _CELL * (max(n_heads, 4) + (1.3 if below else 0)), left=44)


def _shade(part: Component, scale: Scale) -> float:
    size = opacity(part.score, scale.largest_score)
    return float(np.sign(part.score)) * size if scale.has_sign else size


def _colorbar(scale: Scale) -> dict:
    """Ticks at values of the score, which the colour follows by a power."""
    shares = (-1, -0.25, 0, 0.25, 1) if scale.has_sign else (0, 0.1, 0.4, 1)
    digits = max(1, scale.score_places - 1) if scale.score_places else 0  # counts are whole
    written = wording.signed if scale.has_sign else wording.number
    return {
        "title": {"text": "score", "side": "right"},
        "thickness": 10,
        "outlinewidth": 0,
        "tickvals": [float(np.sign(share)) * abs(share) ** EXPONENT for share in shares],
        "ticktext": [written(share * scale.largest_score, digits) if share else "0" for share in shares],
        "tickfont": {"size": SMALL},
    }


def _hover_text(head: Component, scale: Scale) -> str:
    roles = ", ".join(f"{role} {value:.2f}" for role, value in roles_named(head.roles))
    text = f"{in_plot(head.site)}: score {scale.score(head.score)}<br>{effect_text(head, scale)}"
    return text + (f"<br>looks like {in_plot(roles)}" if roles else "")


def pattern_plot(
    pattern: Float[np.ndarray, "query key"], tokens: Sequence[str], roles: Mapping[int, str], ink: str | None = None
) -> go.Figure:
    """Attention from every token (rows) to every token (columns), weights from .05 on as numbers. ``pattern``: its rows
    are the last tokens, all of them or fewer. ``roles``: token index -> its role in the task."""
    n, queries = len(tokens), len(pattern)
    names = [_tick(text, roles.get(i)) for i, text in enumerate(tokens)]
    longest = max(len(re.sub("<[^>]*>|&[a-z]+;", "x", name)) for name in names)
    step = -(-n // MOST_TICKS)
    size = max(12, min(20, 420 // max(queries, 1)))
    figure = go.Figure(
        go.Heatmap(
            x=np.arange(n),
            y=np.arange(queries),
            z=np.where(pattern >= 0.005, pattern, np.nan) ** EXPONENT,
            zmin=0,
            zmax=1,
            colorscale=_UNSIGNED,
            showscale=False,
            xgap=1,
            ygap=1,
            text=[[_weight(float(weight)) for weight in row] for row in pattern] if n <= 24 else None,
            texttemplate="%{text}" if n <= 24 else None,
            textfont={"size": SMALL - 1, "color": ink},
            customdata=pattern,
            hovertemplate="%{y} → %{x}: %{customdata:.3f}<extra></extra>",
        )
    )
    axis = _plain_axis(SMALL - 1)
    keys = {"tickvals": np.arange(0, n, step), "ticktext": names[::step]}
    figure.update_xaxes(title="attends to", tickangle=-55, **keys, **axis)
    rows = {"tickvals": np.arange(queries), "ticktext": names[n - queries :]}
    figure.update_yaxes(title="from", range=[queries - 0.5, -0.5], **rows, **axis)
    below = 30 + 4.6 * longest
    return finished(figure, 4 + size * max(queries, 3) + below, left=30 + 5.4 * longest, bottom=below)


def _tick(text: str, role: str | None) -> str:
    shown = in_plot(wording.token(text, 11))
    return f"<b>{shown} {in_plot(wording.token(role, 8))}</b>" if role else shown


def code_plot(series: Mapping[str, Float[np.ndarray, " pair"]], metric: str) -> go.Figure:
    """The metric of every pair, one mark a series; pairs in the order of the first series."""
    order = np.argsort(-next(iter(series.values())), kind="stable")
    styles: tuple[dict[str, Any], ...] = (
        {"symbol": "circle", "color": BLUE},
        {"symbol": "circle", "color": ORANGE},
        {"symbol": "diamond", "color": CHOSEN, "size": 10},
        {"symbol": "x-thin-open", "color": GREY},
    )
    figure = go.Figure()
    for (name, values), style in zip(series.items(), styles, strict=True):
        figure.add_scatter(
            x=[str(i + 1) for i in order],
            y=values[order],
            name=name,
            mode="markers",
            marker={"size": 8, **style, "line": {"width": 2 if "open" in style["symbol"] else 0}},
            hovertemplate=f"pair %{{x}}: %{{y:.3f}}<extra>{in_plot(name)}</extra>",
        )
    figure.update_xaxes(title="pair", type="category", **_plain_axis())
    figure.update_yaxes(title=in_plot(metric), zeroline=True, zerolinecolor=GREY)
    return finished(figure, 300, top=28)


def _weight(weight: float) -> str:
    """From .05 on; without the 0 before the point."""
    return "" if weight < 0.05 else "1" if weight >= 0.995 else f"{weight:.2f}"[1:]


def scores_plot(
    x: Float[np.ndarray, "layer head"],
    y: Float[np.ndarray, "layer head"],
    groups: Mapping[str, Sequence[tuple[int, int]]],
    x_name: str,
    y_name: str,
) -> go.Figure:
    """Two values of every head against each other; heads of a named group stand out and the largest are labelled.
    ``groups``: name -> (layer, head), at most three; a head that is in none is grey."""
    named = [place for places in groups.values() for place in places]
    others = sorted(set(np.ndindex(x.shape)) - set(named))
    largest = sorted(named, key=lambda place: -abs(x[place]) - abs(y[place]))[:12]
    all_groups: dict[str, Sequence[tuple[int, ...]]] = {"other heads": others, **groups}
    figure = go.Figure()
    for (name, places), colour in zip(all_groups.items(), (GREY, BLUE, ORANGE, CHOSEN), strict=False):
        figure.add_scatter(
            x=[x[place] for place in places],
            y=[y[place] for place in places],
            name=in_plot(name),
            mode="markers+text",
            text=[f"{place[0]}.{place[1]}" if place in largest else "" for place in places],
            textposition="top center",
            textfont={"size": SMALL},
            marker={"color": colour, "size": 5 if name == "other heads" else 8},
            hovertext=[f"a{layer}.h{head}" for layer, head in places],
            hovertemplate="%{hovertext}: %{x:.3f}, %{y:.3f}<extra></extra>",
            cliponaxis=False,
        )
    figure.update_xaxes(title=in_plot(x_name), zeroline=True, zerolinecolor=GREY)
    figure.update_yaxes(title=in_plot(y_name), zeroline=True, zerolinecolor=GREY)
    return finished(figure, 380, top=28)


def _plain_axis(size: int = SMALL) -> dict:
    # margins are given: to find them plotly would draw every figure twice
    return {"showgrid": False, "zeroline": False, "ticks": "", "tickfont": {"size": size}, "automargin": False}


def finished(
    figure: go.Figure, height: int | float, *, left: int | float = 56, bottom: int | float = 40, top: int = 4
) -> go.Figure:
    """The figure with its size, and a legend above it where it has one."""
    margin = {"l": left, "r": 8, "t": top, "b": bottom}
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    return figure.update_layout(margin=margin, height=int(height), legend=legend, dragmode=False)


DRAWN = 30  # edges drawn at first, strongest first
_PORTS = {"q": -1, "k": 0, "v": 1, None: 0}
_WIDTH, _HEIGHT = 46.0, 22.0  # pixels of a node
_PITCH = 66.0  # pixels from layer to layer
_SPAN = 900.0  # width that nodes are spread over, at least; the figure shrinks it to the page's
_SWEEPS = 400


def strength(edge: Edge) -> float:
    """What an edge is drawn and ranked by: its effect where the method estimates that, else its score."""
    return edge.score if edge.error is None or edge.effect is None else edge.effect


def strength_text(edge: Edge, digits: int, *, signed: bool = True) -> str:
    """Strength with its standard error where it has one."""
    value = wording.signed(strength(edge), digits) if signed else wording.number(strength(edge), 0)
    return value if edge.error is None else f"{value} ± {edge.error:.{digits}f}"


def strongest_edges(run: Run) -> list[Edge]:
    """Edges between members, strongest first, down to a thousandth of the strongest.

    Of a method that measures effects those edges whose effect it estimated; what it only scored has another unit.
    What is smaller is mostly rounding, whose sign would be read as help or harm.
    """
    sites = {part.site for part in run.members}
    among = [edge for edge in run.edges if {edge.sender, edge.receiver} <= sites and strength(edge)]
    if measures_edges(among):
        among = [edge for edge in among if edge.error is not None]
    least = FAINT * max((abs(strength(edge)) for edge in among), default=0.0)
    return sorted((e for e in among if abs(strength(e)) >= least), key=lambda e: -abs(strength(e)))


def measures_edges(edges: Sequence[Edge]) -> bool:
    """Whether the method estimated effects of edges, or only scored them."""
    return any(edge.error is not None for edge in edges)


def edges_explained(run: Run, edges: Sequence[Edge]) -> str:
    """What the lines of :func:`edge_plot` are."""
    if run.edges_are_counts:
        width = "how many pairs of codes two heads have on clean prompts and on no corrupt one, which tells neither "
        width += "sign nor direction."
    elif measures_edges(edges):
        width = "the effect on the metric of what a head writes reaching another’s query, key or value, estimated by "
        width += "path patching. Blue helps, orange hurts, pale is within two standard errors of nothing."
    else:
        width = "the method’s |score|; no edge was patched. Blue helps, orange hurts."
    boxes = "Boxes: members, coloured by their effect. Edges below a thousandth of the strongest are left out."
    return f"Width: {width} {boxes}"


def edge_plot(
    run: Run, scale: Scale, ink: str | None = None, n: int = DRAWN, edges: Sequence[Edge] | None = None
) -> go.Figure:
    """Members as boxes coloured by their effect; edges by sign, as wide as they are strong, layers upwards.

    An edge that is within two standard errors of nothing is pale. ``edges``: the strongest first, the first ``n`` are
    drawn; ``None``: those of :func:`strongest_edges`.
    """
    nodes = sorted(run.members, key=lambda part: (part.layer, part.head or 0))
    drawn = (strongest_edges(run) if edges is None else edges)[:n]
    signed = not run.edges_are_counts
    columns = sorted({_column(node) for node in nodes})
    per_column = max(sum(_column(node) == column for node in nodes) for column in columns)
    span = max(_SPAN, (_WIDTH + 8) * per_column)  # a full layer does not fit into less
    across = zip(nodes, place_nodes(nodes, drawn, span), strict=True)
    xy = {node.site: (float(x), columns.index(_column(node)) * _PITCH) for node, x in across}
    figure = go.Figure()
    largest = abs(strength(drawn[0])) if drawn else 1.0
    digits = max(scale.places, wording.places(largest))
    for edge in reversed(drawn):
        figure.add_trace(_edge(edge, xy, largest, digits, signed))
    legend = {"helps": {"color": BLUE, "width": 3}, "hurts": {"color": ORANGE, "width": 3}} if signed else {}
    for port in [port for port in DASHES if port in {edge.into for edge in drawn}]:
        name = f"into {port}" if port else "into an MLP" if signed else "a pair of heads"
        legend[name] = {"color": GREY, "width": 2, "dash": DASHES[port]}
    for name, line in legend.items():
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=name, hoverinfo="skip")
    boxes = [
        {
            "type": "rect",
            **{"x0": x - _WIDTH / 2, "x1": x + _WIDTH / 2, "y0": y - _HEIGHT / 2, "y1": y + _HEIGHT / 2},
            "fillcolor": tone(node.effect or 0.0, 0.15 + 0.75 * opacity(node.effect, scale.largest_effect)),
            "line": {"color": GREY, "width": 1},
            "layer": "between",
        }
        for node, (x, y) in zip(nodes, xy.values(), strict=True)
    ]
    figure.update_layout(shapes=boxes, hovermode="closest")
    figure.add_scatter(
        x=[x for x, _ in xy.values()],
        y=[y for _, y in xy.values()],
        customdata=[[node.site] for node in nodes],
        mode="markers+text",
        marker={"symbol": "square", "size": 26, "opacity": 0},
        text=[in_plot(node.site.removeprefix("a").replace(".h", ".")) for node in nodes],
        textfont={"size": SMALL + 1, "color": ink},
        hovertext=[in_plot(f"{node.site}: {effect_text(node, scale)}") for node in nodes],
        hoverinfo="text",
        showlegend=False,
    )
    figure.update_xaxes(visible=False, range=[-_WIDTH, span + _WIDTH])
    names = [f"{layer} MLP" if is_mlp else str(layer) for layer, is_mlp in columns]
    ticks = {"tickvals": [i * _PITCH for i in range(len(columns))], "ticktext": names, "tickfont": {"size": SMALL}}
    grid = {"gridcolor": "rgba(128,128,128,.25)", "griddash": "dot", "zeroline": False}
    figure.update_yaxes(title="layer", range=[-_PITCH * 0.6, (len(columns) - 0.5) * _PITCH], **ticks, **grid)
    return finished(figure, 90 + min(44, _PITCH) * len(columns), left=50, bottom=4)


def _column(part: Component) -> tuple[int, bool]:
    """A layer's MLP comes after its heads."""
    return part.layer, part.is_mlp


def place_nodes(nodes: Sequence[Component], edges: Sequence[Edge], span: float) -> Float[np.ndarray, " node"]:
    """Places along a layer: edges pull their ends together and all to the middle, nodes in near layers push apart.

    Without the push an edge would run behind the nodes between its ends.
    """
    index = {node.site: i for i, node in enumerate(nodes)}
    columns = sorted({_column(node) for node in nodes})
    column = np.array([columns.index(_column(node)) for node in nodes])
    pull = np.zeros((len(nodes), len(nodes)))
    largest = max((abs(strength(edge)) for edge in edges), default=1.0)
    for edge in edges:
        i, j = index[edge.sender], index[edge.receiver]
        pull[i, j] += abs(strength(edge)) / largest
        pull[j, i] = pull[i, j]
    distance = np.abs(column[:, None] - column[None, :])
    push = np.where(distance <= 3, 1.0 / (1 + distance), 0.0)
    np.fill_diagonal(push, 0.0)
    low, high, reach = 14 + _WIDTH / 2, span - _WIDTH / 2 - 4, _WIDTH + 22
    x = np.random.default_rng(0).uniform(low, high, len(nodes))
    for sweep in range(_SWEEPS):
        gap = x[:, None] - x[None, :]
        away = np.sign(gap) * np.clip(reach - np.abs(gap), 0, None) * push
        toward = -gap * pull / np.maximum(pull.sum(1, keepdims=True), 1.0)
        moved = (away + 0.25 * toward).sum(1) + 0.06 * ((low + high) / 2 - x)
        x = np.clip(x + moved * 0.5 * (1 - sweep / _SWEEPS), low, high)
    if np.ptp(x) > 0:
        x = low + (high - low) * (x - x.min()) / np.ptp(x)
    for c in set(column):
        row = np.flatnonzero(column == c)
        row = row[np.argsort(x[row], kind="stable")]
        x[row] = spread(x[row], _WIDTH + 8, low, high)
    return x


DASHES = {"q": "solid", "k": "dash", "v": "dot", None: "longdash"}


def _edge(edge: Edge, xy: dict[str, tuple[float, float]], largest: float, digits: int, signed: bool) -> go.Scatter:
    (x0, y0), (x1, y1) = xy[edge.sender], xy[edge.receiver]
    y0, y1, x1 = y0 + _HEIGHT / 2, y1 - _HEIGHT / 2, x1 + _PORTS[edge.into] * _WIDTH / 3
    bend = max(0.35 * (y1 - y0), _PITCH / 3)
    steps = np.linspace(0, 1, 13)
    value = strength(edge)
    sure = edge.error is None or abs(value) >= 2 * edge.error
    into = f" ({edge.into})" if edge.into else ""
    patched = f", patched on {edge.measured} pairs" if edge.measured else ""
    colour = tone(value, 0.8 if sure else 0.3) if signed else GREY
    return go.Scatter(
        x=_bezier(steps, x0, x0, x1, x1),
        y=_bezier(steps, y0, y0 + bend, y1 - bend, y1),
        mode="lines",
        line={"width": 1 + 6 * abs(value) / largest, "color": colour, "dash": DASHES[edge.into]},
        hoverinfo="text",
        hovertext=in_plot(
            f"{edge.sender} → {edge.receiver}{into}: {strength_text(edge, digits, signed=signed)}{patched}"
        ),
        showlegend=False,
    )


def _bezier(t: np.ndarray, a: float, b: float, c: float, d: float) -> list[float]:
    s = 1 - t
    return (s**3 * a + 3 * s**2 * t * b + 3 * s * t**2 * c + t**3 * d).tolist()


def roc_plot(
    curve: Sequence[tuple[float, float]], layer_curve: Sequence[tuple[float, float]], n_positive: int, n_negative: int
) -> go.Figure:
    """ROC curve with what knows nothing of the task: the band of random rankings, and the layer's index.

    The band holds about 95 % of random rankings at each false positive rate: x ± 1.96 √(x(1−x)(1/P + 1/N)), which is
    too narrow near the ends where positives are few.
    """
    grid = np.linspace(0, 1, 51)
    half = 1.96 * np.sqrt(grid * (1 - grid) * (1 / n_positive + 1 / n_negative))
    figure = go.Figure()
    figure.add_scatter(
        x=[*grid, *grid[::-1]],
        y=np.clip([*(grid + half), *(grid - half)[::-1]], 0, 1),
        fill="toself",
        fillcolor="rgba(128,128,128,.2)",
        line={"width": 0},
        name="95 % of random rankings",
        hoverinfo="skip",
    )
    for points, name, line in (
        (layer_curve, "layer index alone", {"color": ORANGE, "width": 1.6, "dash": "dash"}),
        (curve, "this run, by |score|", {"color": BLUE, "width": 2.2}),
    ):
        x, y = zip(*points, strict=True)
        figure.add_scatter(x=x, y=y, mode="lines", line=line, name=name)
    figure.update_xaxes(title="false positive rate", range=[0, 1], dtick=0.5)
    figure.update_yaxes(title="true positive rate", range=[0, 1.01], dtick=0.5)
    return finished(figure, 350, top=60)
