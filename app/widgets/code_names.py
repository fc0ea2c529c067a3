"""What codes are called on the pages, and addresses with their codebooks: of others the same number is another code."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from interp.app import engine
from interp.app.codes import index as code_index
from interp.app.widgets import run_store
from interp.app.widgets.codebook_picker import pretrained_fingerprint
from interp.bottlenecks.edits import code_name
from interp.bottlenecks.store import MANIFEST as CODEBOOKS
from interp.bottlenecks.store import Codebooks, pretrained_names
from interp.codesearch import CodeIndex, Labels, labels_of
from interp.codesearch.index import MANIFEST
from interp.report import wording


def steering_by(codes: str, books: str) -> str:
    """The address of steering by codes, as they are typed there, of codebooks by what they are called."""
    query = {"books": books, "source": "by name", "codes": codes}
    return f"/steering?{urlencode(query | engine.address_of_model())}"


def code_pages(books: str) -> Callable[[str, int], str | None]:
    """The address of the page of a code, by its site and number, for many codes of codebooks by what they are called.

    It is in the newest index made with them; None where all indexes are of others.
    """
    names = run_store.folders("indexes")
    index = next((name for name in names if books_of(name) == books), None)
    model_query = engine.address_of_model()

    def page(site: str, code: int) -> str | None:
        if index is None and names:
            return None
        query = {"code": code_name(site, code)} | ({} if index is None else {"index": index}) | model_query
        return f"/codes?{urlencode(query, safe='=')}"

    return page


def books_of(index: str) -> str | None:
    """What the codebooks of an index are called here; None if they lie elsewhere, were made anew, or are not named."""
    folder = engine.runs() / index
    made_with = run_store.says(folder / MANIFEST, "books")
    try:
        place, sites = Path(made_with["folder"]).resolve(), tuple(map(str, made_with["sites"]))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    if place.parent != engine.runs():
        if place.name not in pretrained_names():
            return None
        # a folder of the package has held others in other versions of it
        unchanged = pretrained_fingerprint(place.name, sites) == made_with.get("fingerprint")
        return place.name if unchanged else None
    try:
        written_at = (place / CODEBOOKS).stat().st_mtime
    except OSError:
        return None
    return place.name if written_at <= code_index.changed(folder) else None


def labels(source: CodeIndex | Codebooks) -> Labels | None:
    """Those of an index or of codebooks; if they cannot be read the page says so and goes on without."""
    with engine.saying():
        return labels_of(source)
    return None


def beside(names: Labels | None) -> Callable[[str, int], dict[str, str]]:
    """What a code stands for as a table's column, which is not there where no code has a label."""
    return lambda site, code: {} if names is None else {"stands for": wording.code_label(names, site, code)}
