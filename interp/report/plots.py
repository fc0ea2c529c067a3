"""Plotly figures beside a circuit's: sites, steering, codebooks, codes."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from interp.codesearch import Similarities
from interp.evaluation.steering import CODES
from interp.models import parse_site
from interp.report.style import BLUE, GREEN, GREY, ORANGE, layout, whiskers
from interp.report.tables import ConditionCosts, MachineRow, Steering
from interp.report.wording import in_plot

_ROW = 17  # pixels a row
_BELOW = {"attn": "all heads", "mlp": "MLP", "resid": "residual"}
"""What stands below the heads: sites that are no heads, by kind."""


def site_grid(values: Mapping[str, float], label: str) -> go.Figure:
    """A heat map of values from 0 to 1 by site, with a label for the colour bar; sites without one stay empty."""
    places = {site: parse_site(site) for site in values}
    n_layers = 1 + max(place.layer for place in places.values())
    heads = sorted({place.head for place in places.values() if place.head is not None})
    names = [f"head {head}" for head in heads]
    below = {place.kind for place in places.values() if place.head is None}
    names += [name for kind, name in _BELOW.items() if kind in below]
    grid = np.full((len(names), n_layers), np.nan)
    for site, place in places.items():
        name = f"head {place.head}" if place.head is not None else _BELOW[place.kind]
        grid[names.index(name), place.layer] = values[site]
    figure = go.Figure(
        go.Heatmap(
            x=list(range(n_layers)),
            y=names,
            z=grid,
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=2,
            colorscale=[[0, "rgba(128,128,128,.18)"], [1, "#1c7ed6"]],
            colorbar={"title": {"text": label, "side": "right"}, "tickvals": [0, 0.5, 1], "thickness": 10},
            hovertemplate="layer %{x}, %{y}: %{z:.2f}<extra></extra>",
        )
    )
    figure.update_layout(
        height=60 + _ROW * len(names),
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        xaxis={"title": "layer", "dtick": 1 if n_layers <= 40 else 5, "tickangle": 0, "showgrid": False},
        yaxis={"autorange": "reversed", "showgrid": False},
    )
    return figure


SURPRISE, DIVERGENCE = "rgb(108,127,150)", "rgb(224,98,32)"  # legible on light and dark


def token_costs(tokens: Sequence[str], values: Float[np.ndarray, " token"], colour: str, top: float) -> go.Figure:
    """Bars for each new token, and their mean as a line. ``top``: highest value among all texts that stand beside each
    other, so that their axes agree."""
    figure = go.Figure(
        go.Bar(
            x=np.arange(1, len(tokens) + 1),
            y=values,
            marker_color=colour,
            customdata=[in_plot(token) for token in tokens],
            hovertemplate="%{x} %{customdata}: %{y:.3f}<extra></extra>",
        )
    )
    figure.add_hline(values.mean(), line={"dash": "dot", "width": 1, "color": colour})
    figure.update_layout(
        height=140,
        margin={"l": 0, "r": 0, "t": 4, "b": 0},
        bargap=0.15,
        xaxis={"title": {"text": "new token", "standoff": 12}, "tickangle": 0, "automargin": True},
        yaxis={"range": [0, 1.05 * max(top, 1e-3)], "nticks": 4, "automargin": True},
    )
    return figure


def similarity_histogram(similarities: Similarities) -> go.Figure:
    """Shares of the tokens by their similarity with the code: those at which it fired, a sample of the others.

    Both add up to 100 %, however rare the code is; empty bins at both ends are left out.
    """
    edges = np.asarray(similarities.edges)
    middles, width = (edges[1:] + edges[:-1]) / 2, float(edges[1] - edges[0])
    figure = go.Figure()
    groups = {"not fired, a sample": (similarities.silent, GREY), "fired": (similarities.fired, BLUE)}
    for name, (counts, colour) in groups.items():
        total = float(np.sum(counts))
        figure.add_bar(
            x=middles,
            y=100 * np.asarray(counts) / max(total, 1e-12),
            width=0.92 * width,
            name=name,
            marker_color=colour,
            opacity=0.75,
            hovertemplate=f"{name}, similarity %{{x:.2f}}: %{{y:.1f}} %<extra></extra>",
        )
    used = np.flatnonzero(np.asarray(similarities.fired) + np.asarray(similarities.silent))
    if len(used):
        figure.update_xaxes(range=[edges[used[0]], edges[used[-1] + 1]])
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(title="cosine similarity with the code")
    figure.update_yaxes(title="share of tokens, %", rangemode="tozero")
    return layout(figure, height=280, left=55, legend=True)


MARKS = {
    CODES: (BLUE, "circle"),
    "gated codes": (BLUE, "circle-open"),
    "half of the codes": (BLUE, "diamond"),
    "following codes": (BLUE, "diamond-open"),
    "prompt": (ORANGE, "diamond"),
    "prompt and codes": (ORANGE, "diamond-open"),
    "mean difference, heads": (GREEN, "circle"),
    "mean difference, same heads": (GREEN, "circle-open"),
    "mean difference, residual": (ORANGE, "circle"),
    "base": (GREY, "line-ns-open"),
    "random codes": (GREY, "circle-open"),
    "random vectors": (GREY, "diamond-open"),
    "wrong topic": (GREY, "x-thin-open"),
}
"""Colour and symbol: codes, vectors, and what says how little is to be expected of anything."""
STEERING_ROW, STEERING_EDGES = 66, 96  # pixels of a topic, and of the legend and the axis


def rate_plot(steering: Steering) -> go.Figure:
    """Every topic's rate by every arm with its 95 % interval, arms a little above each other."""
    figure = go.Figure()
    arms = [arm for arm in MARKS if any(row.arm == arm for row in steering.table.by_topic)]
    for number, arm in enumerate(arms):
        colour, symbol = MARKS[arm]
        shift = 0.8 * ((number + 0.5) / len(arms) - 0.5)  # topics fill .8 of a row
        rows = [row for row in steering.table.by_topic if row.arm == arm]
        figure.add_scatter(
            x=[row.rate for row in rows],
            y=[steering.topics.index(row.topic) + shift for row in rows],
            error_x=whiskers([(row.rate, row.low, row.high) for row in rows], thickness=1.4, width=3),
            mode="markers",
            name=arm,
            marker={"size": 9, "color": colour, "symbol": symbol},
            hovertext=[
                f"{in_plot(row.topic)}, {arm}: {row.rate:.0%} [{row.low:.0%}, {row.high:.0%}]<br>"
                f"perplexity {row.cell.perplexity:.1f}, distinct-2 {row.cell.distinct_2:.2f}"
                for row in rows
            ],
            hoverinfo="text",
        )
    figure.update_xaxes(range=[-0.01, 1.02], tickformat=".0%", title="texts that hold a word of the topic")
    _name_rows(figure, steering.topics)
    return layout(figure, height=STEERING_EDGES + STEERING_ROW * len(steering.topics), left=90, legend=True)


