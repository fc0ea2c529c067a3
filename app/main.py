"""The workbench's entry: pages live in ``app/views`` and are addressed by path."""

from pathlib import Path

import streamlit as st

from interp.app import engine
from interp.app.widgets import url_state as address

HERE = Path(__file__).parent
VIEWS = HERE / "views"
START = st.Page(VIEWS / "start.py", title="Start", icon=":material/home:", default=True)
PAGES = [
    START,
    st.Page(VIEWS / "live.py", title="Live text", icon=":material/text_fields:"),
    st.Page(VIEWS / "codes.py", title="Codes", icon=":material/search:"),
    st.Page(VIEWS / "circuit.py", title="Circuit", icon=":material/account_tree:"),
    st.Page(VIEWS / "steering.py", title="Steering", icon=":material/tune:"),
    st.Page(VIEWS / "evaluation.py", title="Evaluation", icon=":material/monitoring:"),
]

st.set_page_config(page_icon=str(HERE / "icon.svg"), layout="wide")
page = st.navigation(PAGES, position="top")
st.set_page_config(page_title=f"{page.title} · interp")
st.html(HERE / "style.css")
address.mend()
if page is not START:
    engine.libraries()
page.run()
engine.loading()
