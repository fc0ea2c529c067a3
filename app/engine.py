"""What all tabs share: the model, loaded once, and one lock around whatever runs it with hooks on."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

RUNS = Path(os.environ.get("INTERP_RUNS", "runs")).resolve()
"""The only folder that pages open files in."""
MODEL = os.environ.get("INTERP_MODEL", "smollm2-135m-instruct")
PATIENCE = 0.05
"""Seconds that a tab waits for the lock before it says that it waits."""


@st.cache_resource(show_spinner=False)
def _lock() -> threading.Lock:
    return threading.Lock()


@st.cache_resource(show_spinner=False)
def _model(spec: str):
    from interp.models import load_model

    return load_model(spec)


def model(spec: str = MODEL):
    """The model, with a word on the page while it is being loaded."""
    with st.spinner(f"Loading {spec}: a few seconds, once", show_time=True):
        return _model(spec)


@contextmanager
def running(spec: str = MODEL) -> Iterator:
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
