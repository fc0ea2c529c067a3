"""The command in the report repeats the run."""

import shlex
from dataclasses import asdict

import pytest

from interp.report.repeat import command_line, python_lines
from interp.scores.registry import method_config
from tests.report.synthetic import make_run


def _called(run) -> dict:
    """What the lines of Python hand to ``find_circuit``."""
    called = {}
    source = python_lines(run).replace("from interp import find_circuit", "").replace('run.save("run")', "")
    exec(source, {"find_circuit": lambda model, task, **given: called.update(given, model=model, task=task)})
    return called


def test_command_names_task_model_method_pairs_and_seed():
    words = shlex.split(command_line(make_run(seed=3, n_pairs=12)))
    assert words[:3] == ["interp", "discover", "ioi"] and words.pop() == "--no-program"
    options = "--model smollm2-135m-instruct --method attribution --n 12 --seed 3 --counterfactual abc"
    wanted = f"{options} --candidates 30 --threshold 0.02".split()
    assert set(zip(words[3::2], words[4::2], strict=True)) == set(zip(wanted[::2], wanted[1::2], strict=True))


def test_only_options_off_their_defaults_are_set():
    run = make_run(method="overlap")
    run.settings.config = {"n_codes": 300, "examples": 10, "batch_size": 4}
    assert command_line(run).endswith("--set n_codes=300")
    assert _called(run)["config"] == {"n_codes": 300}


@pytest.mark.parametrize("task", ["my prompts.json", 'it\'s "quoted".json'])
def test_a_task_file_mlps_and_missing_bos_are_part_of_command_and_python(task):
    run = make_run(task=task, mlp_members=1)
    run.provenance.pairs.bos = False
    words = shlex.split(command_line(run))
    assert words[2] == task and {"--mlps", "--no-bos"} <= set(words)
    called = _called(run)
    assert (called["task"], called["model"], called["n"]) == (task, run.model, run.n_pairs)
    assert called["mlps"] is True


def test_what_a_task_changes_is_no_option_and_what_undoes_it_is():
    """``overlap`` has another l1 for docstring than for other tasks."""
    run = make_run(task="docstring", method="overlap", seed=4)
    run.settings.config = asdict(method_config("overlap", "docstring", {}, seed=4))
    assert "--set" not in command_line(run) and "config=" not in python_lines(run)
    run.settings.config["l1"] = asdict(method_config("overlap", "ioi", {}))["l1"]
    assert "--set l1=" in command_line(run) and "'l1': " in python_lines(run)
