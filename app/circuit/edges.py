"""The edges among a circuit's members, as a graph and as a table."""

import streamlit as st
from streamlit.column_config import NumberColumn

from interp.app.circuit.runs import Opened, ink
from interp.app.widgets.charts import chart
from interp.report import wording
from interp.report.circuit_figures import (
    DRAWN,
    edge_plot,
    edges_explained,
    edges_told,
    measures_edges,
    strength,
)

MOST_DRAWN = 100
_SCORED = ("sender", "receiver", "into", "score")
_MEASURED = ("sender", "receiver", "into", "effect", "error", "measured", "probability", "co_occurrence")


@st.fragment
def edges(found: Opened) -> None:
    """The strongest edges."""
    run = found.run
    if not run.members or not run.edges:
        st.info("This run has no edges: they are scored among members, and it has too few of them.")
        return
    among = edges_told(run)
    left, _ = st.columns([1, 2])
    most, first = max(6, min(MOST_DRAWN, len(among))), min(DRAWN, max(6, len(among)))
    n = left.slider("Edges drawn", 5, most, first, key="edges drawn")
    about = f"The {n} strongest edges among the members, by layer; the same as the table below"
    chart(edge_plot(run, found.scale, ink(), n, among), f"graph of {found.name}", about)
    drawn = f"The {min(n, len(among))} strongest of {len(among)} edges, layers from bottom to top."
    st.caption(f"{drawn} {edges_explained(run, among)}")
    columns = _MEASURED if measures_edges(among) else _SCORED
    # edges are weaker than heads: their decimals follow the strongest of them
    digits = max(found.scale.places, wording.places(abs(strength(among[0])))) if among else found.scale.places
    st.dataframe(
        [{key: getattr(edge, key) for key in columns} for edge in among],
        hide_index=True,
        key="edge table",
        column_config={
            "sender": "from",
            "receiver": "to",
            "score": NumberColumn(format="%.0f" if run.edges_are_counts else f"%+.{digits}f"),
            "effect": NumberColumn(format=f"%+.{digits}f"),
            "error": NumberColumn(format=f"%.{digits}f"),
            "probability": NumberColumn(format="%.2f", help="That the effect is above the threshold."),
            "measured": NumberColumn(
                "pairs patched",
                help="Pairs on which the edge was path-patched; on others its attribution is corrected by these.",
            ),
            "co_occurrence": NumberColumn(
                "bits shared", format="%.2f", help="What the codes of the two heads tell of each other."
            ),
        },
    )
