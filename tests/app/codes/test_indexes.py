"""Indexes on the page *Codes*: built, damaged, elsewhere, of another model."""

import json
import os
import shutil
import time

import pytest

from interp.app import engine
from interp.app.codes import build as code_build
from interp.codesearch import CodeIndex
from interp.files import read_json
from tests.app.codes.conftest import NAME, tables_of
from tests.app.conftest import TIMEOUT, button_of, error_of, press, text_of


def _offered(app):
    """The page once the model is there, which an index is built with."""
    engine.loading().model.result(TIMEOUT)
    return app.run()


def _built(app):
    """The page once the build behind it has ended."""
    until = time.monotonic() + 60
    while (build := code_build.running()) is not None and time.monotonic() < until:
        build.join(1)
    return app.run()


def test_an_index_is_built_on_the_page(page, runs, model):
    shutil.rmtree(runs / NAME)
    app = _offered(page(runs))
    app.selectbox(key="build books").set_value("books")
    app.selectbox(key="build tokens").set_value(8_000).run()
    command = app.code[0].value
    press(app, "Build the index")
    built = code_build.IndexPlan("books", 8_000).folder
    assert built.name in command
    app = _built(app)
    assert not app.exception and not app.error
    assert app.selectbox(key="index").options == [built.name]
    index = CodeIndex.open(built)
    assert index.n_tokens == 8_000 // model.cfg.n_ctx * model.cfg.n_ctx
    index.check_model(model)
    assert f"{index.n_tokens:,} tokens in" in text_of(app)
    assert code_build.running() is None


def test_why_a_build_failed_is_seen_beside_another_index(page, runs):
    (runs / "books" / "manifest.json").write_text('{"format": 99}')
    app = _offered(page(runs))
    press(app, "Build the index")
    app = _built(app)
    assert "could not be built" in error_of(app)
    assert not any(expander.error for expander in app.expander)
    assert app.selectbox(key="index").value == NAME and button_of(app, "Build the index")


@pytest.mark.parametrize("damage", ["cut", "unfinished", "link"])
def test_a_damaged_index_is_a_card_and_others_stay_reachable(page, runs, damage):
    shutil.copytree(runs / NAME, runs / "broken")
    manifest, tokens = runs / "broken" / "manifest.json", runs / "broken" / "tokens.npy"
    if damage == "cut":
        os.truncate(tokens, tokens.stat().st_size - 5)
    elif damage == "unfinished":
        manifest.unlink()
    else:
        tokens.symlink_to(tokens.rename(runs.parent / "tokens.npy"))
    app = page(runs, index="broken")
    assert "broken" in error_of(app) and not app.dataframe
    assert "delete its folder and build it again" in text_of(app)
    app.selectbox(key="index").set_value(NAME).run()
    assert not app.error and f"{CodeIndex.open(runs / NAME).n_tokens:,} tokens in" in text_of(app)


def test_an_index_of_another_model_is_searched_but_no_prompt_is_read(page, runs):
    manifest = runs / NAME / "manifest.json"
    described = read_json(manifest)
    described["model"] |= {"spec": "another<b>", "weights": "0"}
    manifest.write_text(json.dumps(described))
    app = page(runs, index=NAME, q="Mary")
    assert not app.error and app.dataframe
    assert "is an index of another<b>" in error_of(page(runs, index=NAME, search="prompt", near="Mary"))
    app = page(runs, index=NAME, code="a0.h1=3")
    assert not app.error and "is an index of another<b>" in text_of(app)


def test_codebooks_elsewhere_are_not_read(page, runs):
    """A foreign index may name any folder of this machine."""
    elsewhere = shutil.copytree(runs / "books", runs.parent / "books elsewhere")
    manifest = runs / NAME / "manifest.json"
    described = read_json(manifest)
    described["books"]["folder"] = str(elsewhere)
    manifest.write_text(json.dumps(described))
    app = page(runs, code="a0.h1=3")
    assert not app.error and "not among the folders that are read" in text_of(app)
    assert "code, cosine, tokens" not in tables_of(app)
