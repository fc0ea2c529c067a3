"""Runs of the tiny Llama and synthetic ones, and the page *Circuit* on them."""

import json
import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from interp.runs.discover import find_circuit
from interp.tasks import PromptFile
from tests.report.synthetic import make_run

PLACES = ("store", "war", "year", "school", "drink", "files", "code", "number", "read", "load")
N = 8


def prompts_file() -> bytes:
    """Pairs whose clean and corrupt prompts the tiny Llama tells apart by the logits of ``G`` and ``m``."""

    def prompt(first: str, second: str, place: str) -> str:
        return f"When {first} and {second} went to the {place}, {second} gave a"

    pairs = [(prompt("Mary", "John", place), prompt("John", "Mary", place)) for place in PLACES]
    answers = {"answers": ["G"], "wrong_answers": ["m"]}
    prompts = [{"clean": clean, "corrupt": corrupt} | answers for clean, corrupt in pairs]
    return json.dumps({"prompts": prompts, "word_idxs": {"S1": 4}}).encode()


def metric_of(app: AppTest, label: str) -> str:
    return next(metric.value for metric in app.metric if metric.label == label)


def figure_of(app: AppTest, alt: str) -> dict:
    """The figure whose description for screen readers begins like this."""
    protos = [chart.proto for chart in app.get("plotly_chart") if chart.proto.alt.startswith(alt)]
    assert len(protos) == 1, alt
    return json.loads(protos[0].spec)


@pytest.fixture(scope="session")
def real(model, runs_with_books, tmp_path_factory) -> Path:
    """A runs folder with codebooks and ``mine``, a discovery on the tiny Llama; tests that write copy it."""
    folder = tmp_path_factory.mktemp("real")
    shutil.copytree(runs_with_books / "books", folder / "books")
    task = PromptFile("mine.json", prompts_file())
    find_circuit(model, task, n=N).save(folder / "mine")
    return folder


@pytest.fixture(scope="session")
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
