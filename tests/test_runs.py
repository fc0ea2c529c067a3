"""Runs on disk: whole or not at all, and clear about what is wrong with a folder."""

import json
import os
import stat
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from interp import discover
from interp.circuits.references import load_reference
from interp.errors import InputError
from interp.planted.models import load_planted_model
from interp.runs.run import ARRAYS, DETAILS, RESULT, Run, _replace
from interp.tasks import PromptFile, load_task, write_prompt_file


@pytest.fixture
def run() -> Run:
    head = {"site": "a0.h0", "layer": 0, "head": 0, "score": 0.5, "effect": 1.0, "effect_low": 0.5}
    head |= {"effect_high": 1.5, "in_circuit": True, "roles": {"mover": 0.5}}
    result = {"format": 1, "model": "m", "task": "t", "method": "attribution", "heads": [head], "mlps": []}
    result |= {"seed": 0, "n_pairs": 5, "edges": [], "metric": {"clean": 1.0, "corrupt": 0.0}}
    result |= {"universe": "heads", "provenance": {"model": {"n_layers": 1, "n_heads": 1, "d_model": 8}}}
    return Run(result, {"examples": []}, {"heads": np.ones((1, 1), dtype=np.float32)})


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
    "nulls": {"random_mean": 0.5, "random_sd": 0.1, "layer_index": None, "layer_mean": None},
}


def _head(folder, **values) -> dict:
    return {**json.loads((folder / RESULT).read_text())["heads"][0], **values}


def test_round_trip(run, tmp_path):
    folder = run.save(tmp_path / "run", report="<p>")
    again = Run.load(folder)
    assert again.result == run.result and again.details == run.details
    np.testing.assert_array_equal(again.arrays["heads"], run.arrays["heads"])
    assert (folder / "heads.csv").read_text().splitlines()[1] == "0,0,0.5,1.0,0.5,1.5,True,0.5"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_run_replaces_an_earlier_one(run, tmp_path):
    run.save(tmp_path / "run")
    another = Run({**run.result, "seed": 5}, {}, run.arrays)
    with pytest.raises(InputError):
        another.save(tmp_path / "run")
    another.save(tmp_path / "run", overwrite=True)
    assert Run.load(tmp_path / "run").result["seed"] == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_failing_write_leaves_the_earlier_run_and_no_debris(run, tmp_path, monkeypatch):
    run.save(tmp_path / "run")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("interp.runs.run.save_file", full)
    with pytest.raises(OSError, match="No space"):
        Run({**run.result, "seed": 5}, {}, run.arrays).save(tmp_path / "run", overwrite=True)
    assert Run.load(tmp_path / "run").result["seed"] == 0
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
    assert [Run.load(folder).result for folder in folders] == [run.result] * 2
    assert (tmp_path / "run-2").read_text() == "precious" and not any((tmp_path / "run").iterdir())
    assert len(list(tmp_path.iterdir())) == 4


def test_prompts_of_a_file_are_kept_and_sampled_again(run, tmp_path):
    model = load_planted_model("planted-induction")
    pairs = load_task("planted-induction").sample(model.tokenizer, 6, seed=3)
    write_prompt_file(pairs, tmp_path / "mine.json", model.tokenizer)
    task = PromptFile("mine.json", (tmp_path / "mine.json").read_bytes())
    expected = task.sample(model.tokenizer, 5, 7)
    found = Run(
        {**run.result, "task": "mine.json", "seed": 7, "n_pairs": 5}, run.details, run.arrays, prompts=task
    )
    folder = found.save(tmp_path / "run")
    assert (folder / "prompts.json").read_bytes() == task.data
    again = Run.load(folder).sample_again(folder, model.tokenizer, 4)
    assert list(again) == list(expected)[:4]


def test_a_run_names_no_file_or_class_that_would_be_opened(run, tmp_path):
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass T: pass")
    for task in (f"{tmp_path / 'trap.py'}:T", "os:path", "/etc/passwd.json", "../mine.json"):
        found = Run({**run.result, "task": task}, run.details, run.arrays)
        with pytest.raises(InputError, match="not at hand"):
            found.sample_again(found.save(tmp_path / "run", overwrite=True), None, 4)
    assert not (tmp_path / "sprung").exists()


