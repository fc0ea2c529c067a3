"""What the workbench shows: each page has a folder, and is addressed by its name."""

from pathlib import Path

import streamlit as st

from interp.app import engine
from interp.app.widgets import url_state

HERE = Path(__file__).parent
WHY = st.Page(HERE / "why" / "page.py", title="Why", icon=":material/compare_arrows:", default=True)
OTHERS = {
    "start": ("Start", "home"),
    "live": ("Live text", "text_fields"),
    "codes": ("Codes", "search"),
    "circuit": ("Circuit", "account_tree"),
    "steering": ("Steering", "tune"),
    "changes": ("Changes", "difference"),
    "evaluation": ("Evaluation", "monitoring"),
}
PAGES = [
    st.Page(HERE / name / "page.py", url_path=name, title=title, icon=f":material/{icon}:")
    for name, (title, icon) in OTHERS.items()
]

st.set_page_config(page_icon=str(HERE / "icon.svg"), layout="wide")
page = st.navigation([WHY, *PAGES], position="top")
st.set_page_config(page_title=f"{page.title} · interp")
st.html(HERE / "style.css")
url_state.mend()
if page not in (WHY, PAGES[0]):  # these two are there before the libraries
    engine.libraries()
with st.empty():  # also while it is not there, so that what follows keeps its place
    if engine.loading().libraries.done():
        engine.choose_model()
page.run()
engine.loading()
