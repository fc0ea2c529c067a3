"""How good it all is."""

import streamlit as st

st.title("Evaluation")
