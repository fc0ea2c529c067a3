"""The codebooks that a page works with: shipped ones, or a folder of the runs folder."""

import shlex
from pathlib import Path

import streamlit as st

from interp import DEFAULT_MODEL
from interp.app import engine
from interp.app.widgets import run_store
from interp.app.widgets.tokens import plain
from interp.app.widgets.url_state import IN_URL, tell_missing
from interp.bottlenecks.store import MANIFEST, Codebooks, check_made_with, codebooks_fingerprint, pretrained_names
from interp.codesearch.index import MADE_WITH
from interp.errors import InputError
from interp.files import unused
from interp.steering.cache import identity


def fit_command(spec: str | None = None) -> str:
    """What makes codebooks that this page finds, of the workbench's model unless another is named."""
    spec = spec or engine.model_name()
    folder, working_folder = engine.runs() / "codebooks", Path.cwd()
    out = unused(folder) if (folder / MANIFEST).exists() else folder  # one that was not finished goes on
    out = out.relative_to(working_folder) if out.is_relative_to(working_folder) else out
    words = ["interp", "codebook", "fit", "--k", "1", "--out", str(out)]
    return shlex.join(words + model_option(spec))


def model_option(spec: str) -> list[str]:
    """What a command needs to run on a model."""
    return [] if spec == DEFAULT_MODEL else ["--model", spec]


def none_yet(spec: str) -> None:
    """Say how to make codebooks of a model that has none."""
    st.info(f"No codebooks for {plain(spec)} yet. Make some in a terminal, then reload this page:")
    st.code(fit_command(spec), language="bash")


def choose(spec: str | None = None) -> tuple[str | Path, Codebooks]:
    """A name of shipped ones or a folder, and its codebooks, of the workbench's model unless another is named; without
    any the page ends here. The choice is in the URL."""
    spec = spec or engine.model_name()
    model = engine.model(spec)
    names = names_for(spec, model)
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
    source = source_of(name)
    try:
        with st.spinner("Reading codebooks"):
            return source, _books(spec, source, changed(source), model)
    except InputError as error:
        engine.say(error)
        st.caption("Choose others, or make some in a terminal:")
        st.code(fit_command(spec), language="bash")
        st.stop()


def fitting(kind: str, spec: str, model) -> list[str]:
    """Folders of codebooks or of indexes that were made with a model, newest first, and those that do not tell."""
    manifests = {name: engine.runs() / name / MANIFEST for name in run_store.folders(kind)}
    return [
        name
        for name, path in manifests.items()
        if not path.is_file() or _fits(path, path.stat().st_mtime_ns, spec, model)
    ]


@st.cache_data(max_entries=256, show_spinner=False)
def _fits(manifest: Path, changed: int, spec: str, _model) -> bool:  # noqa: ARG001 - keys of the cache
    described = run_store.says(manifest, "model")
    try:
        if isinstance(described, dict):
            check_made_with(described, _model, MADE_WITH, "it is")
    except InputError:
        return False
    return True


def source_of(name: str) -> str | Path:
    """What :meth:`~interp.bottlenecks.store.Codebooks.from_pretrained` takes for a name that is shown."""
    return name if name in pretrained_names() else engine.runs() / name


def name_of(source: str | Path) -> str:
    """What codebooks are called on the pages: the other way round than :func:`source_of`."""
    return Path(source).name


@st.cache_resource(show_spinner=False)
def pretrained_fingerprint(name: str, sites: tuple[str, ...]) -> str | None:
    """Of shipped codebooks at some sites; None where they cannot be read."""
    try:
        codebooks = Codebooks.from_pretrained(name)
        return codebooks_fingerprint({site: codebooks[site] for site in sites})
    except (InputError, KeyError):
        return None


def ready_made(spec: str, model) -> tuple[str, Codebooks] | None:
    """The first codebooks that come with the package for a model, read already, by their name."""
    names = _shipped(spec, model)
    return (names[0], _books(spec, names[0], 0, model)) if names else None


def made_with(source: str | Path, books: Codebooks) -> str:
    """The identity of the model with what :func:`choose` gave."""
    return _identity(engine.model_name(), source, changed(source), engine.model(), books)


def changed(source: str | Path) -> int:
    """When codebooks were written; shipped ones stay as they are."""
    return run_store.changed(source / MANIFEST) if isinstance(source, Path) else 0


def load(source: str | Path, model) -> Codebooks:
    """Codebooks of a name or folder, read anew; no file of theirs may be a link to another place."""
    if isinstance(source, Path):
        run_store.check_inside(source)
    return Codebooks.from_pretrained(source, model)


def names_for(spec: str, model) -> list[str]:
    """Codebooks that there are for a model, shipped ones first."""
    return _shipped(spec, model) + fitting("codebooks", spec, model)


@st.cache_resource(show_spinner=False)
def _shipped(spec: str, _model) -> list[str]:  # noqa: ARG001 - key of the cache
    return pretrained_names(_model)


# two tabs may have four sets in use. Shipped ones, 12 and 9 MB on disk, take 41 and 36 MB of memory, eight like them
# 0.3 GB. Of 4096 codes of 576 numbers in each of 30 layers they would take 0.3 GB each: then eight are 2.3 GB
@st.cache_resource(max_entries=8, show_spinner=False)
def _books(spec: str, source: str | Path, changed: int, _model) -> Codebooks:  # noqa: ARG001 - keys of the cache
    return load(source, _model)


@st.cache_resource(max_entries=8, show_spinner=False)
def _identity(spec: str, source: str | Path, changed: int, _model, _books: Codebooks) -> str:  # noqa: ARG001
    return identity(_model, _books)
