"""Figures of a circuit for a page that draws with plotly: data in, figure out.

Colours are half-tones that hold on a light and on a dark page, the sign as hue and the size as opacity; ``ink`` is
the page's colour of text, for what stands on them. Plotly reads a little HTML in labels: every token and name is
escaped.

The edges among a circuit's members as a plotly figure: layers from bottom to top, edges into q, k or v.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from interp.circuits.circuit import Component, Edge
from interp.report import wording
from interp.report.components import Scale, effect_text, roles_named
from interp.report.edge_graph import Node, place_nodes
from interp.report.figures import EXPONENT, opacity
from interp.report.plots import BLUE, GREY, ORANGE
from interp.report.wording import in_plot
from interp.runs.run import Run

SMALL = 10
CHOSEN = "#dc325a"
MOST_TICKS = 36
"""Tokens that are named below a pattern; of more every other one, or fewer."""
_CELL = 22
"""Pixels of a row of heads."""


def tone(value: int | float, alpha: float) -> str:
    """The colour of a sign."""
    red, green, blue = (int((ORANGE if value < 0 else BLUE)[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:.2f})"


_NOTHING = "rgba(128,128,128,.08)"
_UNSIGNED = [[0, _NOTHING], [1, tone(1, 0.95)]]
_SIGNED = [[0, tone(-1, 0.95)], [0.5, _NOTHING], [1, tone(1, 0.95)]]


def grid_plot(run: Run, scale: Scale, ink: str, chosen: str = "", turn: int = 0) -> go.Figure:
    """Layers from left to right, a row a head: the score as colour, members outlined and numbered.

    A member's number is its exact effect in percent of the clean–corrupt gap. Each head has one selectable point; the
    one that is selected has a ring.

    Args:
        chosen: the site that is selected at first.
        turn: stands in the ``customdata`` of every point, after its site.
    """
    heads, (n_layers, n_heads) = run.heads, run.shape
    shade = np.zeros((n_heads, n_layers))
    for head in heads:
        size = opacity(head.score, scale.largest_score)
        shade[head.head, head.layer] = np.sign(head.score) * size if scale.has_sign else size
    figure = go.Figure(
        go.Heatmap(
            z=shade,
            colorscale=_SIGNED if scale.has_sign else _UNSIGNED,
            zmin=-1 if scale.has_sign else 0,
            zmax=1,
            xgap=1,
            ygap=1,
            hoverinfo="skip",
            colorbar=_colorbar(scale),
        )
    )
    members = [(head.layer, head.head) for head in heads if head.in_circuit]
    figure.add_trace(_outlines(members, GREY, 1.5))
    figure.add_trace(
        go.Scatter(
            x=[head.layer for head in heads],
            y=[head.head for head in heads],
            customdata=[[head.site, turn] for head in heads],
            selectedpoints=[i for i, head in enumerate(heads) if head.site == chosen],
            mode="markers+text",
            marker={"symbol": "square-open", "size": _CELL - 2, "color": CHOSEN, "line": {"width": 3}},
            selected={"marker": {"opacity": 1}, "textfont": {"color": ink}},
            unselected={"marker": {"opacity": 0}, "textfont": {"color": ink}},
            text=[_number(head, scale) for head in heads],
            textfont={"size": SMALL + 1, "color": ink},
            hovertext=[_said(head, scale) for head in heads],
            hoverinfo="text",
            showlegend=False,
        )
    )
    step = 1 if n_layers <= 40 else 5
    figure.update_xaxes(
        title="layer",
        tickmode="linear",
        dtick=step,
        range=[-0.55, n_layers - 0.45],
        **_plain_axis(),
        tickangle=0,
    )
    figure.update_yaxes(
        title="head", tickmode="linear", dtick=1, range=[n_heads - 0.45, -0.55], **_plain_axis()
    )
    return _finished(figure, 46 + _CELL * max(n_heads, 4), left=40)


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


def _number(head: Component, scale: Scale) -> str:
    share = scale.share(head.effect)
    return wording.number(100 * share, 0) if head.in_circuit and share is not None else ""


def _said(head: Component, scale: Scale) -> str:
    roles = ", ".join(f"{role} {value:.2f}" for role, value in roles_named(head.roles))
    text = f"{in_plot(head.site)}: score {scale.score(head.score)}<br>{effect_text(head, scale)}"
    return text + (f"<br>looks like {in_plot(roles)}" if roles else "")


def pattern_plot(
    pattern: Float[np.ndarray, "query key"], tokens: Sequence[str], roles: Mapping[int, str], ink: str
) -> go.Figure:
    """Attention from every token (rows) to every token (columns), weights from .05 on as numbers.

    Args:
        pattern: its rows are the last tokens, all of them or fewer.
        roles: token index -> its role in the task.
    """
    n, queries = len(tokens), len(pattern)
    names = [_tick(text, roles.get(i)) for i, text in enumerate(tokens)]
    longest = max(len(re.sub("<[^>]*>|&[a-z]+;", "x", name)) for name in names)
    step = -(-n // MOST_TICKS)
    shown = np.where(pattern >= 0.005, pattern, np.nan) ** EXPONENT
    size = max(12, min(20, 420 // max(queries, 1)))
    figure = go.Figure(
        go.Heatmap(
            z=shown,
            zmin=0,
            zmax=1,
            colorscale=_UNSIGNED,
            showscale=False,
            xgap=1,
            ygap=1,
            text=[[_weight(float(weight)) if weight >= 0.05 else "" for weight in row] for row in pattern]
            if n <= 24
            else None,
            texttemplate="%{text}" if n <= 24 else None,
            textfont={"size": SMALL - 1, "color": ink},
            customdata=pattern,
            hovertemplate="%{y} → %{x}: %{customdata:.3f}<extra></extra>",
            x=np.arange(n),
            y=np.arange(queries),
        )
    )
    figure.update_xaxes(
        title="attends to",
        tickvals=np.arange(0, n, step),
        ticktext=names[::step],
        tickangle=-55,
        **_plain_axis(SMALL - 1),
    )
    figure.update_yaxes(
        title="from",
        tickvals=np.arange(queries),
        ticktext=names[n - queries :],
        range=[queries - 0.5, -0.5],
        **_plain_axis(SMALL - 1),
    )
    below = 30 + 4.6 * longest
    return _finished(figure, 4 + size * max(queries, 3) + below, left=30 + 5.4 * longest, bottom=below)


def _tick(text: str, role: str | None) -> str:
    shown = in_plot(wording.token(text, 11))
    return f"<b>{shown} {in_plot(wording.token(role, 8))}</b>" if role else shown


def code_plot(series: Mapping[str, Float[np.ndarray, " pair"]], metric: str) -> go.Figure:
    """The metric of every pair, one mark a series; pairs in the order of the first series."""
    order = np.argsort(-next(iter(series.values())), kind="stable")
    styles = (
        {"symbol": "circle", "color": BLUE},
        {"symbol": "circle", "color": ORANGE},
        {"symbol": "diamond", "color": CHOSEN, "size": 10},
        {"symbol": "x-thin-open", "color": GREY},
    )
    figure = go.Figure()
    for (name, values), style in zip(series.items(), styles, strict=True):
        figure.add_trace(
            go.Scatter(
                x=[str(i + 1) for i in order],
                y=values[order],
                name=name,
                mode="markers",
                marker={"size": 8, **style, "line": {"width": 2 if "open" in style["symbol"] else 0}},
                hovertemplate=f"pair %{{x}}: %{{y:.3f}}<extra>{in_plot(name)}</extra>",
            )
        )
    figure.update_xaxes(title="pair", type="category", **_plain_axis())
    figure.update_yaxes(title=in_plot(metric), zeroline=True, zerolinecolor=GREY)
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    return _finished(figure, 300, top=28)


def _weight(weight: float) -> str:
    return "1" if weight >= 0.995 else f"{weight:.2f}"[1:]


def scores_plot(
    x: Float[np.ndarray, "layer head"],
    y: Float[np.ndarray, "layer head"],
    groups: Mapping[str, Sequence[tuple[int, int]]],
    x_name: str,
    y_name: str,
) -> go.Figure:
    """Two values of every head against each other; heads of a named group stand out and the largest are labelled.

    Args:
        groups: name -> (layer, head), at most three; a head that is in none is grey.
    """
    named = [place for places in groups.values() for place in places]
    inside = set(named)
    others = [place for place in np.ndindex(x.shape) if place not in inside]
    colours = (BLUE, ORANGE, CHOSEN)
    figure = go.Figure()
    far = sorted(named, key=lambda place: -abs(x[place]) - abs(y[place]))[:12]
    every = {"other heads": (others, GREY)}
    every |= {
        name: (places, colour)
        for (name, places), colour in zip(groups.items(), colours[: len(groups)], strict=True)
    }
    for name, (places, colour) in every.items():
        figure.add_trace(
            go.Scatter(
                x=[x[place] for place in places],
                y=[y[place] for place in places],
                name=in_plot(name),
                mode="markers+text",
                text=[f"{place[0]}.{place[1]}" if place in far else "" for place in places],
                textposition="top center",
                textfont={"size": SMALL},
                marker={"color": colour, "size": 5 if name == "other heads" else 8},
                hovertext=[f"a{layer}.h{head}" for layer, head in places],
                hovertemplate="%{hovertext}: %{x:.3f}, %{y:.3f}<extra></extra>",
                cliponaxis=False,
            )
        )
    figure.update_xaxes(title=in_plot(x_name), zeroline=True, zerolinecolor=GREY)
    figure.update_yaxes(title=in_plot(y_name), zeroline=True, zerolinecolor=GREY)
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    return _finished(figure, 380, top=28)


def _outlines(places: Sequence[tuple[int, int]], colour: str, width: float) -> go.Scatter:
    """Squares around cells as one line with gaps: hundreds of shapes would take plotly a second."""
    half = 0.47
    return go.Scatter(
        x=[x + dx for x, _ in places for dx in (-half, half, half, -half, -half, np.nan)],
        y=[y + dy for _, y in places for dy in (-half, -half, half, half, -half, np.nan)],
        mode="lines",
        line={"color": colour, "width": width},
        hoverinfo="skip",
        showlegend=False,
    )


def _plain_axis(size: int = SMALL) -> dict:
    # margins are given: to find them plotly would draw every figure twice
    return {
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "tickfont": {"size": size},
        "automargin": False,
    }


def _finished(
    figure: go.Figure, height: int | float, *, left: int | float = 56, bottom: int | float = 40, top: int = 4
) -> go.Figure:
    margin = {"l": left, "r": 8, "t": top, "b": bottom}
    figure.update_layout(margin=margin, height=int(height), dragmode=False)
    return figure


DRAWN = 30
"""Edges drawn at first, largest absolute score first."""
_PORTS = {"q": -1, "k": 0, "v": 1, None: 0}
_WIDTH, _HEIGHT = 46.0, 22.0
"""Pixels of a node."""
_PITCH = 66.0
"""Pixels from layer to layer."""
_SPAN = 900.0
"""Width that nodes are spread over, at least; the figure shrinks it to the page's."""


