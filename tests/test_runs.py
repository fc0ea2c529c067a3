"""Runs on disk: whole or not at all, and clear about what is wrong with a folder."""

import json
import os
import stat

import numpy as np
import pytest

from interp.runs import ARRAYS, RESULT, Run
from interp.tasks.errors import InputError


@pytest.fixture
def run() -> Run:
    head = {"site": "a0.h1", "layer": 0, "head": 1, "score": 0.5, "effect": 1.0, "effect_low": 0.5}
    head |= {"effect_high": 1.5, "in_circuit": True, "roles": {"mover": 0.5}}
    result = {"format": 1, "model": "m", "task": "t", "method": "attribution", "heads": [head], "mlps": []}
    result |= {"edges": [], "metric": {"clean": 1.0, "corrupt": 0.0}}
    return Run(result, {"examples": []}, {"heads": np.ones((1, 2), dtype=np.float32)})


def test_round_trip(run, tmp_path):
    folder = run.save(tmp_path / "run", report="<p>")
    again = Run.load(folder)
    assert again.result == run.result and again.details == run.details
    np.testing.assert_array_equal(again.arrays["heads"], run.arrays["heads"])
    assert (folder / "heads.csv").read_text().splitlines()[1] == "0,1,0.5,1.0,0.5,1.5,True,0.5"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_run_replaces_an_earlier_one(run, tmp_path):
    run.save(tmp_path / "run")
    Run({**run.result, "seed": 5}, {}, run.arrays).save(tmp_path / "run")
    assert Run.load(tmp_path / "run").result["seed"] == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_failing_write_leaves_the_earlier_run_and_no_debris(run, tmp_path, monkeypatch):
    run.save(tmp_path / "run")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("interp.runs.save_file", full)
    with pytest.raises(OSError, match="No space"):
        Run({**run.result, "seed": 5}, {}, run.arrays).save(tmp_path / "run")
    assert "seed" not in Run.load(tmp_path / "run").result
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_file_or_a_foreign_folder_in_the_way_is_never_overwritten(run, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InputError, match="is a file"):
        run.save(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="other things"):
        run.save(tmp_path / "folder")
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "precious"


def test_nan_is_not_written_as_json(run, tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        Run({**run.result, "gap": float("nan")}, {}, run.arrays).save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / RESULT).unlink(), "not a run folder"),
        (lambda f: (f / RESULT).write_text("{"), "damaged"),
        (lambda f: (f / ARRAYS).write_bytes(b"noise"), "damaged"),
        (lambda f: (f / RESULT).write_text("[]"), "format None"),
        (lambda f: (f / RESULT).write_text(json.dumps({"format": 99})), "format 99"),
        (lambda f: (f / RESULT).write_text(json.dumps({"format": 1})), "lacks"),
    ],
)
def test_a_damaged_folder_is_named_with_its_fault(run, tmp_path, damage, message):
    folder = run.save(tmp_path / "run")
    damage(folder)
    with pytest.raises(InputError, match=message):
        Run.load(folder)


def test_files_are_readable_by_others_as_the_umask_says(run, tmp_path):
    folder = run.save(tmp_path / "run")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((folder / RESULT).stat().st_mode) == 0o666 & ~mask
