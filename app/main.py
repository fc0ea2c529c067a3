"""The workbench's entry: pages live in ``app/views`` and are addressed by path."""

import importlib
import sys
from pathlib import Path

import streamlit as st

VIEWS = Path(__file__).parent / "views"
PAGES = (
    ("circuit.py", "Circuit", ":material/account_tree:"),
    ("codes.py", "Codes", ":material/search:"),
    ("live.py", "Live text", ":material/text_fields:"),
    ("steering.py", "Steering", ":material/tune:"),
)

st.set_page_config(page_title="interp", page_icon="◆", layout="wide")
pages = [
    st.Page(VIEWS / file, title=title, icon=icon) for file, title, icon in PAGES if (VIEWS / file).exists()
]
page = st.navigation(pages)
if page.title != "Circuit" and "torch" not in sys.modules:
    with st.spinner("Starting: a few seconds, once", show_time=True):
        importlib.import_module("interp.steering")
page.run()
