"""What all plotly figures share: colours that can be told from both themes' backgrounds, and little margin."""

import plotly.graph_objects as go

BLUE, GREY, ORANGE, GREEN = "#3b82c4", "#8a9099", "#e08a3c", "#3f9e74"


def layout(
    figure: go.Figure, *, height: int, left: int = 50, right: int = 10, legend: bool = False
) -> go.Figure:
    """Set the size; colours of text and grid are left to the theme of the page."""
    figure.update_layout(
        height=height,
        margin={"l": left, "r": right, "t": 28 if legend else 10, "b": 44},
        showlegend=legend,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0.0},
        bargap=0.25,
    )
    return figure
