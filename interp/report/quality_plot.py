"""What codebooks cost a model, and how much of each site they hold, as plotly figures."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from interp.report.plot_style import BLUE, GREY, layout
from interp.report.quality_rows import Condition
from interp.report.wording import in_plot

ROW, EDGES = 34, 60
"""Pixels of a bar, and of the axis below all."""


def increase_plot(conditions: Sequence[Condition]) -> go.Figure:
    """The rise of cross-entropy with its interval, a bar a condition, the least on top."""
    rows = sorted((c for c in conditions if c.name != "plain"), key=lambda c: c.increase, reverse=True)
    labels = [f"+{c.increase:.2f}  [{c.low:.2f}, {c.high:.2f}]".replace("+-", "−") for c in rows]
    figure = go.Figure(
        go.Bar(
            x=[c.increase for c in rows],
            y=[in_plot(c.name) for c in rows],
            orientation="h",
            marker={"color": [GREY if c.is_control else BLUE for c in rows], "opacity": 0.55},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [c.high - c.increase for c in rows],
                "arrayminus": [c.increase - c.low for c in rows],
                "thickness": 2,
                "width": 5,
                "color": GREY,
            },
            hovertemplate="%{y}: %{x:.3f} nats a token<extra></extra>",
        )
    )
    for condition, label in zip(rows, labels, strict=True):
        figure.add_annotation(
            x=condition.high, y=in_plot(condition.name), text=label, showarrow=False, xanchor="left", xshift=8
        )
    most = max([c.high for c in rows] + [0.0])
    figure.update_xaxes(
        title="rise of cross-entropy, nats a token", range=[min(0, *(c.low for c in rows)), most * 1.45]
    )
    return layout(figure, height=EDGES + ROW * len(rows), left=130)


def explained_plot(sites: Mapping[str, float]) -> go.Figure:
    """Variance explained at every site: attention heads together, MLPs, the residual stream."""
    kinds = {"a": "heads", "m": "MLPs", "r": "residual stream"}
    figure = go.Figure()
    for letter, colour in zip(kinds, (BLUE, "#e08a3c", GREY), strict=True):
        its = {site[1:]: value for site, value in sites.items() if site[0] == letter}
        if its:
            layers = all(place.isdecimal() for place in its)
            figure.add_bar(
                x=[int(place) if layers else place for place in its],  # or single heads, by name
                y=list(its.values()),
                name=kinds[letter],
                marker_color=colour,
                hovertemplate=f"{letter}%{{x}}: %{{y:.2f}}<extra></extra>",
            )
    figure.update_xaxes(title="layer", dtick=1 if len(sites) <= 16 else 5)
    figure.update_yaxes(title="variance explained", rangemode="tozero")
    return layout(figure, height=260, left=60, legend=len(figure.data) > 1)
