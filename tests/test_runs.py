"""Runs on disk: whole or not at all, and clear about what is wrong with a folder."""

import contextlib
import copy
import json
import os
import stat
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from interp import find_circuit
from interp.circuits.references import load_reference
from interp.errors import InputError
from interp.planted.models import load_planted_model
from interp.report.compare import compare_runs
from interp.report.page import render_report
from interp.runs.folder import ARRAYS, RESULT, pairs_of
from interp.runs.run import Run
from interp.tasks import PromptFile, load_task, write_prompt_file
from tests.report.synthetic import make_run


@pytest.fixture
def run() -> Run:
    return make_run(n_layers=1, n_heads=1, members=1, mlps=False, n_pairs=5, per_pair=False, task="t")


def _other(run: Run, **values) -> Run:
    return run.model_copy(update=values)


def test_round_trip(run, tmp_path):
    folder = run.save(tmp_path / "run", report="<p>")
    again = Run.load(folder)
    assert again.model_dump() == run.model_dump() and again.arrays.keys() == run.arrays.keys()
    for name, array in run.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
    [head] = run.heads
    row = (folder / "heads.csv").read_text().splitlines()[1]
    assert row.startswith(f"0,0,{head.score},{head.effect},{head.low},{head.high},True,")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((folder / RESULT).stat().st_mode) == 0o666 & ~mask
    with pytest.raises(ValueError, match="finite"):
        Run(**{**dict(run), "metric": {"clean": NAN, "corrupt": 0.0, "name": "m"}})


