"""The edges among a circuit's members as a plotly figure: layers from bottom to top, edges into q, k or v."""

from collections.abc import Sequence

import plotly.graph_objects as go

from interp.report.circuit_plots import SMALL, tone
from interp.report.edge_graph import Node, place_nodes
from interp.report.figures import opacity
from interp.report.plot_style import BLUE, GREY, ORANGE
from interp.report.wording import in_plot

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
    nodes: Sequence[Node], edges: Sequence[dict], ink: str, n: int = DRAWN, *, signed: bool = True
) -> go.Figure:
    """Members as boxes coloured by their effect; edges by sign, as wide as their score is large.

    Args:
        edges: ``from``, ``to``, ``into``, ``score``, as in a run, largest first; their ends are nodes. The first ``n``
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
    largest = abs(drawn[0]["score"]) if drawn else 1.0
    for edge in reversed(drawn):
        figure.add_trace(_edge(edge, where, largest, signed))
    _legend(figure, {edge["into"] for edge in drawn}, signed)
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


def _edge(edge: dict, where: dict[str, tuple[float, float]], largest: float, signed: bool) -> go.Scatter:
    (x0, y0), (x1, y1) = where[edge["from"]], where[edge["to"]]
    y0, y1, x1 = y0 + _HEIGHT / 2, y1 - _HEIGHT / 2, x1 + _PORTS[edge["into"]] * _WIDTH / 3
    bend = max(0.35 * (y1 - y0), _PITCH / 3)
    ways = [t / 12 for t in range(13)]
    share = abs(edge["score"]) / largest
    into = f" ({edge['into']})" if edge["into"] else ""
    return go.Scatter(
        x=[_bezier(t, x0, x0, x1, x1) for t in ways],
        y=[_bezier(t, y0, y0 + bend, y1 - bend, y1) for t in ways],
        mode="lines",
        line={
            "width": 1 + 5 * share,
            "color": tone(edge["score"], 0.4 + 0.5 * share) if signed else GREY,
            "dash": DASHES[edge["into"]],
        },
        hoverinfo="text",
        hovertext=in_plot(
            f"{edge['from']} → {edge['to']}{into}: {edge['score']:{'+.3g' if signed else 'g'}}"
        ),
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
