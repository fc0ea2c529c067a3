"""Runs on disk: whole or not at all, and clear about what is wrong with a folder."""

import json
import os
import stat

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from interp import find_circuit
from interp.circuits.references import load_reference
from interp.errors import InputError
from interp.planted.models import load_planted_model
from interp.runs.run import ARRAYS, RESULT, Run, _replace
from interp.tasks import PromptFile, load_task, write_prompt_file
from tests.report.synthetic import make_run


@pytest.fixture
def run() -> Run:
    return make_run(n_layers=1, n_heads=1, members=1, mlps=False, n_pairs=5, per_pair=False, task="t")


def _other(run: Run, **values) -> Run:
    return run.model_copy(update=values)


def _change(path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _arrays(folder, **values) -> None:
    save_file({**load_file(folder / ARRAYS), **values}, folder / ARRAYS)


JUDGED = {
    "roc_auc": 0.9,
    "average_precision": 0.8,
    "n_positive": 1,
    "spearman": None,
    "n_heads": 1,
    "interval": [0.8, 1.0],
    "n_pairs": 5,
    "nulls": {"random_mean": 0.5, "random_sd": 0.1, "layer_index": None, "layer_mean": None},
    "shared_pairs": None,
    "measured_pairs": None,
    "stricter": {},
}


def _head(folder, **values) -> dict:
    return {**json.loads((folder / RESULT).read_text())["heads"][0], **values}


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


def test_a_run_replaces_an_earlier_one(run, tmp_path):
    run.save(tmp_path / "run")
    with pytest.raises(InputError):
        _other(run, seed=5, request={"seed": 5}).save(tmp_path / "run")
    _other(run, seed=5).save(tmp_path / "run", overwrite=True)
    assert Run.load(tmp_path / "run").seed == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_failing_write_leaves_the_earlier_run_and_no_debris(run, tmp_path, monkeypatch):
    run.save(tmp_path / "run")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("interp.runs.run.save_file", full)
    with pytest.raises(OSError, match="No space"):
        _other(run, seed=5).save(tmp_path / "run", overwrite=True)
    assert Run.load(tmp_path / "run").seed == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_file_or_a_foreign_folder_in_the_way_is_never_overwritten(run, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InputError):
        run.save(tmp_path / "file", overwrite=True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError):
        run.save(tmp_path / "folder", overwrite=True)
    run.save(tmp_path / "run")
    (tmp_path / "folder" / "thesis.tex").rename(tmp_path / "run" / "thesis.tex")
    with pytest.raises(InputError, match="thesis.tex"):
        run.save(tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "precious"


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
    found = _other(
        run, task="mine.json", seed=7, prompts=task, examples=[], arrays={"heads": run.arrays["heads"]}
    )
    folder = found.save(tmp_path / "run")
    assert (folder / "prompts.json").read_bytes() == task.data
    again = Run.load(folder).sample_again(folder, model.tokenizer, 4)
    assert list(again) == list(expected)[:4]


def test_a_run_names_no_file_or_class_that_would_be_opened(run, tmp_path):
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass T: pass")
    for task in (f"{tmp_path / 'trap.py'}:T", "os:path", "/etc/passwd.json", "../mine.json"):
        found = _other(run, task=task)
        with pytest.raises(InputError, match="not at hand"):
            found.sample_again(found.save(tmp_path / "run", overwrite=True), None, 4)
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


def test_prompts_that_come_out_differently_are_an_input_error(run, tmp_path):
    tokenizer = load_planted_model("planted-induction").tokenizer
    run.provenance.pairs.counterfactual = "random"
    with pytest.raises(InputError, match="come out differently"):
        _other(run, task="planted-induction").sample_again(tmp_path, tokenizer, 2)


def test_nan_is_no_number_of_a_run(run):
    with pytest.raises(ValueError, match="finite"):
        Run(**{**dict(run), "metric": {"clean": float("nan"), "corrupt": 0.0, "name": "m"}})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / RESULT).unlink(), "not a run folder"),
        (lambda f: (f / RESULT).write_text("{"), "run.json all of it: Invalid JSON"),
        (lambda f: (f / RESULT).write_text("[" * 200_000), "run.json all of it: Invalid JSON"),
        (lambda f: (f / RESULT).write_text("[]"), "run.json all of it: "),
        (lambda f: _change(f / RESULT, format=99), "run.json format: "),
        (
            lambda f: (f / RESULT).write_text(json.dumps({"format": 2})),
            "run.json model: Field required, and 1",
        ),
        (lambda f: _change(f / RESULT, unknown=1), "run.json unknown: "),
        (lambda f: _change(f / RESULT, heads=[]), "heads or MLPs are not those of 1 layers"),
        (lambda f: _change(f / RESULT, recovery=7), "run.json recovery: "),
        (lambda f: _change(f / RESULT, provenance={}), "run.json provenance.pairs: "),
        (lambda f: _change(f / RESULT, seed="x"), "run.json seed: "),
        (lambda f: _change(f / RESULT, n_pairs=-1), "run.json n_pairs: "),
        (
            lambda f: _change(f / RESULT, metric={"clean": float("nan"), "corrupt": 0, "name": "m"}),
            "metric.clean: ",
        ),
        (
            lambda f: _change(f / RESULT, proposed={"false_discovery_rate": 2, "heads": []}),
            "proposed.false_disc",
        ),
        (lambda f: _change(f / RESULT, heads=[_head(f, low=None)]), "a0.h0 is in the circuit and has no"),
        (lambda f: _change(f / RESULT, heads=[_head(f, site="../a0")]), "heads.0.site: "),
        (
            lambda f: _change(f / RESULT, heads=[_head(f, layer=1, site="a1.h0")]),
            "heads or MLPs are not those",
        ),
        (
            lambda f: _change(f / RESULT, heads=[_head(f, codes={"clean": [[0, "x"]], "corrupt": []})]),
            "clean.0.1: ",
        ),
        (
            lambda f: _arrays(f, heads_per_pair=np.zeros((5, 3, 1))),
            r"heads_per_pair: of shape \(5, 3, 1\), and run.json implies \(5, 1, 1\)",
        ),
        (lambda f: _arrays(f, metric_clean=np.zeros(3)), r"metric_clean: of shape \(3,\), .* implies \(5,\)"),
        (lambda f: _arrays(f, effects=np.zeros((5, 2))), r"effects: of shape \(5, 2\), .* implies \(5, 1\)"),
        (lambda f: _arrays(f, patterns=np.zeros((1, 2, 3))), r"patterns: of shape \(1, 2, 3\)"),
        (lambda f: _arrays(f, heads=np.full((1, 1), np.nan)), "scores.safetensors heads: not all finite"),
        (lambda f: save_file({"x": np.zeros(1)}, f / ARRAYS), "scores.safetensors lacks heads"),
        (lambda f: _change(f / RESULT, recovery={"r": JUDGED}), "scores.safetensors lacks heads_per_pair"),
        (lambda f: (f / ARRAYS).unlink(), "scores.safetensors: No such file"),
        (lambda f: (f / ARRAYS).write_bytes(b"noise" * 9), "scores.safetensors: "),
    ],
)
def test_a_damaged_folder_is_named_with_its_fault(run, tmp_path, damage, message):
    folder = run.save(tmp_path / "run")
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        Run.load(folder)
    assert "\n" not in str(error.value)


