"""One number for each site as a grid: layers from left to right, heads from top to bottom, MLPs and residual below."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from interp.models import parse_site

_ROW = 17
"""Pixels a row."""
_BELOW = {"attn": "all heads", "mlp": "MLP", "resid": "residual"}
"""What stands below the heads: sites that are no heads, by kind."""


def site_grid(values: Mapping[str, float], label: str) -> go.Figure:
    """A heat map of values from 0 to 1 by site; sites without one stay empty.

    Args:
        label: what the values are, for the colour bar.
    """
    places = {site: parse_site(site) for site in values}
    n_layers = 1 + max(place.layer for place in places.values())
    heads = sorted({place.head for place in places.values() if place.head is not None})
    names = [f"head {head}" for head in heads]
    names += [_BELOW[kind] for kind in _BELOW if any(_is(place, kind) for place in places.values())]
    grid = np.full((len(names), n_layers), np.nan)
    for site, place in places.items():
        name = f"head {place.head}" if place.head is not None else _BELOW[place.kind]
        grid[names.index(name), place.layer] = values[site]
    figure = go.Figure(
        go.Heatmap(
            z=grid,
            x=list(range(n_layers)),
            y=names,
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


def _is(place, kind: str) -> bool:
    return place.kind == kind and place.head is None
