"""The layout of building an index: the button, how far it is, and how to go on."""

import streamlit as st

from interp.app import engine
from interp.app.codes import build as code_build
from interp.app.codes import gallery
from interp.app.codes.build import IndexPlan
from interp.app.widgets.codebook_picker import names_for, none_yet, ready_made
from interp.app.widgets.tokens import plain
from interp.errors import InputError

POLL = 1.0  # seconds between two looks at a build


@st.fragment(run_every=POLL)
def show_progress() -> None:
    build = code_build.running()
    if build is None:
        st.rerun(scope="app")
    st.progress(min(1.0, build.done / max(build.total, 1)), plain(build.line()))
    st.caption(
        f"Building {plain(build.plan.folder.name)}. It takes turns with whatever else uses the model, goes on while "
        "you look at other pages, and where it stopped if the workbench is closed."
    )


def _go(plan: IndexPlan) -> None:
    with engine.saying():
        code_build.start(plan)


def last_error() -> None:
    failed = code_build.failed()
    if failed is not None:
        engine.say(InputError(f"{failed.plan.folder.name} could not be built: {failed.error}"))


def before_the_first() -> None:
    """Without an index: one of the ready-made codebooks is begun by itself, and their clearest codes are listed."""
    model, ready = engine.loading().model, None
    if model.done():
        ready = None if model.exception() is not None else ready_made(engine.model_name(), model.result())
        if ready is None:
            st.info(
                "No code index yet: the codes of a text at every head, to be searched by pattern, token or prompt. "
                "A small one is built here in a minute or two.",
                icon=":material/search:",
            )
    if ready is None:
        offer()
        return
    name, books = ready
    if code_build.running() is None and code_build.failed() is None:
        _go(IndexPlan(name, code_build.TOKENS))
        st.rerun()
    gallery.of_codebooks(books, name)
    if code_build.running() is None:
        offer()


def offer() -> None:
    """Build an index here, or in a terminal, of the codebooks there are for the model, once it is there."""
    spec, model = engine.model_name(), engine.loading().model
    if not model.done():
        _until_loaded()
        return
    if model.exception() is not None:
        st.caption(plain(str(model.exception())))
        return
    choices = names_for(spec, model.result())
    if not choices:
        none_yet(spec)
        return
    left, right = st.columns(2)
    books, usual = (left.selectbox("Codebooks", choices, key="build books"), code_build.SIZES.index(code_build.TOKENS))
    about = "Docstrings of Python's standard library. The default model reads some 200 tokens a second and core."
    sizes = {"options": code_build.SIZES, "index": usual, "format_func": lambda n: f"{n:,}"}
    plan = IndexPlan(books, right.selectbox("Tokens of text", key="build tokens", help=about, **sizes))
    st.button("Build the index", type="primary", on_click=_go, args=(plan,), icon=":material/database:")
    st.caption("The same in a terminal, with any text and size:")
    st.code(plan.command(), language="bash")


@st.fragment(run_every=POLL)
def _until_loaded() -> None:
    if engine.loading().model.done():
        st.rerun(scope="app")
    st.caption("Offered as soon as the model is loaded.")


def unfinished(name: str) -> None:
    """Go on with what was begun, where this page knows how."""
    plan = code_build.plan_of(name)
    if plan is not None and code_build.running() is None:
        st.button("Go on building it", on_click=_go, args=(plan,), type="primary", icon=":material/resume:")
