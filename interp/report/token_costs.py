"""A number for each new token of a text as bars: how surprising it was, how far steering moved that step."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from interp.report.wording import in_plot

SURPRISE, DIVERGENCE = "rgb(108,127,150)", "rgb(224,98,32)"
"""Legible on light and dark."""


def token_costs(
    tokens: Sequence[str], values: Float[np.ndarray, " token"], colour: str, top: float
) -> go.Figure:
    """Bars for each new token, and their mean as a line.

    Args:
        tokens: what the bars stand for.
        top: highest value among all texts that stand beside each other, so that their axes agree.
    """
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
