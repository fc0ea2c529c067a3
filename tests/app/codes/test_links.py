"""Links from one page to another name the codebooks: of others the same number is another code."""

import json
import os
import shutil
import threading
from urllib.parse import parse_qs, urlsplit

import pytest

from interp.app.widgets import code_names
from tests.app.codes.conftest import NAME
from tests.app.conftest import unescaped


@pytest.fixture
def others(saved):
    """The same codebooks under another name, which the index was not made with."""
    folder = shutil.copytree(saved / "books", saved / "others")
    yield folder.name
    shutil.rmtree(folder)


def test_codes_of_a_text_lead_to_the_index_of_their_codebooks_and_to_no_other(open_page, saved, others):
    for books in ("books", others):
        app = open_page("live", saved, text="Mary gave a drink", books=books)
        assert not app.exception
        for row in app.dataframe[0].value.itertuples():
            assert parse_qs(urlsplit(row.steer).query)["books"] == [books]
            assert (row.page is None) == (books == others)
            if row.page is not None:
                assert parse_qs(urlsplit(row.page).query) == {"code": [f"{row.site}={row.code}"], "index": [NAME]}


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_an_index_whose_manifest_lies_elsewhere_or_has_no_end_is_not_read(page, runs, kind, monkeypatch):
    monkeypatch.setenv("INTERP_RUNS", str(runs))
    manifest = runs / NAME / "manifest.json"
    stored = json.loads(manifest.read_text(encoding="utf-8"))
    stored["books"]["folder"] = str(runs / "books")
    manifest.write_text(json.dumps(stored), encoding="utf-8")
    assert code_names.books_of(NAME) == "books"
    manifest.rename(runs.parent / "manifest.json")
    if kind == "link":
        manifest.symlink_to(runs.parent / "manifest.json")
    else:
        os.mkfifo(manifest)
    names = []
    reading = threading.Thread(target=lambda: names.append(code_names.books_of(NAME)), daemon=True)
    app = page(runs, index=NAME)
    assert "manifest.json is " in unescaped(app.error[0].value)
    reading.start()
    reading.join(10)
    assert names == [None]
