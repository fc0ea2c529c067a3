import json
from pathlib import Path

import pytest

from interp.tasks import IOI, Docstring, GreaterThan, InputError, PromptFile, Task, load_task, task_names

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


class Odd(Capitals):
    metric = "accuracy"


class Broken(Capitals):
    def __init__(self):
        raise RuntimeError("no data")


class Left(Capitals):
    def __init__(self):
        raise SystemExit(3)


class Text(Capitals):
    default_n = "10"


class Nothing(Capitals):
    default_n = None


class NoneAtAll(Capitals):
    default_n = 0


class Nameless(Capitals):
    name = None


class OneRole(Capitals):
    roles = "END"


class WithoutBos(Capitals):
    def sample(self, tokenizer, n, seed=0, counterfactual=None):
        return PromptPairs([])
"""


@pytest.fixture
def user_file(tmp_path) -> Path:
    path = tmp_path / "my_tasks.py"
    path.write_text(USER_TASK, encoding="utf-8")
    return path


def test_a_file_of_dataclasses_with_late_annotations_loads(tmp_path):
    path = tmp_path / "late.py"
    imports = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    extra = "@dataclass\nclass Extra:\n    n: int = 3\n"
    path.write_text(imports + extra + USER_TASK, encoding="utf-8")
    assert load_task(f"{path}:Capitals").name


@pytest.mark.parametrize("kind", [IOI, GreaterThan, Docstring])
def test_shipped_names_load(kind):
    assert isinstance(load_task(kind.name), kind)


def test_every_listed_name_loads_under_its_own_name():
    assert task_names()[:8] == (
        *("ioi", "greater-than", "docstring"),
        *("agreement", "pronoun", "capital", "successor", "antonym"),
    )
    for name in task_names():
        task = load_task(name)
        assert isinstance(task, Task) and task.name == name


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_prompt_file_loads_by_its_path(tmp_path, suffix):
    entry = {"clean": "a", "corrupt": "b", "answers": [" c"], "wrong_answers": [" d"]}
    path = tmp_path / f"mine{suffix}"
    path.write_text(json.dumps({"prompts": [entry]} if suffix == ".json" else entry), encoding="utf-8")
    task = load_task(str(path))
    assert isinstance(task, PromptFile) and isinstance(task, Task)


def test_a_class_in_a_file_loads(user_file):
    task = load_task(f"{user_file}:Capitals")
    assert isinstance(task, Task) and task.name == "capitals"


def test_a_class_in_a_module_loads():
    assert isinstance(load_task("interp.tasks.ioi:IOI"), IOI)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Half", "is no task: it lacks roles, counterfactuals, default_n, sample"),
        ("Odd", "metric 'accuracy' is not one of logit_diff, logit_diff_max, prob_diff"),
        ("Broken", r"Broken\(\) failed: RuntimeError: no data"),
        ("Left", r"Left\(\) failed: SystemExit: 3"),
        ("Text", "default_n '10': it must be a whole number"),
        ("Nothing", "default_n None: it must be a whole number"),
        ("NoneAtAll", "default_n 0: it must be at least 1"),
        ("Nameless", "name None must be a text"),
        ("OneRole", "roles 'END' must be a tuple of names"),
        (
            "WithoutBos",
            r"counterfactual=None\) cannot be called as sample\(.*bos=True\): got an unexpected .*'bos'",
        ),
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
        (":Task", "importing '' failed"),
        ("absent.json", "absent.json: no such file"),
        ("", "unknown task ''"),
    ],
)
def test_a_spec_that_leads_nowhere_is_an_input_error(spec, message):
    with pytest.raises(InputError, match=message):
        load_task(spec)


def test_a_file_that_does_not_import_is_an_input_error(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def", encoding="utf-8")
    with pytest.raises(InputError, match="importing it failed: SyntaxError"):
        load_task(f"{path}:Task")


def test_a_file_that_leaves_python_is_an_input_error_and_no_silent_end(tmp_path):
    path = tmp_path / "leaves.py"
    path.write_text("import sys\nsys.exit(3)\n", encoding="utf-8")
    with pytest.raises(InputError, match="leaves.py: importing it failed: SystemExit: 3"):
        load_task(f"{path}:Task")


def test_a_class_that_cannot_be_made_is_told_why():
    class Asks:
        def __init__(self, words):
            self.words = words

    with pytest.raises(InputError, match=r"Asks: Asks\(\) failed: TypeError: .*'words'"):
        load_task(Asks)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("ioii", "ioi"), ("greater_than", "greater-than"), ("Docstrings", "docstring")],
)
def test_an_unknown_name_is_answered_with_the_nearest_and_with_all(typed, meant):
    with pytest.raises(InputError) as caught:
        load_task(typed)
    message = str(caught.value)
    assert f"did you mean {meant!r}?" in message and all(name in message for name in task_names())


def test_an_unknown_planted_name_is_an_input_error():
    with pytest.raises(InputError, match="planted-nonsense"):
        load_task("planted-nonsense")


def test_an_object_is_a_task_or_told_what_it_lacks():
    task = load_task("ioi")
    assert load_task(task) is task
    with pytest.raises(InputError, match="object is no task: it lacks name, metric"):
        load_task(object())
