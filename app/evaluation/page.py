"""How well methods find circuits, what codebooks cost, how far codes steer; with controls."""

import streamlit as st

from interp.app import engine
from interp.app.evaluation import codebooks as evaluation_codebooks
from interp.app.evaluation import methods as evaluation_methods
from interp.app.evaluation import sources
from interp.app.evaluation import steering as evaluation_steering
from interp.app.widgets.url_state import choice
from interp.errors import InputError
from interp.report.plots import machine_plot
from interp.report.tables import read_machine


def machine() -> None:
    """The replication of one experiment with codebooks, as it came out."""
    st.plotly_chart(
        machine_plot(sources.read(read_machine, sources.MACHINE)),
        alt="Share right of a language model of a finite-state machine, with and without codebooks",
    )
    st.caption(
        "A small language model of texts that a finite-state machine writes (Tamkin et al. 2023), trained with "
        "codebooks: how often its next state is right. Means of five seeds with their 95 % interval; diamonds: "
        "published, after 131 times as many tokens."
    )


PARTS = {
    "Methods": evaluation_methods.show,
    "Codebooks": evaluation_codebooks.show,
    "Steering": evaluation_steering.show,
    **({"Finite-state machine": machine} if sources.MACHINE.is_file() else {}),
}

st.title("Evaluation")
part = choice("What to see", list(PARTS), "show", label_visibility="collapsed")
try:
    PARTS[part]()
except InputError as error:
    engine.say(error)
