"""What the other pages do, what to click first, and how far the model is."""

import time

import streamlit as st

from interp.app import engine
from interp.app.widgets import run_store
from interp.app.widgets.page_names import PAGES
from interp.app.widgets.tokens import plain

POLL = 0.5  # seconds between two looks at a model that is being loaded
COUNTED = (
    ("runs", "run", "runs"),
    ("indexes", "code index", "code indexes"),
    ("codebooks", "set of codebooks", "sets of codebooks"),
    ("benches", "bench", "benches"),
)
CARDS: dict[str, tuple[str, str, dict]] = {
    "why": (
        "Give two prompts: which heads at which tokens make the difference? Change what they write.",
        "a number",
        {"a": "The keys to the cabinet", "b": "The key to the cabinet", "answer": " are", "instead": " is"},
    ),
    "live": (
        "Type a text and see every token coloured by its code, and what the codes stand for.",
        "a sentence of two names",
        {},
    ),
    "codes": (
        "The clearest codes by what they stand for. Search a corpus by pattern, token or prompt for the codes there.",
        "codes of a word",
        {"q": r"\breturn\w*"},
    ),
    "circuit": (
        "Find which heads do a task, read their codes, set one and see the metric change.",
        "the newest run",
        {},
    ),
    "changes": (
        "What does a finetuned model do that its base did not? Words, heads and codes that changed.",
        "the newest comparison",
        {},
    ),
    "evaluation": (
        "Methods compared, what codebooks cost the model, and the finite-state experiment, with controls.",
        "what codebooks cost",
        {"show": "Codebooks"},
    ),
}
"""By page: what it does, what can be tried there, and the address of that."""


def state() -> None:
    """The model's line, which draws itself again until the model is there or cannot be."""
    load = engine.loading()
    name, waited = plain(load.spec), f"{time.monotonic() - load.began:.0f} s"
    if not load.model.done():
        doing = "loading" if load.libraries.done() else "starting"
        st.markdown(f":material/hourglass_top: **{name}**: {doing}, {waited}")
    elif load.model.exception() is not None:
        st.markdown(f":material/error: **{name}**: {plain(str(load.model.exception()))}")
    else:
        shape = load.model.result().cfg
        st.markdown(f":material/check_circle: **{name}** is ready: {shape.n_layers} layers of {shape.n_heads} heads")


st.title("Read and steer a language model by its codes")
waiting = not engine.loading().model.done()
with st.container(border=True):
    st.fragment(state, run_every=POLL if waiting else None)()
    counts = [(len(run_store.folders(kind)), singular, plural) for kind, singular, plural in COUNTED]
    words = " · ".join(f"{n or 'no'} {singular if n == 1 else plural}" for n, singular, plural in counts)
    st.caption(f"In {plain(run_store.shown_path())}: {words}. The default model comes with codebooks.")
with st.container(border=True):
    st.page_link("steering/page.py", label="**Steering**", icon=":material/tune:")
    st.markdown(
        "Set, add or forbid codes while the model writes. Up to four texts appear side by side; click a token for what "
        "else could have come, and go on from there."
    )
    # a button, since it is what a newcomer should click
    if st.button("Begin here: a story with fire in it", type="primary", icon=":material/arrow_forward:"):
        st.switch_page("steering/page.py")
columns = [*st.columns(3), *st.columns(3)]
for column, (view, (does, example, address)) in zip(columns, CARDS.items(), strict=True):
    with column.container(border=True, height="stretch"):
        title, icon = PAGES[view]
        st.page_link(f"{view}/page.py", label=f"**{title}**", icon=icon)
        st.markdown(does)
        arrow = ":material/arrow_forward:"
        st.page_link(f"{view}/page.py", label=f"Try: {example}", icon=arrow, query_params=address)
