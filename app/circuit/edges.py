"""The edges among a circuit's members, as a graph and as a table."""

import streamlit as st

from interp.app.circuit.runs import Opened, ink
from interp.circuits.circuit import Edge
from interp.report import wording
from interp.report.circuit_plots import DRAWN, edge_plot
from interp.report.components import counts_code_pairs, edges_told, member_nodes

MOST_DRAWN = 100
_COLUMNS = (
    "sender",
    "receiver",
    "into",
    "score",
    "effect",
    "error",
    "probability",
    "measured",
    "attribution",
    "co_occurrence",
)


@st.fragment
def edges(found: Opened) -> None:
    """The strongest edges."""
    run = found.run
    signed = not counts_code_pairs(run)
    if not run.members or not run.edges:
        st.info("This run has no edges: they are scored among members, and it has too few of them.")
        return
    among = edges_told(run)
    left, _ = st.columns([1, 2])
    n = left.slider(
        "Edges drawn",
        5,
        max(6, min(MOST_DRAWN, len(among))),
        min(DRAWN, max(6, len(among))),
        key="edges drawn",
    )
    st.plotly_chart(
        edge_plot(member_nodes(run, found.scale), among, ink(), n, signed=signed),
        key=f"graph of {found.name}",
        config={"displayModeBar": False},
        alt=f"The {n} strongest edges among the members, by layer; the same as the table below",
    )
    lines = (
        "what a head writes reaching another's query, key or value; blue helps the answer, orange hurts it, as wide "
        "as the score is large."
        if signed
        else "how many pairs of codes the two heads have on clean prompts and on no corrupt one, which tells neither "
        "whether it helps nor its direction."
    )
    st.caption(
        f"The {min(n, len(among))} strongest of {len(among)} edges of at least a thousandth of the largest score, "
        "layers from bottom to top. Boxes: members, "
        f"coloured by their effect. Lines: {lines}"
    )
    present = [key for key in _COLUMNS if any(getattr(edge, key) is not None for edge in among)]
    st.dataframe(
        [{key: getattr(edge, key) for key in present} for edge in among],
        hide_index=True,
        key="edge table",
        column_config={
            **_formats(among, found.scale.places, signed),
            "sender": "from",
            "receiver": "to",
            "probability": st.column_config.NumberColumn(
                format="%.2f", help="That the effect is above the threshold."
            ),
            "measured": st.column_config.NumberColumn(
                "pairs patched",
                help="Pairs on which the edge was path-patched; others have attribution only.",
            ),
            "co_occurrence": st.column_config.NumberColumn(
                "bits shared", format="%.2f", help="What the codes of the two heads tell of each other."
            ),
        },
    )


def _formats(among: list[Edge], places: int, signed: bool) -> dict:
    """Edges are weaker than heads: their decimals follow the largest of them."""
    of_scores = max(places, wording.places(abs(among[0].score))) if among else places
    forms = {
        "score": f"%+.{of_scores}f" if signed else "%.0f",
        "effect": f"%+.{of_scores}f",
        "error": f"%.{of_scores}f",
        "attribution": f"%+.{of_scores}f",
    }
    return {key: st.column_config.NumberColumn(format=form) for key, form in forms.items()}
