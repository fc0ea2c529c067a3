"""Runs on the page *Circuit*: shown, chosen by the address, damaged ones as a card, none from elsewhere."""

import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from interp.runs import DETAILS, RESULT
from tests.report.synthetic import make_run


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    make_run(n_layers=4, n_heads=4, members=3, n_pairs=10).save(folder / "small")
    make_run(n_layers=4, n_heads=4, members=5, n_pairs=12, seed=1).save(folder / "larger")
    return folder


@pytest.fixture
def runs(saved, tmp_path) -> Path:
    folder = tmp_path / "runs"
    shutil.copytree(saved, folder)
    return folder


def _metric(app: AppTest, label: str) -> str:
    return next(metric.value for metric in app.metric if metric.label == label)


def test_without_runs_it_says_how_to_make_one(open_page, tmp_path):
    app = open_page("circuit", tmp_path / "none")
    assert "No runs" in app.info[0].value and app.code[0].value == "interp discover ioi"
    assert not app.metric


def test_a_run_shows_its_circuit(open_page, runs):
    app = open_page("circuit", runs, run="small")
    assert app.selectbox[0].value == "small"
    assert _metric(app, "Members") == "3" and _metric(app, "Pairs") == "10"
    assert len(app.dataframe[0].value) == 3
    assert not app.error


def test_choosing_another_run_shows_that_one_and_changes_the_address(open_page, runs):
    app = open_page("circuit", runs, run="small")
    app.selectbox[0].set_value("larger").run()
    assert _metric(app, "Members") == "5"
    assert app.query_params["run"] in ("larger", ["larger"])


@pytest.mark.parametrize("damage", ["truncated", "emptied", "stripped"])
def test_a_damaged_run_is_an_error_card_and_the_others_stay_reachable(open_page, runs, damage):
    path = runs / "small" / (DETAILS if damage == "emptied" else RESULT)
    whole = path.read_text(encoding="utf-8")
    path.write_text({"truncated": whole[:200], "emptied": "", "stripped": '{"format": 1}'}[damage])
    app = open_page("circuit", runs, run="small")
    assert "damaged" in app.error[0].value and not app.metric
    app.selectbox[0].set_value("larger").run()
    assert not app.error and _metric(app, "Members") == "5"


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "..", ".", "nothing", "small/../../elsewhere"])
def test_an_address_cannot_name_a_path_outside_the_runs_folder(open_page, runs, name):
    shutil.copytree(runs / "larger", runs.parent / "elsewhere")
    app = open_page("circuit", runs, run=name)
    assert app.selectbox[0].value in ("small", "larger")
    assert app.query_params["run"] in ("small", "larger", ["small"], ["larger"])
    assert set(app.selectbox[0].options) == {"small", "larger"}
