"""What all tabs share: the model, loaded once, and one lock around whatever runs it with hooks on."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from interp.app.tokens import plain
from interp.tasks.errors import InputError

DEFAULT_MODEL = "smollm2-135m-instruct"
PATIENCE = 0.05
"""Seconds that a tab waits for the lock before it says that it waits."""


def runs() -> Path:
    """The only folder that pages open files in."""
    return Path(os.environ.get("INTERP_RUNS", "runs")).resolve()


def model_name() -> str:
    return os.environ.get("INTERP_MODEL", DEFAULT_MODEL)


def say(error: InputError) -> None:
    """What was wrong with an input, in one line; what the user wrote is no markup."""
    st.error(plain(str(error)), icon=":material/error:")


@st.cache_resource(show_spinner=False)
def _lock() -> threading.Lock:
    return threading.Lock()


@st.cache_resource(show_spinner=False)
def _model(spec: str):
    from interp.models import load_model

    return load_model(spec)


def model(spec: str | None = None):
    """The model, with a word on the page while it is being loaded; if it cannot be, the page ends with why."""
    spec = spec or model_name()
    try:
        with st.spinner(f"Loading {plain(spec)}: a few seconds, once", show_time=True):
            return _model(spec)
    except InputError as error:
        say(error)
        st.stop()


@contextmanager
def running(spec: str | None = None) -> Iterator:
    """The model for one piece of work; two tabs take turns, and the one that waits says so.

    Hooks are global to a model, so nothing may run it while another tab has codes set.
    """
    loaded, lock, notice = model(spec), _lock(), st.empty()
    if not lock.acquire(timeout=PATIENCE):
        notice.info("Another tab is using the model: this one is next.", icon=":material/hourglass_top:")
        lock.acquire()
    try:
        notice.empty()
        yield loaded
    finally:
        lock.release()
