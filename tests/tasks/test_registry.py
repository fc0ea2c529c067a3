import json
from pathlib import Path

import pytest

from interp.tasks import IOI, InputError, PromptFile, Task, load_task, task_names

USER_TASK = """
from interp.tasks import PromptPair, PromptPairs


class Capitals:
    name = "capitals"
    metric = "logit_diff"
    roles = ("END",)
    counterfactuals = ("other-country",)
    default_n = 2

    def sample(self, tokenizer, n, seed=0, counterfactual=None, *, bos=True):
        return PromptPairs([], task=self.name, metric=self.metric, counterfactual="other-country", seed=seed,
        bos=bos)


class Half:
    name = "half"
    metric = "logit_diff"


def changed(**attributes):
    return type("Changed", (Capitals,), attributes)


def broken(error):
    def fail(self):
        raise error

    return changed(__init__=fail)


Odd = changed(metric="accuracy")
Broken = broken(RuntimeError("no data"))
Left = broken(SystemExit(3))
Text = changed(default_n="10")
OneRole = changed(roles="END")
WithoutBos = changed(sample=lambda self, tokenizer, n, seed=0, counterfactual=None: PromptPairs([]))
"""


@pytest.fixture
def user_file(tmp_path) -> Path:
    path = tmp_path / "my_tasks.py"
    path.write_text(USER_TASK, encoding="utf-8")
    return path


def test_a_class_in_a_file_loads_also_beside_dataclasses_with_late_annotations(user_file):
    imports = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    extra = "@dataclass\nclass Extra:\n    n: int = 3\n"
    for source in (USER_TASK, imports + extra + USER_TASK):
        user_file.write_text(source, encoding="utf-8")
        task = load_task(f"{user_file}:Capitals")
        assert isinstance(task, Task) and task.name == "capitals"


def test_every_listed_name_loads_under_its_own_name():
    shipped = "ioi greater-than docstring agreement pronoun capital successor antonym"
    assert task_names()[:8] == tuple(shipped.split())
    for name in task_names():
        task = load_task(name)
        assert isinstance(task, Task) and task.name == name
    assert isinstance(load_task("interp.tasks.ioi:IOI"), IOI) and isinstance(load_task(IOI), IOI)
    assert load_task(task) is task


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_prompt_file_loads_by_its_path(tmp_path, suffix):
    entry = {"clean": "a", "corrupt": "b", "answers": [" c"], "wrong_answers": [" d"]}
    path = tmp_path / f"mine{suffix}"
    path.write_text(json.dumps({"prompts": [entry]} if suffix == ".json" else entry), encoding="utf-8")
    task = load_task(str(path))
    assert isinstance(task, PromptFile) and isinstance(task, Task)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Half", "is no task: it lacks roles, counterfactuals, default_n, sample"),
        ("Odd", "metric 'accuracy' is not one of logit_diff, logit_diff_max, prob_diff"),
        ("Broken", r"\(\) failed: RuntimeError: no data"),
        ("Left", r"\(\) failed: SystemExit: 3"),
        ("Text", "default_n '10': it must be a whole number"),
        ("OneRole", "roles 'END' must be a tuple of names"),
        ("WithoutBos", r"cannot be called as sample\(.*bos=True\): got an unexpected .*'bos'"),
        ("Absent", "has no 'Absent'; it has .*Capitals, Half"),
    ],
)
def test_a_class_that_is_no_task_is_told_what_it_lacks(user_file, name, message):
    with pytest.raises(InputError, match=message) as error:
        load_task(f"{user_file}:{name}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("absent.py:Task", "absent.py: no such file"),
        ("no_such_module_here:Task", "importing 'no_such_module_here' failed: ModuleNotFoundError"),
        ("bad.py:Task", "importing it failed: SyntaxError"),
        ("leaves.py:Task", "leaves.py: importing it failed: SystemExit: 3"),  # and no silent end
    ],
)
def test_a_spec_that_leads_nowhere_is_an_input_error(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text("def", encoding="utf-8")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_task(spec)


def test_a_class_or_an_object_that_is_no_task_is_told_why():
    class Asks:
        def __init__(self, words):
            self.words = words

    with pytest.raises(InputError, match=r"Asks: Asks\(\) failed: TypeError: .*'words'"):
        load_task(Asks)
    with pytest.raises(InputError, match="object is no task: it lacks name, metric"):
        load_task(object())


@pytest.mark.parametrize(
    ("typed", "meant"), [("ioii", "ioi"), ("greater_than", "greater-than"), ("Docstrings", "docstring")]
)
def test_an_unknown_name_is_answered_with_the_nearest_and_with_all(typed, meant):
    with pytest.raises(InputError) as caught:
        load_task(typed)
    message = str(caught.value)
    assert f"did you mean {meant!r}?" in message and all(name in message for name in task_names())
