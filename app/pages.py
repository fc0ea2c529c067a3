"""What the workbench shows: each page has a folder, and is addressed by its name."""

from pathlib import Path

import streamlit as st

from interp.app import engine
from interp.app.widgets import url_state

HERE = Path(__file__).parent
START = st.Page(HERE / "start" / "page.py", title="Start", icon=":material/home:", default=True)
PAGES = [
    START,
    st.Page(HERE / "live" / "page.py", url_path="live", title="Live text", icon=":material/text_fields:"),
    st.Page(HERE / "codes" / "page.py", url_path="codes", title="Codes", icon=":material/search:"),
    st.Page(
        HERE / "circuit" / "page.py", url_path="circuit", title="Circuit", icon=":material/account_tree:"
    ),
    st.Page(HERE / "steering" / "page.py", url_path="steering", title="Steering", icon=":material/tune:"),
    st.Page(
        HERE / "evaluation" / "page.py",
        url_path="evaluation",
        title="Evaluation",
        icon=":material/monitoring:",
    ),
]

st.set_page_config(page_icon=str(HERE / "icon.svg"), layout="wide")
page = st.navigation(PAGES, position="top")
st.set_page_config(page_title=f"{page.title} · interp")
st.html(HERE / "style.css")
url_state.mend()
if page is not START:
    engine.libraries()
if engine.loading().libraries.done():
    engine.choose_model()
page.run()
engine.loading()