def edge_plot(
    nodes: Sequence[Node], edges: Sequence[Edge], ink: str, n: int = DRAWN, *, signed: bool = True
) -> go.Figure:
    """Members as boxes coloured by their effect; edges by sign, as wide as their score is large.

    Args:
        edges: largest first; their ends are nodes. The first ``n``
            are drawn.
        ink: the page's colour of text.
        signed: whether the sign of a score says if an edge helps; if not, all are grey.
    """
    drawn = edges[:n]
    columns = sorted({node.column for node in nodes})
    per_column = max(sum(node.column == column for node in nodes) for column in columns)
    span = max(_SPAN, (_WIDTH + 8) * per_column)  # a full layer does not fit into less
    across = place_nodes(nodes, drawn, columns, span, _WIDTH)
    where = {
        node.site: (float(x), columns.index(node.column) * _PITCH)
        for node, x in zip(nodes, across, strict=True)
    }
    figure = go.Figure()
    largest = abs(drawn[0].score) if drawn else 1.0
    for edge in reversed(drawn):
        figure.add_trace(_edge(edge, where, largest, signed))
    _legend(figure, {edge.into for edge in drawn}, signed)
    most = max(abs(node.effect) for node in nodes)
    figure.update_layout(shapes=[_box(node, *where[node.site], most) for node in nodes])
    places = [where[node.site] for node in nodes]
    figure.add_trace(
        go.Scatter(
            x=[x for x, _ in places],
            y=[y for _, y in places],
            mode="markers+text",
            marker={"symbol": "square", "size": 26, "opacity": 0},
            text=[in_plot(node.name) for node in nodes],
            textfont={"size": SMALL + 1, "color": ink},
            hovertext=[in_plot(node.title) for node in nodes],
            hoverinfo="text",
            showlegend=False,
        )
    )
    figure.update_xaxes(visible=False, range=[-_WIDTH, span + _WIDTH])
    figure.update_yaxes(
        title="layer",
        tickvals=[i * _PITCH for i in range(len(columns))],
        ticktext=[f"{layer} MLP" if is_mlp else str(layer) for layer, is_mlp in columns],
        gridcolor="rgba(128,128,128,.25)",
        griddash="dot",
        zeroline=False,
        tickfont={"size": SMALL},
        range=[-_PITCH * 0.6, (len(columns) - 0.5) * _PITCH],
    )
    figure.update_layout(
        margin={"l": 4, "r": 4, "t": 4, "b": 4},
        height=int(90 + min(44, _PITCH) * len(columns)),
        dragmode=False,
        legend={"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0},
        hovermode="closest",
    )
    return figure


def _box(node: Node, x: float, y: float, most: float) -> dict:
    return {
        "type": "rect",
        **{"x0": x - _WIDTH / 2, "x1": x + _WIDTH / 2, "y0": y - _HEIGHT / 2, "y1": y + _HEIGHT / 2},
        "fillcolor": tone(node.effect, 0.15 + 0.75 * opacity(node.effect, most)),
        "line": {"color": GREY, "width": 1},
        "layer": "between",
    }


DASHES = {"q": "solid", "k": "dash", "v": "dot", None: "longdash"}


def _edge(edge: Edge, where: dict[str, tuple[float, float]], largest: float, signed: bool) -> go.Scatter:
    (x0, y0), (x1, y1) = where[edge.sender], where[edge.receiver]
    y0, y1, x1 = y0 + _HEIGHT / 2, y1 - _HEIGHT / 2, x1 + _PORTS[edge.into] * _WIDTH / 3
    bend = max(0.35 * (y1 - y0), _PITCH / 3)
    ways = [t / 12 for t in range(13)]
    share = abs(edge.score) / largest
    into = f" ({edge.into})" if edge.into else ""
    return go.Scatter(
        x=[_bezier(t, x0, x0, x1, x1) for t in ways],
        y=[_bezier(t, y0, y0 + bend, y1 - bend, y1) for t in ways],
        mode="lines",
        line={
            "width": 1 + 5 * share,
            "color": tone(edge.score, 0.4 + 0.5 * share) if signed else GREY,
            "dash": DASHES[edge.into],
        },
        hoverinfo="text",
        hovertext=in_plot(f"{edge.sender} → {edge.receiver}{into}: {edge.score:{'+.3g' if signed else 'g'}}"),
        showlegend=False,
    )


def _bezier(t: float, a: float, b: float, c: float, d: float) -> float:
    s = 1 - t
    return s**3 * a + 3 * s**2 * t * b + 3 * s * t**2 * c + t**3 * d


def _legend(figure: go.Figure, ports: set[str | None], signed: bool) -> None:
    lines = (
        [("helps", {"color": BLUE, "width": 3}), ("hurts", {"color": ORANGE, "width": 3})] if signed else []
    )
    lines += [
        (f"into {name}" if name else "into an MLP" if signed else "a pair of heads", _dashed(dash))
        for name, dash in DASHES.items()
        if name in ports
    ]
    for name, line in lines:
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", line=line, name=name, hoverinfo="skip"))


def _dashed(dash: str) -> dict:
    return {"color": GREY, "width": 2, "dash": dash}
