"""Indexes on the page *Codes*: built, damaged, elsewhere, of another model."""

import json
import shutil
import time

import pytest

from interp.app import engine
from interp.app.codes import build as code_build
from interp.codesearch import (
    CodeIndex,
)
from tests.app.codes.conftest import NAME, button, captions, tables_of, unescaped
from tests.app.conftest import TIMEOUT


def _offered(app):
    """The page once the model is there, which an index is built with."""
    engine.loading().model.result(TIMEOUT)
    return app.run()


@pytest.mark.usefixtures("pretrained_at_mlps")
def test_without_an_index_it_offers_to_build_one_of_the_codebooks_there_are(page, runs):
    shutil.rmtree(runs / NAME)
    app = _offered(page(runs))
    assert "No code index yet" in app.info[0].value
    assert button(app, "Build the index")
    assert app.code[0].value.startswith("interp index build --data stdlib --tokens 24000")
    assert f"--out {runs}/index-" in app.code[0].value
    assert app.selectbox(key="build books").options == ["tiny-mlps", "books"]
    assert not app.dataframe and not app.error
    assert (
        "--codebooks tiny-mlps --out" in app.code[0].value and "-tiny-mlps-stdlib-24000" in app.code[0].value
    )


@pytest.mark.usefixtures("pretrained_at_mlps")
def test_codebooks_of_any_name_have_an_index_apart_from_those_of_the_package(page, runs):
    shutil.copytree(runs / "books", runs / "mlps")
    _offered(page(runs))
    folders = [code_build.Plan(books, 8_000).folder.name for books in ("mlps", "tiny-mlps")]
    assert len(set(folders)) == 2
    assert [code_build.plan_of(name).books for name in folders] == ["mlps", "tiny-mlps"]


def test_without_codebooks_it_says_how_to_make_some(page, tmp_path):
    app = _offered(page(tmp_path))
    assert "No code index yet" in app.info[0].value and "No codebooks for" in app.info[1].value
    assert app.code[0].value.startswith("interp codebook fit") and not app.button and not app.error


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
    button(app, "Build the index").click().run()
    assert not app.exception
    built = code_build.Plan("books", 8_000).folder
    assert built.name in command
    app = _built(app)
    assert not app.exception and not app.error
    assert app.selectbox(key="index").options == [built.name]
    index = CodeIndex.open(built)
    assert (
        index.n_tokens == 8_000 // 128 * 128 or index.n_tokens == 8_000 // model.cfg.n_ctx * model.cfg.n_ctx
    )
    index.check_model(model)
    assert f"{index.n_tokens:,} tokens in" in captions(app)
    assert code_build.running() is None


def test_why_a_build_failed_is_seen_beside_another_index(page, runs):
    (runs / "books" / "manifest.json").write_text('{"format": 99}')
    app = _offered(page(runs))
    button(app, "Build the index").click().run()
    app = _built(app)
    [error] = app.error
    assert "could not be built" in error.value
    assert not any(expander.error for expander in app.expander)
    assert app.selectbox(key="index").value == NAME and button(app, "Build the index")


def test_a_build_that_was_killed_goes_on(page, runs):
    app = page(runs)
    plan = code_build.Plan("books", 8_000)

    class Killed(Exception):  # noqa: N818 - as if the process had ended
        pass

    build = code_build.Build(plan)
    stage = build._stage

    def killing(name, total):
        if name == "listing codes":
            raise Killed
        return stage(name, total)

    build._stage = killing
    build.run()
    assert build.error == "Killed" and (plan.folder / ".work").is_dir()
    app = page(runs, index=plan.folder.name)
    assert "not finished" in unescaped(app.error[0].value)
    assert NAME in app.selectbox(key="index").options
    button(app, "Go on building it").click().run()
    app = _built(app)
    assert not app.error and app.selectbox(key="index").value == plan.folder.name
    assert CodeIndex.open(plan.folder).n_tokens > 0


def test_an_error_without_a_message_is_told_by_its_type_and_logged(page, runs, monkeypatch, caplog):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(code_build, "load", fail)
    app = _offered(page(runs))
    button(app, "Build the index").click().run()
    app = _built(app)
    assert app.error[0].value.endswith("could not be built\\: MemoryError")
    assert any(record.exc_info and "cannot be built" in record.message for record in caplog.records)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "..", ".", "books", f"{NAME}/../../elsewhere"])
def test_an_address_cannot_name_an_index_outside_the_runs_folder(page, runs, name):
    shutil.copytree(runs / NAME, runs.parent / "elsewhere")
    app = page(runs, index=name)
    assert app.selectbox(key="index").value == NAME and app.selectbox(key="index").options == [NAME]


@pytest.mark.parametrize("damage", ["truncated", "format", "missing", "cut", "unfinished", "link"])
def test_a_damaged_index_is_a_card_and_others_stay_reachable(page, runs, damage):
    broken = runs / "broken"
    shutil.copytree(runs / NAME, broken)
    manifest = broken / "manifest.json"
    if damage == "truncated":
        manifest.write_text(manifest.read_text()[:100])
    elif damage == "format":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    elif damage == "missing":
        (broken / "ids.npy").unlink()
    elif damage == "cut":
        (broken / "tokens.npy").write_bytes((broken / "tokens.npy").read_bytes()[:-5])
    elif damage == "link":
        (broken / "tokens.npy").rename(runs.parent / "tokens.npy")
        (broken / "tokens.npy").symlink_to(runs.parent / "tokens.npy")
    else:
        manifest.unlink()
    app = page(runs, index="broken")
    [error] = app.error
    assert "broken" in error.value and "\n" not in error.value and not app.dataframe
    assert "delete its folder and build it again" in captions(app)
    app.selectbox(key="index").set_value(NAME).run()
    assert not app.error and f"{CodeIndex.open(runs / NAME).n_tokens:,} tokens in" in captions(app)


def test_an_index_of_another_model_is_searched_but_no_prompt_is_read(page, runs):
    manifest = runs / NAME / "manifest.json"
    found = json.loads(manifest.read_text())
    found["model"] |= {"spec": "another<b>", "weights": "0"}
    manifest.write_text(json.dumps(found))
    app = page(runs, q="Mary")
    assert not app.error and app.dataframe
    app = page(runs, search="prompt", near="Mary")
    [error] = app.error
    assert "is an index of another<b>" in unescaped(error.value) and "<" not in error.value.replace(r"\<", "")
    app = page(runs, code="a0.h1=3")
    assert not app.error and "is an index of another<b>" in captions(app)


def test_codebooks_elsewhere_are_not_read(page, runs):
    """A foreign index may name any folder of this machine."""
    shutil.copytree(runs / "books", runs.parent / "books elsewhere")
    manifest = runs / NAME / "manifest.json"
    found = json.loads(manifest.read_text())
    found["books"]["folder"] = str(runs.parent / "books elsewhere")
    manifest.write_text(json.dumps(found))
    app = page(runs, code="a0.h1=3")
    assert not app.error and "not among the folders that are read" in captions(app)
    assert "code, cosine, tokens" not in tables_of(app)
