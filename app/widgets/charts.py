"""Figures on a page."""

import plotly.graph_objects as go
import streamlit as st


def chart(figure: go.Figure, key: str, alt: str, **options) -> None:
    """A figure without plotly's own buttons; ``alt`` is what those hear who do not see it."""
    st.plotly_chart(figure, key=key, alt=alt, config={"displayModeBar": False}, **options)


def clicked(key: str) -> str:
    """What the point is called that was clicked in a figure with ``on_select``; empty if the choice was taken away."""
    points = st.session_state[key]["selection"]["points"]
    return points[-1].get("customdata", [""])[0] if points else ""
