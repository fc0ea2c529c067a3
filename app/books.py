"""The codebooks that a page works with: those of the package, or a folder of the runs folder."""

from pathlib import Path

import streamlit as st

from interp.app import engine
from interp.app.tokens import plain
from interp.bottlenecks.book_folder import MANIFEST, BookFolder, load_codebooks
from interp.bottlenecks.shipped import default_codebooks
from interp.tasks.errors import InputError

SHIPPED = "those of the package"
_FIT = "interp codebook fit --data self --tokens 11000 --codes 512 --k 1 --selection residual"


def folders() -> list[str]:
    """Names of the folders of codebooks; a name from outside is only ever looked up in this list."""
    if not engine.runs().is_dir():
        return []
    return sorted(
        folder.name
        for folder in engine.runs().iterdir()
        if folder.name[0] != "." and BookFolder.exists(folder)
    )


def fit_command() -> str:
    """What makes codebooks that this page finds."""
    out, here = engine.runs() / "codebooks", Path.cwd()
    out = out.relative_to(here) if out.is_relative_to(here) else out
    spec = engine.model_name()
    return f"{_FIT} --out {out}" + ("" if spec == engine.DEFAULT_MODEL else f" --model {spec}")


def choose() -> tuple[Path | None, dict]:
    """The folder (None for those of the package) and its codebooks by site; without any the page ends here.

    The choice is in the URL.
    """
    model, spec = engine.model(), engine.model_name()
    names = ([SHIPPED] if _shipped(spec, model) else []) + folders()
    if not names:
        st.info(f"No codebooks for {plain(spec)} yet. Make some in a terminal, then reload this page:")
        st.code(fit_command(), language="bash")
        st.stop()
    name = st.selectbox(
        "Codebooks",
        names,
        key="books",
        bind="query-params",
        help="Those that come with the package, and folders of the runs folder.",
    )
    folder = None if name == SHIPPED else engine.runs() / name
    try:
        return folder, _books(spec, folder, 0.0 if folder is None else _changed(folder), model)
    except InputError as error:
        engine.say(error)
        st.caption("Choose others, or make some in a terminal:")
        st.code(fit_command(), language="bash")
        st.stop()


def _changed(folder: Path) -> float:
    return (folder / MANIFEST).stat().st_mtime


@st.cache_resource(show_spinner=False)
def _shipped(spec: str, _model) -> bool:  # noqa: ARG001 - key of the cache
    try:
        default_codebooks(_model)
    except InputError:
        return False
    return True


@st.cache_resource(max_entries=2, show_spinner="Reading codebooks")
def _books(spec: str, folder: Path | None, changed: float, _model) -> dict:  # noqa: ARG001 - keys of the cache
    return load_codebooks(folder, _model)
