"""The shell of the workbench: the first page, what it finds, where it listens, and what goes wrong in loading."""

import tomllib
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from interp.app import engine
from interp.app.widgets import run_store
from tests.app.conftest import MAIN, TIMEOUT, text_of

APP = Path(__file__).parent.parent.parent / "app"
VIEWS = sorted(path.parent.name for path in APP.glob("*/page.py"))


def _write(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}", encoding="utf-8")


@pytest.fixture
def start(tiny_model_folder, monkeypatch, tmp_path):
    """Opens the first page on a runs folder and waits for the model that it began to load."""

    def open_it(model: str | None = None) -> AppTest:
        monkeypatch.setenv("INTERP_MODEL", model or str(tiny_model_folder("llama")))
        monkeypatch.setenv("INTERP_RUNS", str(tmp_path / "runs"))
        app = AppTest.from_file(str(MAIN), default_timeout=TIMEOUT).run()
        engine.loading().model.exception(timeout=TIMEOUT)
        app.run()
        assert not app.exception
        return app

    return open_it


def test_the_first_page_leads_everywhere_and_counts_what_lies_in_the_runs_folder(start, tmp_path):
    app = start()
    assert "is ready: 2 layers of 4 heads" in text_of(app)
    links = {link.proto.page.rpartition("/")[2] for link in app.get("page_link")}
    assert links == {view for view in VIEWS if view != "start"}
    assert "no runs · no code indexes · no sets of codebooks · no benches" in text_of(app)
    runs = tmp_path / "runs"
    for name in ("a", "b", ".hidden"):
        _write(runs / name, "run.json")
    _write(runs / "index", "manifest.json", "ids.npy")
    _write(runs / "books", "manifest.json")
    assert "2 runs · 1 code index · 1 set of codebooks · no benches" in text_of(start())
    assert sorted(run_store.folders("runs")) == ["a", "b"]


def test_a_model_that_cannot_be_loaded_is_named_on_the_first_page_and_on_others(start):
    app = start("nowhere/<b>nothing</b>")
    assert "is ready" not in text_of(app) and "nowhere/<b>nothing" in text_of(app)
    app.switch_page("live/page.py").run()
    assert not app.exception and len(app.error) == 1 and r"\<b\>" in app.error[0].value


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_opens_on_an_empty_folder(open_page, tmp_path, view):
    app = open_page(view, tmp_path / "none")
    assert len(app.title) == 1 and not app.error and not (tmp_path / "none").exists()


def test_it_listens_on_this_machine_only():
    config = tomllib.loads((APP / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert config["server"]["address"] == "127.0.0.1"
