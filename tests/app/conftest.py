"""A tiny model with codebooks in a runs folder of its own, pages of the workbench on it, and what stands on them."""

import base64
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from streamlit import config
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.bottlenecks.store import Codebooks
from interp.codesearch.labels import MIXED, Labels
from interp.text import load_text

MAIN = Path(__file__).parent.parent.parent / "app" / "pages.py"
TIMEOUT = 60
N_CODES = 12


@pytest.fixture(scope="session", autouse=True)
def _as_the_workbench_is_configured() -> None:
    """``app/.streamlit/config.toml`` is read by ``streamlit run``, not here. Without it each page is parsed for bare
    expressions, and Python 3.11 may fail if another thread parses at the same time."""
    config.set_option("runner.magicEnabled", False)
    # streamlit looks through all installed packages whenever an app is opened: a second each time
    manifest_scanner.scan_component_manifests = functools.cache(manifest_scanner.scan_component_manifests)


@pytest.fixture(scope="session")
def runs_with_books(model, tmp_path_factory) -> Path:
    """A runs folder with ``books``: 12 codes, 2 per vector, at all heads and MLPs of the tiny Llama."""
    folder = tmp_path_factory.mktemp("runs")
    text = load_text("stdlib", model, n_tokens=640, context=32)
    config = FitConfig(n_codes=N_CODES, k=2, selection="matching_pursuit")
    fit_codebooks(model, ["heads", "mlps"], text, folder / "books", config)
    return folder


@pytest.fixture
def open_page(tiny_model_folder, monkeypatch) -> Callable[..., AppTest]:
    """Opens a page by its file, on a runs folder, with what the address says."""

    def open_it(view: str, runs: Path, **address: str) -> AppTest:
        monkeypatch.setenv("INTERP_MODEL", str(tiny_model_folder("llama")))
        monkeypatch.setenv("INTERP_RUNS", str(runs))
        app = AppTest.from_file(str(MAIN), default_timeout=TIMEOUT)
        if view != "why":  # the first page, which explains nothing here
            for name in ("a", "b", "answer", "instead"):
                app.session_state[name] = ""
            app.session_state["chat"], app.session_state["why asked"] = False, None
            app.run().switch_page(f"{view}/page.py")
        for name, value in address.items():
            app.query_params[name] = value
        app.run()
        assert not app.exception
        return app

    return open_it


def press(app: AppTest, label: str) -> AppTest:
    button_of(app, label).click().run()
    assert not app.exception
    return app


def button_of(app: AppTest, label: str):
    return next(button for button in app.button if button.label == label)


def asked(app: AppTest, name: str) -> str | None:
    """What the page's address says."""
    value = app.query_params.get(name)
    return value[0] if isinstance(value, list) else value


def unescaped(text: str) -> str:
    """Markdown's escapes undone."""
    return re.sub(r"\\(.)", r"\1", text)


def text_of(app: AppTest) -> str:
    return unescaped("\n".join(element.value for element in (*app.markdown, *app.caption)))


def error_of(app: AppTest) -> str:
    """The one error on a page: a line in which nothing is markup."""
    [error] = app.error
    assert "\n" not in error.value and not re.search(r"(?<!\\)[<*!]", error.value), error.value
    return unescaped(error.value)


def html_of(app: AppTest) -> list[str]:
    """HTML of the page, without the style sheet of the workbench."""
    bodies = [element.proto.body for element in app.get("html")]
    return [body for body in bodies if not body.startswith("<style>")]


def strips_of(app: AppTest) -> list[dict]:
    """What the components that show tokens are given to draw."""
    elements = app.get("bidi_component")
    return [json.loads(element.proto.json or element.proto.mixed.json) for element in elements]


def plain_html(body: str) -> str:
    return re.sub("<[^>]*>", "", body)


def plot_of(app: AppTest, number: int = 0) -> dict:
    return json.loads(app.get("plotly_chart")[number].proto.spec)


def array_of(value: list | dict) -> np.ndarray:
    """Numbers of a figure, as they stand or packed."""
    if isinstance(value, dict):
        flat = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
        shape = value.get("shape")
        return flat.reshape([int(n) for n in shape.split(",")]) if shape else flat
    return np.array(value, dtype=float)


def table_of(app: AppTest, *columns: str):
    """The first table that has these columns."""
    return next(frame.value for frame in app.dataframe if set(columns) <= set(frame.value.columns))


def files_of(folder: Path) -> dict[str, int]:
    """Every file below a folder and when it was last written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def hand_labels(books: Codebooks, evil: str) -> Labels:
    """Of ``runs_with_books``' books: the first code of every site is mixed, the second what is given, others named."""
    names = [f"{site}.h{h}" for site in ("a0", "a1") for h in range(4)] + ["m0", "m1"]
    texts = [MIXED, evil, *(f"name {i}" for i in range(2, N_CODES))]
    n = len(names) * N_CODES
    share = np.full(n, 0.5)
    columns = {
        "text": np.tile(np.array(texts, object), len(names)),
        **{name: share for name in ("precision", "recall", "f1", "null")},
        "firings": np.full(n, 99),
    }
    starts = {name: (i * N_CODES, N_CODES) for i, name in enumerate(names)}
    about = {"books": books.fingerprint, "random": {}, "n_tokens": 640, "seed": 0}
    return Labels(about, starts, columns)


def with_coarse(labels: Labels) -> Labels:
    """The same with two coarse codes a book, called few 0 and few 1: of even and odd codes."""
    n_books = len(labels.starts)
    columns = {
        "text": np.tile(np.array(["few 0", "few 1"], object), n_books),
        **{name: np.full(2 * n_books, 0.5) for name in ("precision", "recall", "f1", "null")},
        "firings": np.full(2 * n_books, 400),
    }
    about = labels.about | {"variance": dict.fromkeys(labels.starts, 0.5)}
    starts = {name: (2 * i, 2) for i, name in enumerate(labels.starts)}
    groups = np.concatenate([np.arange(n) % 2 for _, n in labels.starts.values()])
    coarse = Labels(about, starts, columns)
    return Labels(labels.about, labels.starts, labels.columns | {"coarse": groups}, coarse)
