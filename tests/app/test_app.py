"""The shell of the workbench: the page *Start*, what it finds, where it listens, and what goes wrong in loading."""

import tomllib
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from interp.app import engine
from interp.app.widgets import run_store
from interp.app.widgets.tokens import plain
from tests.app.conftest import MAIN, TIMEOUT, asked, press, text_of
from tests.report.synthetic import make_run

APP = Path(__file__).parent.parent.parent / "app"
VIEWS = sorted(path.parent.name for path in APP.glob("*/page.py"))


def _write(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}", encoding="utf-8")


@pytest.fixture
def start(tiny_model_folder, monkeypatch, tmp_path):
    """Opens *Start* on a runs folder and waits for the model that it began to load."""

    def open_it(model: str | None = None) -> AppTest:
        monkeypatch.setenv("INTERP_MODEL", model or str(tiny_model_folder("llama")))
        monkeypatch.setenv("INTERP_RUNS", str(tmp_path / "runs"))
        app = AppTest.from_file(str(MAIN), default_timeout=TIMEOUT)
        app.session_state["a"] = app.session_state["b"] = ""  # the first page explains nothing
        engine.loading().model.exception(timeout=TIMEOUT)
        app.run().switch_page("start/page.py").run()
        assert not app.exception
        return app

    return open_it


def test_start_leads_everywhere_and_counts_what_lies_in_the_runs_folder(start, tmp_path):
    app = start()
    assert "is ready: 2 layers of 4 heads" in text_of(app)
    links = {link.proto.page.rpartition("/")[2] for link in app.get("page_link")}
    assert links == {view.replace("why", "") for view in VIEWS if view != "start"}
    assert "no runs · no code indexes · no sets of codebooks · no benches" in text_of(app)
    runs = tmp_path / "runs"
    for name in ("a", "b", ".hidden"):
        _write(runs / name, "run.json")
    _write(runs / "index", "manifest.json", "ids.npy")
    _write(runs / "books", "manifest.json")
    assert "2 runs · 1 code index · 1 set of codebooks · no benches" in text_of(start())
    assert sorted(run_store.folders("runs")) == ["a", "b"]


def test_a_model_that_cannot_be_loaded_is_named_on_every_page(start):
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


def test_a_model_is_chosen_in_the_workbench_and_lists_show_what_was_made_with_it(open_page, runs_with_books):
    app = open_page("live", runs_with_books)
    assert app.selectbox(key="books").options == ["books"]
    app.session_state["models of runs"] = dict.fromkeys(("planted-backup", "/etc/models"))  # as if typed
    app.run()
    app.selectbox(key="model").set_value("planted-backup").run()
    assert not app.exception and asked(app, "model") == "planted-backup"
    assert "No codebooks for planted\\-backup yet" in app.info[0].value
    app.switch_page("start/page.py").run()
    assert "planted-backup** is ready" in text_of(app)
    # an address can name it from now on, and nothing that nobody has chosen
    for given, taken in (("planted-backup", True), ("/etc/models", False)):
        other = AppTest.from_file(str(MAIN), default_timeout=TIMEOUT)
        other.query_params["model"] = given
        chosen = other.run().selectbox(key="model")
        assert (chosen.value == given) is taken and (taken or chosen.value == chosen.options[0])
    app.switch_page("live/page.py").run()
    app.selectbox(key="model").set_value("/etc/models").run()
    assert "there is no file or folder" in app.error[0].value and app.selectbox(key="model").value == "/etc/models"


def test_a_run_of_another_model_is_opened_and_offers_to_load_it(open_page, tmp_path, tiny_model_folder):
    other = str(tiny_model_folder("gpt2"))
    make_run(n_layers=2, n_heads=4, members=2, n_pairs=10, model=other).save(tmp_path / "theirs")
    app = open_page("circuit", tmp_path)
    assert "Not listed: 1 of other models" in text_of(app)
    app = open_page("circuit", tmp_path, run="theirs")
    assert app.info and "this workbench runs" in app.info[0].value
    press(app, f"Load {plain(other)}")
    assert engine.known_models()[-1] == other and app.selectbox(key="model").value == other
    assert app.selectbox(key="run").value == "theirs" and not app.info
