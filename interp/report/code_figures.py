"""What a code's similarities look like, as a plotly figure."""

import numpy as np
import plotly.graph_objects as go

from interp.codesearch import Similarities
from interp.report.plot_style import BLUE, GREY, layout


def similarity_histogram(similarities: Similarities) -> go.Figure:
    """Shares of the tokens by their similarity with the code: those at which it fired, a sample of the others.

    Both add up to 100 %, however rare the code is; empty bins at both ends are left out.
    """
    edges = np.asarray(similarities.edges)
    middles, width = (edges[1:] + edges[:-1]) / 2, float(edges[1] - edges[0])
    figure = go.Figure()
    both = {"not fired, a sample": (similarities.silent, GREY), "fired": (similarities.fired, BLUE)}
    for name, (counts, colour) in both.items():
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