def test_an_own_reference_goes_with_its_run_and_no_other_file_is_opened(run, tmp_path):
    reference = load_reference("ioi/smollm2-135m-instruct")
    own = replace(
        run, result={**run.result, "settings": {"reference": "mine.safetensors"}}, own_reference=reference
    )
    own.save(tmp_path / "run")
    reference.save(tmp_path / "run" / "other.safetensors")
    again = Run.load(tmp_path / "run")
    np.testing.assert_array_equal(again.reference("mine.safetensors").heads, reference.heads)
    for name in ("other.safetensors", str(tmp_path / "run" / "other.safetensors")):
        with pytest.raises(InputError, match="unknown reference"):
            again.reference(name)
    (tmp_path / "run" / "reference.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"damaged \(.*reference.safetensors: not a measured reference"):
        Run.load(tmp_path / "run")


def test_prompts_that_come_out_differently_are_an_input_error(run, tmp_path):
    tokenizer = load_planted_model("planted-induction").tokenizer
    details = {"examples": [{"clean": ["other"], "corrupt": ["other"], "positions": {}}]}
    found = Run({**run.result, "task": "planted-induction"}, details, run.arrays)
    with pytest.raises(InputError, match="come out differently"):
        found.sample_again(tmp_path, tokenizer, 2)


def test_nan_is_not_written_as_json(run, tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        Run({**run.result, "gap": float("nan")}, {}, run.arrays).save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / RESULT).unlink(), "not a run folder"),
        (lambda f: (f / RESULT).write_text("{"), "damaged"),
        (lambda f: (f / RESULT).write_text("[" * 200_000), "nested too deeply"),
        (lambda f: (f / ARRAYS).write_bytes(b"noise"), "damaged"),
        (lambda f: (f / RESULT).write_text("[]"), "format None"),
        (lambda f: (f / RESULT).write_text(json.dumps({"format": 99})), "format 99"),
        (lambda f: (f / RESULT).write_text(json.dumps({"format": 1})), "run.json lacks model, and 10 more"),
        (lambda f: _change(f / RESULT, heads=[]), "heads: List should have at least 1 item"),
        (lambda f: _change(f / RESULT, recovery=7), "run.json recovery: Input should be an object"),
        (lambda f: _change(f / RESULT, provenance={}), "run.json lacks provenance.model"),
        (lambda f: _change(f / RESULT, seed="x"), "seed: Input should be a valid integer"),
        (lambda f: _change(f / RESULT, n_pairs=-1), "n_pairs: Input should be greater than 0"),
        (lambda f: _change(f / RESULT, metric={"clean": float("nan"), "corrupt": 0}), "a finite number"),
        (
            lambda f: _change(f / RESULT, proposed={"false_discovery_rate": 2, "heads": []}),
            "less than or equal",
        ),
        (lambda f: _change(f / DETAILS, members=[]), "details.json members: Input should be an object"),
        (lambda f: _change(f / DETAILS, members={"a0.h0": {"pattern": [[1.0], [0, 1]]}}), "is not square"),
        (
            lambda f: _change(f / RESULT, heads=[_head(f, effect_low=None)]),
            "a0.h0 is in the circuit and has no",
        ),
        (lambda f: _change(f / RESULT, heads=[_head(f, site="../a0")]), "heads.0.site: String should match"),
        (
            lambda f: _arrays(f, heads_per_pair=np.zeros((5, 3, 1))),
            r"scores.safetensors heads_per_pair: of shape \(5, 3, 1\), and run.json implies \(5, 1, 1\)",
        ),
        (
            lambda f: _arrays(f, heads_per_pair=np.zeros((3, 1, 1))),
            r"scores.safetensors heads_per_pair: of shape \(3, 1, 1\), and run.json implies \(5, 1, 1\)",
        ),
        (lambda f: _arrays(f, metric_clean=np.zeros(3)), r"metric_clean: of shape \(3,\), .* implies \(5,\)"),
        (lambda f: _arrays(f, effects=np.zeros((5, 2))), r"effects: of shape \(5, 2\), .* implies \(5, 1\)"),
        (lambda f: _arrays(f, heads=np.full((1, 1), np.nan)), "scores.safetensors heads: not all finite"),
        (lambda f: _arrays(f, effects=np.full((5, 1), np.inf)), "scores.safetensors effects: not all finite"),
        (lambda f: save_file({"x": np.zeros(1)}, f / ARRAYS), r"damaged \(scores.safetensors lacks heads\)"),
        (lambda f: _change(f / RESULT, recovery={"r": JUDGED}), "scores.safetensors lacks heads_per_pair"),
        (lambda f: (f / DETAILS).write_text('{"examples": [1'), r"damaged \(details.json: Expecting ','"),
        (lambda f: (f / DETAILS).unlink(), r"damaged \(details.json: No such file"),
        (lambda f: (f / ARRAYS).write_bytes(b"noise" * 9), r"damaged \(scores.safetensors: "),
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
    folder = discover(tmp_path / "mine.json", model=model, n_candidates=4).save(tmp_path / "run")
    assert (folder / "prompts.json").read_bytes() == (tmp_path / "mine.json").read_bytes()
    assert len(Run.load(folder).sample_again(folder, model.tokenizer, 4)) == 4


def test_a_folder_that_another_process_has_put_there_meanwhile_is_replaced(run, tmp_path, monkeypatch):
    theirs = Run({**run.result, "seed": 7}, {}, run.arrays).save(tmp_path / "theirs")
    exists, asked = type(tmp_path).exists, []

    def just_before(path, **given):
        if path.name == "run" and not asked:
            asked.append(exists(path, **given))
            theirs.rename(path)
            return False
        return exists(path, **given)

    monkeypatch.setattr(type(tmp_path), "exists", just_before)
    _replace(Run({**run.result, "seed": 5}, {}, run.arrays).save(tmp_path / "mine"), tmp_path / "run")
    assert asked == [False] and Run.load(tmp_path / "run").result["seed"] == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 1, "site": "a1.h0"}, "a1.h0 of layer 1 stands where a0.h0 should"),
        ({"site": "a3.h0"}, "a3.h0 of layer 0 stands where a0.h0 should"),
    ],
)
def test_heads_that_would_be_drawn_elsewhere_are_damage(run, tmp_path, change, message):
    run.save(tmp_path / "run")
    _change(tmp_path / "run" / RESULT, heads=[_head(tmp_path / "run", **change)])
    with pytest.raises(InputError, match=message):
        Run.load(tmp_path / "run")
