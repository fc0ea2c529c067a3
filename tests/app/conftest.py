"""A tiny model with codebooks in a runs folder of its own, and pages of the workbench on it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit import config
from streamlit.testing.v1 import AppTest

from interp.app.widgets import codebook_picker as books
from interp.bottlenecks import store
from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.models import load_model
from interp.text import load_text

MAIN = Path(__file__).parent.parent.parent / "app" / "pages.py"
TIMEOUT = 60
N_CODES = 12


@pytest.fixture(scope="session", autouse=True)
def _as_the_workbench_is_configured() -> None:
    """``app/.streamlit/config.toml`` is read by ``streamlit run``, not here. Without it each page is parsed for bare
    expressions, and Python 3.11 may fail if another thread parses at the same time."""
    config.set_option("runner.magicEnabled", False)


@pytest.fixture(scope="session")
def runs_with_books(tiny_model_folder, tmp_path_factory) -> Path:
    """A runs folder with ``books``: 12 codes, 2 per vector, at all heads and MLPs of the tiny Llama."""
    folder = tmp_path_factory.mktemp("runs")
    model = load_model(str(tiny_model_folder("llama")))
    text = load_text("stdlib", model, n_tokens=640, context=32)
    config = FitConfig(n_codes=N_CODES, k=2, selection="matching_pursuit")
    fit_codebooks(model, ["heads", "mlps"], text, folder / "books", config)
    return folder


@pytest.fixture
def pretrained_at_mlps(tiny_model_folder, tmp_path_factory, monkeypatch) -> None:
    """The package comes with codebooks of the tiny Llama, at MLP outputs and nowhere else."""
    folder = tmp_path_factory.mktemp("package")
    model = load_model(str(tiny_model_folder("llama")))
    text = load_text("stdlib", model, n_tokens=320, context=32)
    fit_codebooks(model, ["mlps"], text, folder / "tiny-mlps", FitConfig(n_codes=N_CODES, k=1))
    books.names_of.clear()
    with monkeypatch.context() as package:
        package.setattr(store, "PRETRAINED", folder)
        yield
    books.names_of.clear()


@pytest.fixture
def open_page(tiny_model_folder, monkeypatch) -> Callable[..., AppTest]:
    """Opens a page by its file, on a runs folder, with what the address says."""

    def open_it(view: str, runs: Path, **address: str) -> AppTest:
        monkeypatch.setenv("INTERP_MODEL", str(tiny_model_folder("llama")))
        monkeypatch.setenv("INTERP_RUNS", str(runs))
        app = AppTest.from_file(str(MAIN), default_timeout=TIMEOUT).run()
        app.switch_page(f"{view}/page.py")
        for name, value in address.items():
            app.query_params[name] = value
        app.run()
        assert not app.exception
        return app

    return open_it


def html_of(app: AppTest) -> list[str]:
    """HTML of the page, without the style sheet of the workbench."""
    bodies = [element.proto.body for element in app.get("html")]
    return [body for body in bodies if not body.startswith("<style>")]


def files_of(folder: Path) -> dict[str, int]:
    """Every file below a folder and when it was last written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
