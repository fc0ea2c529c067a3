"""How well methods find circuits, what codebooks cost, how far codes steer; with controls."""

import streamlit as st

from interp.app.evaluation import codebooks as evaluation_codebooks
from interp.app.evaluation import methods as evaluation_methods
from interp.app.evaluation import steering as evaluation_steering
from interp.app.widgets.url_state import IN_URL

PARTS = {
    "Methods": evaluation_methods.show,
    "Codebooks": evaluation_codebooks.show,
    "Steering": evaluation_steering.show,
}

st.title("Evaluation")
part = st.segmented_control(
    "What to see",
    list(PARTS),
    default="Methods",
    required=True,
    key="show",
    bind=IN_URL,
    label_visibility="collapsed",
)
PARTS[part]()
