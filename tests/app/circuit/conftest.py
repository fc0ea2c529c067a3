"""Runs of the tiny Llama and synthetic ones, and the page *Circuit* on them."""

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from interp.models import load_model
from interp.runs.discover import find_circuit
from interp.tasks import PromptFile
from tests.report.synthetic import make_run

PLACES = ("store", "war", "year", "school", "drink", "files", "code", "number", "read", "load")
N = 8


def prompts_file() -> bytes:
    """Pairs whose clean and corrupt prompts the tiny Llama tells apart by the logits of ``G`` and ``m``."""
    prompts = [
        {
            "clean": f"When Mary and John went to the {place}, John gave a",
            "corrupt": f"When John and Mary went to the {place}, Mary gave a",
            "answers": ["G"],
            "wrong_answers": ["m"],
        }
        for place in PLACES
    ]
    return json.dumps({"prompts": prompts, "word_idxs": {"S1": 4}}).encode()


def metric_of(app: AppTest, label: str) -> str:
    return next(metric.value for metric in app.metric if metric.label == label)


def figure_of(app: AppTest, alt: str) -> dict:
    """The figure whose description for screen readers begins like this."""
    found = [chart.proto for chart in app.get("plotly_chart") if chart.proto.alt.startswith(alt)]
    assert len(found) == 1, alt
    return json.loads(found[0].spec)


def array_of(value) -> np.ndarray:
    """Numbers of a figure, as they stand or packed."""
    if isinstance(value, dict):
        flat = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
        shape = value.get("shape")
        return flat.reshape([int(n) for n in shape.split(",")]) if shape else flat
    return np.array(value, dtype=float)


def text_of(app: AppTest) -> str:
    """All Markdown of the page, without its backslashes."""
    return re.sub(r"\\(.)", r"\1", "\n".join(element.value for element in (*app.markdown, *app.caption)))


def table_of(app: AppTest, *columns: str):
    return next(frame.value for frame in app.dataframe if set(columns) <= set(frame.value.columns))


def press(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click()
    app.run()
    assert not app.exception
    return app


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    return load_model(str(tiny_model_folder("llama")))


@pytest.fixture(scope="module")
def real(model, runs_with_books, tmp_path_factory) -> Path:
    """A runs folder with codebooks and ``mine``, a discovery on the tiny Llama; tests that write copy it."""
    folder = tmp_path_factory.mktemp("real")
    shutil.copytree(runs_with_books / "books", folder / "books")
    task = PromptFile("mine.json", prompts_file())
    find_circuit(model, task, n=N).save(folder / "mine")
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    make_run(n_layers=4, n_heads=4, members=3, n_pairs=10).save(folder / "small")
    make_run(n_layers=4, n_heads=4, members=5, n_pairs=12, seed=1).save(folder / "larger")
    return folder


@pytest.fixture
def runs(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "runs"))


@pytest.fixture
def page(open_page):
    return lambda folder, **address: open_page("circuit", folder, **address)
