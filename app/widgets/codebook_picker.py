"""The codebooks that a page works with: those of the package, or a folder of the runs folder."""

import contextlib
import shlex
from pathlib import Path

import streamlit as st

from interp import DEFAULT_MODEL
from interp.app import engine
from interp.app.widgets import run_store
from interp.app.widgets.tokens import plain
from interp.app.widgets.url_state import IN_URL, tell_missing
from interp.bottlenecks.store import (
    MANIFEST,
    MLPS,
    CodebookStore,
    at_mlps,
    books_fingerprint,
    codebooks_folder,
    load_codebooks,
)
from interp.bottlenecks.store import SHIPPED as PACKAGED
from interp.errors import InputError
from interp.files import unused
from interp.steering.cache import identity

SHIPPED = "those of the package"
SHIPPED_MLPS = "those of the package at MLP outputs"
_FIT = "codebook fit --k 1"


def fit_command(spec: str | None = None) -> str:
    """What makes codebooks that this page finds, of the workbench's model unless another is named."""
    spec = spec or engine.model_name()
    folder, here = engine.runs() / "codebooks", Path.cwd()
    out = unused(folder) if (folder / MANIFEST).exists() else folder  # one that was not finished goes on
    out = out.relative_to(here) if out.is_relative_to(here) else out
    words = ["interp", *_FIT.split(), "--out", str(out)]
    return shlex.join(words + ([] if spec == DEFAULT_MODEL else ["--model", spec]))


def none_yet(spec: str) -> None:
    """Say how to make codebooks of a model that has none."""
    st.info(f"No codebooks for {plain(spec)} yet. Make some in a terminal, then reload this page:")
    st.code(fit_command(spec), language="bash")


def choose(spec: str | None = None) -> tuple[Path | None, dict]:
    """The folder (None for those of the package) and its codebooks by site; without any the page ends here.

    The choice is in the URL.

    Args:
        spec: whose they are, if not the workbench's model's.
    """
    spec = spec or engine.model_name()
    model = engine.model(spec)
    names = shipped_names(spec, model) + run_store.folders("codebooks")
    tell_missing("books", names, "folder of codebooks")
    if not names:
        none_yet(spec)
        st.stop()
    name = st.selectbox(
        "Codebooks",
        names,
        key="books",
        bind=IN_URL,
        help="Those that come with the package, and folders of the runs folder.",
    )
    folder = folder_of(name)
    try:
        with st.spinner("Reading codebooks"):
            return folder, _books(spec, folder, changed(folder), model)
    except InputError as error:
        engine.say(error)
        st.caption("Choose others, or make some in a terminal:")
        st.code(fit_command(spec), language="bash")
        st.stop()


def folder_of(name: str) -> Path | None:
    """What :func:`~interp.bottlenecks.store.load_codebooks` takes for a name that is shown."""
    return {SHIPPED: None, SHIPPED_MLPS: MLPS}.get(name, engine.runs() / name)


def name_of(folder: Path | None) -> str:
    """What codebooks are called on the pages: the other way round than :func:`folder_of`."""
    return {None: SHIPPED, MLPS: SHIPPED_MLPS}.get(folder) or folder.name


def shipped_name(path: Path) -> str | None:
    """What a folder of codebooks of the package is called, None for any other."""
    if path.parts[-4:-1] != PACKAGED.parts[-3:]:  # wherever the package was installed when they were read
        return None
    try:
        return SHIPPED_MLPS if at_mlps(CodebookStore.open(PACKAGED / path.name)) else SHIPPED
    except InputError:  # of another version of the package
        return None


@st.cache_resource(show_spinner=False)
def shipped_fingerprint(folder: str, sites: tuple[str, ...]) -> str | None:
    """Of the codebooks of the package in a folder of theirs at some sites; None where they cannot be read."""
    try:
        books = CodebookStore.open(PACKAGED / folder).books()
        return books_fingerprint({site: books[site] for site in sites})
    except (InputError, KeyError):
        return None


def prepare(spec: str, model) -> None:
    """Read the codebooks of the package, so that no page has to wait for them."""
    if SHIPPED in shipped_names(spec, model):
        _books(spec, None, changed(None), model)


def made_with(folder: Path | None, books: dict) -> str:
    """The identity of the model with what :func:`choose` gave.

    Raises:
        InputError: as :func:`changed`.
    """
    return _identity(engine.model_name(), folder, changed(folder), engine.model(), books)


def changed(folder: Path | None) -> int:
    """When codebooks were written; those of the package stay as they are.

    Raises:
        InputError: as :func:`~interp.app.widgets.run_store.changed`.
    """
    return 0 if folder in (None, MLPS) else run_store.changed(folder / MANIFEST)


def load(folder: Path | None, model) -> dict:
    """The codebooks of a folder, read anew.

    Raises:
        InputError: none for this model, damaged ones, or a file of theirs that is a link to another place.
    """
    if folder not in (None, MLPS):
        run_store.check_inside(folder)
    return load_codebooks(folder, model)


@st.cache_resource(show_spinner=False)
def shipped_names(spec: str, _model) -> list[str]:  # noqa: ARG001 - key of the cache
    """Those of :data:`SHIPPED` and :data:`SHIPPED_MLPS` that there are for a model."""
    found = []
    for name in (SHIPPED, SHIPPED_MLPS):
        with contextlib.suppress(InputError):
            codebooks_folder(_model, folder_of(name))
            found.append(name)
    return found


# two tabs may have four sets in use. The package's, 12 and 9 MB on disk, take 41 and 36 MB of memory, eight like them
# 0.3 GB. Of 4096 codes of 576 numbers in each of 30 layers they would take 0.3 GB each: then eight are 2.3 GB
@st.cache_resource(max_entries=8, show_spinner=False)
def _books(spec: str, folder: Path | None, changed: int, _model) -> dict:  # noqa: ARG001 - keys of the cache
    return load(folder, _model)


@st.cache_resource(max_entries=8, show_spinner=False)
def _identity(spec: str, folder: Path | None, changed: int, _model, _books: dict) -> str:  # noqa: ARG001
    return identity(_model, _books)
