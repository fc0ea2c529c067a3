"""The card of ``interp validate``: what a sceptic asks of the circuit, or the command that asks it."""

import shlex

import streamlit as st

from interp.app.circuit.runs import Opened
from interp.app.widgets import run_store
from interp.app.widgets.tokens import plain
from interp.report.validity import COLUMNS, card_rows, card_summary, curves_plot


def validity(found: Opened) -> None:
    """Curves, table, and what could not be told."""
    card = found.run.validity
    if card is None:
        st.caption(
            "Is this circuit faithful, complete, stable, specific to its task, and the only one? This asks, with "
            "random circuits beside it. It takes minutes, so it is no part of a discovery:"
        )
        st.code(shlex.join(["interp", "validate", f"{run_store.shown_path()}/{found.name}"]), language="bash")
        return
    st.caption(plain(card_summary(card)))
    st.plotly_chart(
        curves_plot(card),
        key="validity",
        config={"displayModeBar": False},
        alt="Share of the gap and KL of nested circuits alone, by number of heads",
    )
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in card_rows(card)]
    st.dataframe(rows, hide_index=True, key="card")
    for why in card.left_out:
        st.caption(plain(why))
