"""What docs/tasks.md says of the tasks is so, and its examples are tasks."""

import re
from pathlib import Path

import pytest

from interp.tasks import load_task, task_names
from tests.test_docs import ROOT, blocks

TASKS = ROOT / "docs/tasks.md"


def test_the_example_file_is_a_task(gpt2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = [block for block in blocks(TASKS) if block.language == "json"]
    Path("capitals.json").write_text(example.text, encoding="utf-8")
    pairs = load_task("capitals.json").sample(gpt2, n=2)
    countries = {gpt2.decode([pair.clean_tokens[pair.positions["country"]]]) for pair in pairs}
    assert countries == {" France", " Italy"} and pairs.dropped == {}


def test_the_example_class_is_a_task(gpt2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = [block for block in blocks(TASKS) if block.file == "parity.py"]
    Path("parity.py").write_text(example.text, encoding="utf-8")
    for pair in load_task("parity.py:Parity").sample(gpt2, n=20):
        first, _, last = re.fullmatch(r"Words: (\w+) (\w+) (\w+)\. Repeated:", pair.clean).groups()
        assert first == last and gpt2.decode([pair.clean_tokens[pair.positions["last"]]]) == f" {last}"
        assert len(pair.answers) == len(pair.wrong_answers) == 1


def test_the_table_of_tasks_names_every_counterfactual():
    for name in task_names():
        if not name.startswith("planted-"):
            kinds = ", ".join(f"`{kind}`" for kind in load_task(name).counterfactuals)
            assert f"| {kinds} | 100 |" in next(
                line
                for line in TASKS.read_text(encoding="utf-8").splitlines()
                if line.startswith(f"| `{name}` |") and "_diff" in line
            )


def test_what_gpt2_drops_is_what_the_table_says(gpt2):
    dropped = {
        name: load_task(name).sample(gpt2, 1).dropped
        for name in ("ioi", "greater-than", "capital", "pronoun")
    }
    assert dropped == {"ioi": {}, "greater-than": {"years": 75}, "capital": {"countries": 1}, "pronoun": {}}


@pytest.mark.slow
def test_what_smollm2_drops_is_what_the_table_says(smollm2):
    names = ("ioi", "greater-than", "docstring", "pronoun", "capital")
    assert {name: load_task(name).sample(smollm2, 1).dropped for name in names} == {
        "ioi": {"names": 18},
        "greater-than": {"nouns": 6, "years": 119},
        "docstring": {},
        "pronoun": {"names": 7},
        "capital": {"countries": 2},
    }
