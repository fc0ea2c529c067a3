"""What all plotly figures share: colours, little margin, and labels that do not lie on each other.

Colours can be told from a light and a dark page's background.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

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


def spread(
    heights: Sequence[float] | Float[np.ndarray, " n"], least: float, low: float, high: float
) -> Float[np.ndarray, " n"]:
    """Heights in rising order with at least ``least`` between neighbours, moved as little as a sweep up and one down
    need; evenly from ``low`` to ``high`` where that does not fit."""
    found = np.array(heights, dtype=np.float64)
    if len(found) > 1 and (len(found) - 1) * least >= high - low:
        return np.linspace(low, high, len(found))
    for i in range(1, len(found)):
        found[i] = max(found[i], found[i - 1] + least)
    last = high
    for i in reversed(range(len(found))):
        found[i] = min(found[i], last)
        last = found[i] - least
    return found
