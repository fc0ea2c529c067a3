"""What all tabs share: the model, loaded once, and one lock around whatever runs it with hooks on."""

import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
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


class Loading(threading.Thread):
    """Libraries, then the model, in a thread of its own: pages are painted and clicked meanwhile.

    Attributes:
        libraries, model: done when they are there, or when they cannot be.
        began: on the monotonic clock.
    """

    def __init__(self, spec: str) -> None:
        super().__init__(daemon=True, name=f"loading {spec}")
        self.spec = spec
        self.began = time.monotonic()
        self.libraries: Future = Future()
        self.model: Future = Future()

    def run(self) -> None:
        _settle(self.libraries, lambda: importlib.import_module("interp.steering"))
        _settle(self.model, self._load)

    def _load(self):
        from interp.models import load_model

        return load_model(self.spec)


def _settle(future: Future, work: Callable) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # whoever asks for the result gets it
        future.set_exception(error)


@st.cache_resource(show_spinner=False)
def _loading(spec: str) -> Loading:
    thread = Loading(spec)
    thread.start()
    return thread


def loading(spec: str | None = None) -> Loading:
    """The model's loading, begun by whoever asks first."""
    return _loading(spec or model_name())


def libraries() -> None:
    """Wait, with a word on the page, until what pages import is there.

    Modules that are imported from two threads at once can meet half-made.
    """
    waited_for = loading().libraries
    if not waited_for.done():
        with st.spinner("Starting: a few seconds, once", show_time=True):
            waited_for.result()


def model(spec: str | None = None):
    """The model, with a word on the page while it is being loaded; if it cannot be, the page ends with why."""
    found = loading(spec)
    if found.model.done() and found.model.exception() is not None:
        _loading.clear(found.spec)  # what was missing may be there by now
        found = loading(spec)
    try:
        if found.model.done():
            return found.model.result()
        with st.spinner(f"Loading {plain(found.spec)}: a few seconds, once", show_time=True):
            return found.model.result()
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
