"""What docs/tasks.md says of the tasks is so, and its examples are tasks."""

import re
from pathlib import Path

from interp.tasks import load_task, task_names
from tests.test_docs import ROOT, blocks

TASKS = ROOT / "docs/tasks.md"


def test_the_example_file_is_a_task(gpt2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = [block for block in blocks(TASKS) if block.language == "json" and "prompts" in block.text]
    Path("capitals.json").write_text(example.text, encoding="utf-8")
    pairs = load_task("capitals.json").sample(gpt2, n=2)
    countries = {gpt2.decode([pair.clean_tokens[pair.positions["country"]]]) for pair in pairs}
    assert countries == {" France", " Italy"} and pairs.dropped == {}


def test_the_examples_of_templates_are_tasks(smollm2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = [b.text for b in blocks(TASKS) if b.language == "json" and "templates" in b.text]
    for text in examples:
        Path("mine.json").write_text(text, encoding="utf-8")
        task = load_task("mine.json")
        for kind in task.counterfactuals:
            pairs = task.sample(smollm2, 3, counterfactual=kind)
            assert len(pairs) == 3 and pairs.dropped == {}
    assert len(examples) == 6


def test_the_example_class_is_a_task(gpt2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = [block for block in blocks(TASKS) if block.file == "parity.py"]
    Path("parity.py").write_text(example.text, encoding="utf-8")
    for pair in load_task("parity.py:Parity").sample(gpt2, n=20):
        first, _, last = re.fullmatch(r"Words: (\w+) (\w+) (\w+)\. Repeated:", pair.clean).groups()
        assert first == last and gpt2.decode([pair.clean_tokens[pair.positions["last"]]]) == f" {last}"
        assert len(pair.answers) == len(pair.wrong_answers) == 1


def test_the_table_of_tasks_names_every_counterfactual():
    lines = [line for line in TASKS.read_text(encoding="utf-8").splitlines() if "_diff" in line]
    for name in task_names():
        if not name.startswith("planted-"):
            kinds = ", ".join(f"`{kind}`" for kind in load_task(name).counterfactuals)
            (line,) = [line for line in lines if line.startswith(f"| `{name}` |")]
            assert f"| {kinds} | 100 |" in line


OF_GPT2 = {"ioi": {}, "greater-than": {"years": 75}, "docstring": {}, "pronoun": {}, "capital": {"countries": 1}}
OF_SMOLLM2 = {"ioi": {"names": 18}, "greater-than": {"nouns": 6, "years": 119}, "docstring": {}}
OF_SMOLLM2 |= {"pronoun": {"names": 7}, "capital": {"countries": 2}}


def test_what_tokenizers_drop_is_what_the_table_says(real_tokenizer, request):
    expected = OF_SMOLLM2 if "smollm2" in request.node.name else OF_GPT2
    assert {name: load_task(name).sample(real_tokenizer, 1).dropped for name in expected} == expected
