"""The workbench's entry: pages live in ``app/views`` and are addressed by path."""

import importlib
import sys
from pathlib import Path

import streamlit as st

VIEWS = Path(__file__).parent / "views"
PAGES = [
    st.Page(VIEWS / "circuit.py", title="Circuit", icon=":material/account_tree:"),
    st.Page(VIEWS / "live.py", title="Live text", icon=":material/text_fields:"),
    st.Page(VIEWS / "steering.py", title="Steering", icon=":material/tune:"),
]

st.set_page_config(page_title="interp", page_icon="◆", layout="wide")
page = st.navigation(PAGES)
if page.title != "Circuit" and "torch" not in sys.modules:
    with st.spinner("Starting: a few seconds, once", show_time=True):
        importlib.import_module("interp.steering")
page.run()