ROW, EDGES = 34, 60  # pixels of a bar, and of the axis below all


def increase_plot(conditions: Sequence[ConditionCosts]) -> go.Figure:
    """The rise of cross-entropy with its interval, a bar a condition, the least on top."""
    rows = sorted((c for c in conditions if c.name != "plain"), key=lambda c: c.increase, reverse=True)
    figure = go.Figure(
        go.Bar(
            x=[c.increase for c in rows],
            y=[in_plot(c.name) for c in rows],
            orientation="h",
            marker={"color": [GREY if c.is_control else BLUE for c in rows], "opacity": 0.55},
            error_x=whiskers([(c.increase, c.low, c.high) for c in rows], thickness=2, width=5, color=GREY),
            hovertemplate="%{y}: %{x:.3f} nats a token<extra></extra>",
        )
    )
    for condition in rows:
        label = f"+{condition.increase:.2f}  [{condition.low:.2f}, {condition.high:.2f}]".replace("+-", "−")
        figure.add_annotation(
            x=condition.high, y=in_plot(condition.name), text=label, showarrow=False, xanchor="left", xshift=8
        )
    least, most = min([c.low for c in rows] + [0.0]), max([c.high for c in rows] + [0.0])
    figure.update_xaxes(title="rise of cross-entropy, nats a token", range=[least, most * 1.45])
    return layout(figure, height=EDGES + ROW * len(rows), left=130)


def explained_plot(sites: Mapping[str, float]) -> go.Figure:
    """Variance explained at every site: attention heads together, MLPs, the residual stream."""
    kinds = {"a": "heads", "m": "MLPs", "r": "residual stream"}
    figure = go.Figure()
    for letter, colour in zip(kinds, (BLUE, "#e08a3c", GREY), strict=True):
        of_kind = {site[1:]: value for site, value in sites.items() if site[0] == letter}
        if of_kind:
            layers = all(place.isdecimal() for place in of_kind)
            figure.add_bar(
                x=[int(place) if layers else place for place in of_kind],  # or single heads, by name
                y=list(of_kind.values()),
                name=kinds[letter],
                marker_color=colour,
                hovertemplate=f"{letter}%{{x}}: %{{y:.2f}}<extra></extra>",
            )
    figure.update_xaxes(title="layer", dtick=1 if len(sites) <= 16 else 5)
    figure.update_yaxes(title="variance explained", rangemode="tozero")
    return layout(figure, height=260, left=60, legend=len(figure.data) > 1)


MACHINES = {"codebooks": BLUE, "no codebooks": GREEN, "untrained k-means": ORANGE, "random codes": GREY}


def machine_plot(rows: Sequence[MachineRow]) -> go.Figure:
    """The finite-state replication: every share right with its interval, diamonds where it was published."""
    measures = list(dict.fromkeys(row.measure for row in rows))
    figure = go.Figure()
    for number, (arm, colour) in enumerate(MACHINES.items()):
        of_arm = [row for row in rows if row.arm == arm]
        places = [measures.index(row.measure) + 0.19 * (number - 1.5) for row in of_arm]
        figure.add_scatter(
            x=[row.mean for row in of_arm],
            y=places,
            error_x=whiskers([(row.mean, row.low, row.high) for row in of_arm], thickness=1.4, width=3),
            mode="markers",
            name=arm,
            marker={"size": 9, "color": colour},
            hovertemplate=f"{arm}: %{{x:.3f}}<extra></extra>",
        )
        published = [row.published for row in of_arm]
        if any(value is not None for value in published):
            figure.add_scatter(
                x=published,
                y=places,
                mode="markers",
                name=f"{arm}, published",
                marker={"size": 11, "color": colour, "symbol": "diamond-open", "line": {"width": 2}},
                hovertemplate="published: %{x:.3f}<extra></extra>",
            )
    figure.update_xaxes(range=[0, 1.02], title="share right")
    _name_rows(figure, measures)
    return layout(figure, height=84 + 46 * len(measures), left=170, legend=True)


def _name_rows(figure: go.Figure, names: Sequence[str]) -> None:
    ticks = {"tickvals": list(range(len(names))), "ticktext": [in_plot(name) for name in names]}
    figure.update_yaxes(**ticks, range=[len(names) - 0.5, -0.5], zeroline=False)
