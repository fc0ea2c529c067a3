"""The workbench's entry: pages live in ``app/views`` and are addressed by path."""

from pathlib import Path

import streamlit as st

VIEWS = Path(__file__).parent / "views"

st.set_page_config(page_title="interp", page_icon="◆", layout="wide")
st.navigation([st.Page(VIEWS / "circuit.py", title="Circuit", icon=":material/account_tree:")]).run()
