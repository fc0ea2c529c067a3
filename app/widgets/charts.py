"""Figures, tables and commands on a page."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st


def chart(figure: go.Figure, key: str, alt: str, **options) -> None:
    """A figure without plotly's own buttons; ``alt`` is what those hear who do not see it."""
    st.plotly_chart(figure, key=key, alt=alt, config={"displayModeBar": False}, **options)


def table(rows: Any, key: str | None = None, columns: Mapping | None = None, place: Any = st, **options) -> None:
    """Rows without numbers before them; ``columns`` says by name how each is written."""
    place.dataframe(rows, hide_index=True, key=key, column_config=columns, **options)


def command(words: Sequence[str]) -> None:
    """A command to copy."""
    st.code(shlex.join(words), language="bash")


def clicked(key: str) -> str:
    """What the point is called that was clicked in a figure with ``on_select``; empty if the choice was taken away."""
    points = st.session_state[key]["selection"]["points"]
    return points[-1].get("customdata", [""])[0] if points else ""
