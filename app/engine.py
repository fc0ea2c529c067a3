"""What all tabs share: the model, loaded once, and turns at it: first come, first served.

Hooks are global to a model, so nothing may run it while another tab has codes set. A tab that waits is told how many
are before it, and is in nobody's way if it is closed meanwhile.
"""

import gc
import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import streamlit as st

from interp import DEFAULT_MODEL
from interp.app.widgets.tokens import plain
from interp.errors import InputError

PATIENCE = 0.25  # seconds between two looks at something that is waited for


class Turns:
    """A fair lock that knows its queue."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: list[object] = []  # the first one has the turn

    @contextmanager
    def turn(self, waiting: Callable[[int], None] = lambda _before: None, every: float = PATIENCE) -> Iterator[None]:
        """Wait for the turn, and give it back however the body ends. ``waiting``: is called every so many seconds with
        how many are before this one; what it raises ends the wait."""
        ticket = object()
        with self._changed:
            self._line.append(ticket)
        try:
            while True:
                with self._changed:
                    if self._changed.wait_for(lambda: self._line[0] is ticket, every):
                        break
                    before = self._line.index(ticket)
                waiting(before)
            yield
        finally:
            with self._changed:
                self._line.remove(ticket)
                self._changed.notify_all()


turn = Turns().turn  # a turn at the model for a thread behind the pages
_BEGINNING = threading.Lock()


def runs() -> Path:
    """The only folder that pages open files in."""
    return Path(os.environ.get("INTERP_RUNS", "runs")).resolve()


_TAKEN: dict[str, None] = {}  # models that were chosen in a tab: from then on an address may name them


def model_name() -> str:
    return st.session_state.get("model") or os.environ.get("INTERP_MODEL", DEFAULT_MODEL)


def known_models() -> list[str]:
    """Specs that need no one's word to be loaded, the workbench's own first."""
    from interp.models.embedded import PACKAGED, in_cache

    cached = (spec for spec in PACKAGED if in_cache(spec))
    return list(dict.fromkeys([os.environ.get("INTERP_MODEL", DEFAULT_MODEL), *cached, *_TAKEN]))


def address_of_model() -> dict[str, str]:
    """What an address says of this tab's model: nothing of the workbench's own."""
    return {} if model_name() == known_models()[0] else {"model": model_name()}


def forget() -> None:
    """Drop the texts that this tab has steered, and the prompts that it plays with, which hold the model."""
    for name in ("comparison", "branches", "inspected token", "play"):
        st.session_state.pop(name, None)


def use(spec: str | None = None) -> None:
    """Run another model in this tab, or that which the box of the models says."""
    if spec is not None:
        st.session_state["model"] = spec
    _TAKEN[model_name()] = None
    forget()
    for name in ("books", "index", "run"):  # of the former model: the first of this one's is shown
        if name in st.session_state:
            st.session_state[name] = ""


def choose_model() -> None:
    """The model's name in a corner of the page, and behind it the others there are."""
    in_address, ready = st.query_params.get("model"), known_models()
    if "model" not in st.session_state and in_address in ready:
        st.session_state["model"] = in_address
    choices = dict.fromkeys([*ready, *st.session_state.setdefault("models of runs", {})])
    with st.container(key="model-picker"), st.popover(plain(Path(model_name()).name), icon=":material/memory:"):
        st.selectbox(
            "Model",
            list(choices),
            key="model",
            accept_new_options=True,
            on_change=use,
            help="Also a folder, a .gguf file or a name of the Hugging Face hub: type it. Runs that were opened add "
            "theirs.",
        )
    if named := address_of_model():
        st.query_params.update(named)
    else:
        st.query_params.pop("model", None)


class OtherModelError(InputError):
    """What is shown was made with a model that this tab does not run: nothing is wrong with it."""


def say(error: InputError) -> None:
    """What was wrong with an input, in one line; what the user wrote is no markup."""
    if isinstance(error, OtherModelError):
        st.info(plain(str(error)))
    else:
        st.error(plain(str(error)), icon=":material/error:")


def asked_last(name: str, key: Hashable, make: Callable[[], Any]) -> Any:
    """What this tab has under a name, made anew unless it was made for the same key."""
    entry = st.session_state.get(name)
    if entry is None or entry[0] != key:
        entry = st.session_state[name] = key, make()
    return entry[1]


@contextmanager
def saying(*, stop: bool = False) -> Iterator[None]:
    """Says what was wrong with an input in the body; the page goes on behind it, or ends there."""
    try:
        yield
    except InputError as error:
        say(error)
        if stop:
            st.stop()


