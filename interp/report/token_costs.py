"""What each new token of a text cost: its surprise under the plain model, and how far steering moved that step."""

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

SURPRISE, DIVERGENCE = "rgb(108,127,150)", "rgb(224,98,32)"
_NAMED = 3
"""Highest bars that carry their token."""
_PANEL = 105
"""Pixels a panel."""


def token_costs(
    tokens: Sequence[str],
    surprise: Float[np.ndarray, " token"],
    divergence: Float[np.ndarray, " token"] | None,
    tops: tuple[float, float],
) -> go.Figure:
    """Bars for each new token, and their mean as a line.

    Args:
        tokens: what the bars stand for.
        divergence: None draws no panel of it.
        tops: highest values of either among all texts that stand beside each other, so that their axes agree.
    """
    panels = [("surprise under the plain model", surprise, SURPRISE, tops[0])]
    if divergence is not None:
        panels.append(("KL(steered ‖ plain)", divergence, DIVERGENCE, tops[1]))
    titles = [
        f"{name}, nats: mean {values.mean():.2f}, largest {values.max():.2f}" for name, values, _, _ in panels
    ]
    figure = make_subplots(len(panels), 1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.32)
    numbers = np.arange(1, len(tokens) + 1)
    for row, (_, values, colour, top) in enumerate(panels, 1):
        named = set(np.argsort(-values)[:_NAMED].tolist())
        texts = [html.escape(token) if i in named else "" for i, token in enumerate(tokens)]
        bars = go.Bar(
            x=numbers,
            y=values,
            marker_color=colour,
            text=texts,
            textposition="outside",
            textangle=0,
            cliponaxis=False,
            customdata=[html.escape(token) for token in tokens],
            hovertemplate="%{x} %{customdata}: %{y:.3f}<extra></extra>",
        )
        figure.add_trace(bars, row, 1)
        figure.add_hline(values.mean(), line={"dash": "dot", "width": 1, "color": colour}, row=row, col=1)
        # a quarter above the highest bar for its token
        figure.update_yaxes(range=[0, 1.25 * max(top, 1e-3)], nticks=4, row=row, col=1)
    figure.update_xaxes(title="new token", row=len(panels), col=1)
    figure.update_annotations(font_size=12, x=0, xanchor="left")
    figure.update_layout(
        height=60 + _PANEL * len(panels) + 25 * (len(panels) - 1),
        margin={"l": 0, "r": 0, "t": 24, "b": 0},
        showlegend=False,
        bargap=0.15,
    )
    return figure
