"""The grid of heads on the page *Circuit*, in which one is chosen."""

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
import streamlit as st

from interp.app.circuit_runs import Opened, ink
from interp.circuits.roles import role_name
from interp.report.circuit_plots import grid_plot


@dataclass
class Ring:
    """Which head is ringed in the browser, which does that by itself when one is clicked.

    Only what it does not know is drawn: the figure is sent anew where the head was chosen in another way.

    Attributes:
        drawn: by the figure as it was last sent.
        clicked: since then.
        turn: how many were sent; in every point, so that a click on a head that was clicked before is news.
    """

    drawn: str = ""
    clicked: str = ""
    turn: int = 0

    def follow(self, site: str) -> None:
        if site != (self.clicked or self.drawn):
            self.drawn, self.clicked, self.turn = site, "", self.turn + 1


def begin(found: Opened) -> None:
    """To be called where the whole page is drawn: the browser may have no figure any more."""
    key = _ring_key(found)
    st.session_state[key] = Ring(turn=st.session_state.get(key, Ring()).turn)


def _ring_key(found: Opened) -> str:
    return f"ring of {found.name}"


def grid(found: Opened, site: str, sites: Container[str]) -> None:
    """All heads, the chosen one ringed; a click on another puts it into the session's ``head``."""
    key, ring = f"grid of {found.name}", st.session_state[_ring_key(found)]
    ring.follow(site)

    def take() -> None:
        points = st.session_state[key]["selection"]["points"]
        clicked = points[-1]["customdata"][0] if points else ""
        if clicked in sites:
            ring.clicked = st.session_state["head"] = clicked
        else:  # the ring was taken away
            ring.drawn = ring.clicked = ""

    st.plotly_chart(
        _figure(*found.key, ink(), ring.drawn, ring.turn, found),
        key=key,
        on_select=take,
        selection_mode="points",
        config={"displayModeBar": False},
        alt="Score of every head by layer, members outlined; the same as the box Head below",
    )
    st.caption(
        "Colour: the method's score. Outlined: members, with their exact effect in % of the gap between clean "
        "and corrupt prompts. Click a head."
    )


@st.cache_resource(max_entries=32, show_spinner=False)
def _figure(folder: Path, changed: int, text: str, drawn: str, turn: int, _found: Opened) -> go.Figure:  # noqa: ARG001
    return grid_plot(_found.run, _found.scale, text, drawn, turn)


def members(found: Opened) -> None:
    """The members as a table, MLPs among them."""
    columns = ("site", "score", "effect", "effect_low", "effect_high")
    rows = [
        {key: part[key] for key in columns}
        | {"share of gap": found.scale.share(part["effect"]), "looks like": role_name(part.get("roles", {}))}
        for part in found.run.members
    ]
    effects = f"%+.{found.scale.places}f"
    scores = f"%{'+' if found.scale.has_sign else ''}.{found.scale.score_places}f"
    with st.expander(f"All {len(rows)} members as a table"):
        st.dataframe(
            rows,
            hide_index=True,
            key="members",
            column_config={
                "effect_low": st.column_config.NumberColumn("from", format=effects),
                "effect_high": st.column_config.NumberColumn("to", format=effects),
                "score": st.column_config.NumberColumn(format=scores),
                "effect": st.column_config.NumberColumn(format=effects),
                "share of gap": st.column_config.NumberColumn(format="percent"),
            },
        )