def in_one_line(error: BaseException) -> str:
    """What went wrong behind the pages: many an error has no message, and says only by its type what it is."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


class Loading(threading.Thread):
    """Libraries, then the model, in a thread of its own: pages are painted and clicked meanwhile. ``libraries``,
    ``model``: done when they are there, or, with an :class:`InputError`, when they cannot be. ``began``: on the
    monotonic clock."""

    def __init__(self, spec: str) -> None:
        super().__init__(daemon=True, name=f"loading {spec}")
        self.spec = spec
        self.began = time.monotonic()
        self.libraries: Future = Future()
        self.model: Future = Future()

    def run(self) -> None:
        self._settle(self.libraries, _import_all)
        self._settle(self.model, self._load)
        # Streamlit collects garbage after every click, which would go over all that was just loaded: 0.3 s
        gc.collect()
        gc.freeze()

    def _settle(self, future: Future, work: Callable) -> None:
        try:
            future.set_result(work())
        except InputError as error:  # whoever asks for the result gets it
            future.set_exception(error)
        except BaseException as error:
            # the page has one line of it
            logging.getLogger(__name__).exception("%s cannot be loaded", self.spec)
            future.set_exception(InputError(f"{self.spec} cannot be loaded ({in_one_line(error)})"))

    def _load(self):
        from interp.app.widgets.codebook_picker import ready_made
        from interp.models import load_model

        loaded = load_model(self.spec)
        ready_made(self.spec, loaded)  # read now, so that no page has to wait for them
        return loaded


def _import_all() -> None:
    """Whatever pages import: a first visit should take no longer than the next one."""
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("[a-z]*.py")):
        if path.stem not in ("main", "pages", "page"):  # which serve or draw when they are imported
            importlib.import_module(".".join(("interp.app", *path.relative_to(folder).with_suffix("").parts)))


@st.cache_resource(max_entries=4, show_spinner=False)
def _loading(spec: str) -> Loading:
    thread = Loading(spec)
    thread.start()
    return thread


def loading(spec: str | None = None) -> Loading:
    return _loading(spec or model_name())


def libraries() -> None:
    """Wait, with a word on the page, until what pages import is there; if it cannot be, the page ends with why.

    Modules that are imported from two threads at once can meet half-made.
    """
    _needed("libraries", model_name(), "Starting")


def model(spec: str | None = None):
    """The model, with a word on the page while it is being loaded; if it cannot be, the page ends with why."""
    spec = spec or model_name()
    return _needed("model", spec, f"Loading {plain(spec)}")


def _needed(attribute: str, spec: str, text: str):
    """What the thread that loads makes, begun again if it could not: what was missing may be there by now."""
    thread = loading(spec)
    future = getattr(thread, attribute)
    if future.done() and future.exception() is not None:
        with _BEGINNING:
            if loading(spec) is thread:  # no other tab has begun again
                _loading.clear(spec)
            future = getattr(loading(spec), attribute)
    # also where nothing is waited for, so that what follows keeps its place when the page is drawn again
    place = st.empty()
    if not future.done():
        with place.container(), st.spinner(f"{text}: a few seconds, once", show_time=True):
            pulse = st.empty()
            while not wait([future], PATIENCE).done:
                pulse.empty()  # where Streamlit ends a script whose user has gone elsewhere
        place.empty()
    with saying(stop=True):
        return future.result()


@contextmanager
def running(spec: str | None = None) -> Iterator:
    """The model for one turn, which ends with the body also when Streamlit ends the script in the middle of it.

    A tab that waits says how many are before it. A turn must not be asked for within another one.
    """
    loaded, notice = model(spec), st.empty()

    def waiting(before: int) -> None:
        others = "another tab is" if before == 1 else f"{before} other tabs are"
        notice.info(f"Waiting for the model: {others} before this one.", icon=":material/hourglass_top:")

    with turn(waiting):
        notice.empty()
        yield loaded


@contextmanager
def stage(name: str, total: int) -> Iterator[Callable[..., None]]:
    """As :data:`interp.progress.Stage`, a bar on the page that vanishes with the work."""
    bar, done, began = st.progress(0.0, name), 0, time.monotonic()

    def tell(more: int, note: str = "") -> None:
        nonlocal done
        done += more
        took = time.monotonic() - began
        left = f", about {took / done * (total - done):.0f} s left" if done else ""
        bar.progress(min(1.0, done / max(1, total)), f"{name}: {done} of {total}{left} {note}")

    try:
        yield tell
    finally:
        bar.empty()
