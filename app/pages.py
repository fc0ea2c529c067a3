"""What the workbench shows: each page has a folder, and is addressed by its name."""

from pathlib import Path

import streamlit as st

from interp.app import engine
from interp.app.widgets import url_state

HERE = Path(__file__).parent
START = st.Page(HERE / "start" / "page.py", title="Start", icon=":material/home:", default=True)
OTHERS = {
    "live": ("Live text", "text_fields"),
    "codes": ("Codes", "search"),
    "circuit": ("Circuit", "account_tree"),
    "steering": ("Steering", "tune"),
    "evaluation": ("Evaluation", "monitoring"),
}
PAGES = [
    st.Page(HERE / name / "page.py", url_path=name, title=title, icon=f":material/{icon}:")
    for name, (title, icon) in OTHERS.items()
]

st.set_page_config(page_icon=str(HERE / "icon.svg"), layout="wide")
page = st.navigation([START, *PAGES], position="top")
st.set_page_config(page_title=f"{page.title} · interp")
st.html(HERE / "style.css")
url_state.mend()
if page is not START:
    engine.libraries()
if engine.loading().libraries.done():
    engine.choose_model()
page.run()
engine.loading()
