"""Addresses of a code's page and of steering by it, with the codebooks: of others the same number is another code."""

from pathlib import Path
from urllib.parse import urlencode

import streamlit as st

from interp.app import code_index, engine, shelf
from interp.app.books import shipped_name
from interp.codesearch.index import MANIFEST
from interp.files import read_json


def steering_by(codes: str, books: str) -> str:
    """The address of steering by codes, as they are typed there, of codebooks by what they are called."""
    return f"/steering?{urlencode({'books': books, 'source': 'by name', 'codes': codes})}"


def page_of(site: str, code: int, books: str) -> str | None:
    """The address of a code's page in the newest index made with codebooks of a name, None where all are of others."""
    names = shelf.folders("indexes")
    index = next((name for name in names if made_with(name) == books), None)
    if index is None and names:
        return None
    return f"/codes?{urlencode({'code': f'{site}:{code}'} | ({} if index is None else {'index': index}), safe=':')}"


def made_with(index: str) -> str | None:
    """What the codebooks of an index are called here, None if they lie elsewhere or it does not say."""
    folder = engine.runs() / index
    return _made_with(folder, code_index.changed(folder))


@st.cache_data(max_entries=64, show_spinner=False)
def _made_with(folder: Path, changed: float) -> str | None:  # noqa: ARG001 - a key of the cache
    try:
        where = read_json(folder / MANIFEST)["books"]["folder"]
        path = Path(where)
    except (OSError, ValueError, KeyError, TypeError):  # the page Codes says what is wrong with it
        return None
    return path.name if path.parent == engine.runs() else shipped_name(path)
