"""What the workbench shows: each page has a folder, and is addressed by its name."""

from pathlib import Path

import streamlit as st

from interp.app import engine
from interp.app.widgets import url_state
from interp.app.widgets.page_names import FIRST, PAGES

HERE = Path(__file__).parent
WHY, START, *OTHERS = (
    st.Page(HERE / name / "page.py", url_path=name, title=title, icon=icon, default=name == FIRST)
    for name, (title, icon) in PAGES.items()
)

st.set_page_config(page_icon=str(HERE / "icon.svg"), layout="wide")
page = st.navigation([WHY, START, *OTHERS], position="top")
st.set_page_config(page_title=f"{page.title} · interp")
st.html(HERE / "style.css")
url_state.mend()
if page not in (WHY, START):  # these two are there before the libraries
    engine.libraries()
with st.empty():  # also while it is not there, so that what follows keeps its place
    if engine.loading().libraries.done():
        engine.choose_model()
page.run()
engine.loading()