def test_files_are_readable_by_others_as_the_umask_says(run, tmp_path):
    folder = run.save(tmp_path / "run")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((folder / RESULT).stat().st_mode) == 0o666 & ~mask


def test_a_discovery_from_a_file_keeps_its_prompts_from_python_too(tmp_path):
    model = load_planted_model("planted-induction")
    pairs = load_task("planted-induction").sample(model.tokenizer, 8, seed=3)
    write_prompt_file(pairs, tmp_path / "mine.json", model.tokenizer)
    folder = find_circuit(model, tmp_path / "mine.json", candidates=4).save(tmp_path / "run")
    assert (folder / "prompts.json").read_bytes() == (tmp_path / "mine.json").read_bytes()
    assert len(Run.load(folder).sample_again(folder, model.tokenizer, 4)) == 4


def test_a_folder_that_another_process_has_put_there_meanwhile_is_replaced(run, tmp_path, monkeypatch):
    theirs = _other(run, seed=7).save(tmp_path / "theirs")
    exists, asked = type(tmp_path).exists, []

    def just_before(path, **given):
        if path.name == "run" and not asked:
            asked.append(exists(path, **given))
            theirs.rename(path)
            return False
        return exists(path, **given)

    monkeypatch.setattr(type(tmp_path), "exists", just_before)
    _replace(_other(run, seed=5).save(tmp_path / "mine"), tmp_path / "run")
    assert asked == [False] and Run.load(tmp_path / "run").seed == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