def test_a_new_run_takes_a_free_name_and_replaces_nothing(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").write_text("precious")
    folders = [run.save_new(tmp_path, "run", report="<p>") for _ in range(2)]
    assert [folder.name for folder in folders] == ["run-3", "run-4"]
    assert [Run.load(folder).model_dump() for folder in folders] == [run.model_dump()] * 2
    assert (tmp_path / "run-2").read_text() == "precious" and not any((tmp_path / "run").iterdir())
    assert len(list(tmp_path.iterdir())) == 4


def test_prompts_of_a_file_are_kept_and_sampled_again(run, tmp_path):
    model = load_planted_model("planted-induction")
    pairs = load_task("planted-induction").sample(model.tokenizer, 6, seed=3)
    write_prompt_file(pairs, tmp_path / "mine.json", model.tokenizer)
    task = PromptFile("mine.json", (tmp_path / "mine.json").read_bytes())
    expected = task.sample(model.tokenizer, 5, 7)
    run.provenance.pairs.counterfactual = "file"
    changed = {"task": "mine.json", "seed": 7, "prompts": task, "examples": []}
    folder = _other(run, **changed, arrays={"heads": run.arrays["heads"]}).save(tmp_path / "run")
    assert (folder / "prompts.json").read_bytes() == task.data
    again = pairs_of(Run.load(folder), folder, model.tokenizer, 4)
    assert list(again) == list(expected)[:4]
    run.provenance.pairs.counterfactual = "random"
    with pytest.raises(InputError, match="come out differently"):
        pairs_of(_other(run, task="planted-induction"), tmp_path, model.tokenizer, 2)


def test_a_run_names_no_file_or_class_that_would_be_opened(run, tmp_path):
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass T: pass")
    for task in (f"{tmp_path / 'trap.py'}:T", "os:path", "/etc/passwd.json", "../mine.json"):
        other = _other(run, task=task)
        with pytest.raises(InputError, match="not at hand"):
            pairs_of(other, other.save(tmp_path / "run", overwrite=True), None, 4)
    assert not (tmp_path / "sprung").exists()


def test_an_own_reference_goes_with_its_run_and_no_other_file_is_opened(run, tmp_path):
    reference = load_reference("ioi/smollm2-135m-instruct")
    run.settings.reference, run.own_reference = "mine.safetensors", reference
    run.save(tmp_path / "run")
    reference.save(tmp_path / "run" / "other.safetensors")
    again = Run.load(tmp_path / "run")
    np.testing.assert_array_equal(again.reference("mine.safetensors").heads, reference.heads)
    for name in ("other.safetensors", str(tmp_path / "run" / "other.safetensors")):
        with pytest.raises(InputError, match="unknown reference"):
            again.reference(name)
    (tmp_path / "run" / "reference.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"damaged .*reference.safetensors: not a measured reference"):
        Run.load(tmp_path / "run")


NAN, NOT = float("nan"), "heads or MLPs are not those of 1 layers"
JUDGED = {"roc_auc": 0.9, "average_precision": 0.8, "n_positive": 1, "spearman": None, "n_heads": 1}
JUDGED |= {"interval": [0.8, 1.0], "n_pairs": 5, "shared_pairs": None, "measured_pairs": None, "stricter": {}}
JUDGED["nulls"] = {"random_mean": 0.5, "random_sd": 0.1, "layer_index": None, "layer_mean": None}
VALUES = [
    ({"format": 99}, "run.json: format: "),
    ({"heads": []}, NOT),
    ({"n_pairs": -1}, "run.json: n_pairs: "),
    ({"metric": {"clean": NAN, "corrupt": 0, "name": "m"}}, "metric.clean: "),
    ({"proposed": {"false_discovery_rate": 2, "heads": []}}, "proposed.false_disc"),
    ({"recovery": {"r": JUDGED}}, "scores.safetensors: it lacks heads_per_pair"),
]
HEAD = [
    ({"low": None}, "a0.h0 is in the circuit and has no"),
    ({"site": "../a0"}, "heads.0.site: "),
    ({"layer": 1, "site": "a1.h0"}, NOT),
]
SHAPES = [
    ({"heads_per_pair": np.zeros((5, 3, 1))}, r"heads_per_pair: of shape \(5, 3, 1\), .* implies \(5, 1, 1\)"),
    ({"metric_clean": np.zeros(3)}, r"metric_clean: of shape \(3,\), .* implies \(5,\)"),
    ({"effects": np.zeros((5, 2))}, r"effects: of shape \(5, 2\), .* implies \(5, 1\)"),
    ({"patterns": np.zeros((1, 2, 3))}, r"patterns: of shape \(1, 2, 3\)"),
    ({"heads": np.full((1, 1), NAN)}, "scores.safetensors: heads: not all finite"),
]
CONTENTS = [
    (RESULT, None, "not a run folder"),
    (RESULT, "{", "run.json: "),
    (RESULT, "[" * 200_000, "run.json: "),
    (RESULT, '{"format": 2}', "run.json: model: Field required, and 1"),
    (ARRAYS, None, "scores.safetensors: No such file"),
    (ARRAYS, "noise" * 9, "scores.safetensors: "),
]


def _damaged(folder: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        Run.load(folder)
    assert "\n" not in str(error.value)


def test_a_damaged_folder_is_named_with_its_fault(run, tmp_path):
    folder = run.save(tmp_path / "run")
    contents = {file: (folder / file).read_bytes() for file in (RESULT, ARRAYS)}
    whole, arrays = json.loads(contents[RESULT]), load_file(folder / ARRAYS)
    heads = [({"heads": [{**whole["heads"][0], **changed}]}, message) for changed, message in HEAD]
    for changed, message in VALUES + heads:
        (folder / RESULT).write_text(json.dumps({**whole, **changed}))
        _damaged(folder, message)
    (folder / RESULT).write_bytes(contents[RESULT])
    for changed, message in SHAPES:
        save_file({**arrays, **changed}, folder / ARRAYS)
        _damaged(folder, message)
    save_file({"x": np.zeros(1)}, folder / ARRAYS)
    _damaged(folder, "scores.safetensors: it lacks heads")
    for file, text, message in CONTENTS:
        (folder / file).unlink()
        if text is not None:
            (folder / file).write_text(text)
        _damaged(folder, message)
        (folder / file).write_bytes(contents[file])


WRONG = (None, -1.0, "x", [], {"x": None})


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Where values lie; of a list's entries the last stands for all."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*path, key))
    elif value and isinstance(value, list):
        yield from _places(value[-1], (*path, len(value) - 1))


def test_a_wrong_value_anywhere_is_a_line_or_harmless(tmp_path):
    """Never a traceback, neither when it is read nor in a report."""
    finished = find_circuit("planted-induction", "planted-induction", n=8, candidates=4)
    folder = finished.save(tmp_path / "run")
    whole, damaged, harmless = json.loads((folder / RESULT).read_text()), 0, 0
    for *path, last in _places(whole):
        rendered = False  # one report for each place: making it is what takes time
        for wrong in WRONG:
            changed = copy.deepcopy(whole)
            reduce(getitem, path, changed)[last] = wrong
            (folder / RESULT).write_text(json.dumps(changed))
            try:
                run = Run.load(folder)
            except InputError as error:
                assert "\n" not in str(error) and "damaged" in str(error)
                damaged += 1
                continue
            harmless += 1
            if not rendered:
                render_report(run)
                with contextlib.suppress(InputError):  # of another shape
                    compare_runs(finished, run)
                rendered = True
    assert damaged > harmless > 0, (damaged, harmless)
