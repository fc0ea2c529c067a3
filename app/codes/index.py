"""The code index of the page *Codes*: looked up by name in the runs folder, opened once for all tabs."""

from hashlib import sha256
from pathlib import Path

import streamlit as st

from interp.app import engine
from interp.app.widgets import run_store
from interp.bottlenecks.store import PRETRAINED
from interp.codesearch import CoarseIndex, CodeIndex, coarse_level, labels_of
from interp.codesearch.annotations import Annotation, Annotations
from interp.codesearch.index import MANIFEST, ready_index
from interp.errors import InputError

ANNOTATIONS = "annotations.json"


def opened(name: str) -> CodeIndex:
    """The index in a folder of the runs folder; an :class:`InputError` says why it cannot be opened."""
    folder = engine.runs() / name
    return _opened(folder, changed(folder))


def changed(folder: Path) -> float:
    """When it was finished, 0 if it was not: what was read of another one of that name is not used any more."""
    try:
        return (folder / MANIFEST).stat().st_mtime
    except OSError:
        return 0.0


BY_FOLDER = {
    CodeIndex: lambda index: (index.folder, changed(index.folder)),
    CoarseIndex: lambda index: (index.folder, changed(index.folder), changed_labels(index.fine), "coarse"),
}
"""What Streamlit's caches know an index by."""


@st.cache_resource(max_entries=4, show_spinner="Opening the index")
def _opened(folder: Path, changed: float) -> CodeIndex:  # noqa: ARG001 - a key of the cache
    import plotly.graph_objects  # noqa: F401 - for the first code's page

    run_store.check_inside(folder)
    try:
        return ready_index(folder, [engine.runs(), PRETRAINED])
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror or error}): reload the page") from None


def changed_labels(index: CodeIndex) -> str:
    """What an index's coarse level is known by."""
    labels = labels_of(index)
    return "" if labels is None or not labels.groups else sha256(labels.columns["coarse"].tobytes()).hexdigest()


@st.cache_resource(max_entries=2, show_spinner="Merging codes", hash_funcs=BY_FOLDER)
def _coarse(index: CodeIndex, changed: str) -> CoarseIndex:  # noqa: ARG001 - a key of the cache
    return coarse_level(index)


def coarse(index: CodeIndex) -> CoarseIndex:
    return _coarse(index, changed_labels(index))


def comparable(name: str, index: CodeIndex) -> bool:
    """Whether an index has the codes of the same codebooks; no more than its manifest is read."""
    books = run_store.says(engine.runs() / name / MANIFEST, "books")
    return isinstance(books, dict) and books | {"folder": None} == index.manifest["books"] | {"folder": None}


def kept_annotations(index: CodeIndex) -> Annotations:
    """The file of stars and annotations, which is no link to another place."""
    run_store.check_inside(engine.runs() / ANNOTATIONS)
    return Annotations(engine.runs() / ANNOTATIONS, index.manifest["books"]["fingerprint"])


def annotations(index: CodeIndex) -> dict[tuple[str, int], Annotation]:
    """Stars and notes on its codes; if they cannot be read the page says so and goes on without."""
    with engine.saying():
        return kept_annotations(index).all()
    return {}


def describe(index: CodeIndex) -> str:
    text, model = index.manifest["text"], index.manifest["model"]
    read = "" if index.manifest["error_term"] else ", every codebook in place"
    return (
        f"{index.n_tokens:,} tokens in {len(index.corpus.documents):,} documents of {text.get('spec')}, read by "
        f"{model.get('spec')}{read}; {index.layout.n_codes:,} codes in {len(index.books)} codebooks"
    )
