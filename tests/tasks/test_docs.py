"""The examples in docs/tasks.md work as printed."""

import re
from pathlib import Path

import pytest

from interp.tasks import load_task, task_names

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def block(page: str, language: str, holds: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)
    (found,) = [text for text in blocks if holds in text]
    return found


def test_the_example_file_is_a_task(page, tmp_path, gpt2):
    path = tmp_path / "capitals.json"
    path.write_text(block(page, "json", "capital of France"), encoding="utf-8")
    pairs = load_task(str(path)).sample(gpt2, n=2)
    countries = {gpt2.decode([pair.clean_tokens[pair.positions["country"]]]) for pair in pairs}
    assert countries == {" France", " Italy"} and pairs.dropped == {}


def test_the_example_class_is_a_task(page, tmp_path, gpt2):
    path = tmp_path / "parity.py"
    path.write_text(block(page, "python", "class Parity"), encoding="utf-8")
    pairs = load_task(f"{path}:Parity").sample(gpt2, n=20)
    for pair in pairs:
        first, _, last = re.fullmatch(r"Words: (\w+) (\w+) (\w+)\. Repeated:", pair.clean).groups()
        assert first == last and gpt2.decode([pair.clean_tokens[pair.positions["last"]]]) == f" {last}"
        assert len(pair.answers) == len(pair.wrong_answers) == 1


def test_the_table_of_tasks_names_every_counterfactual(page):
    for name in task_names():
        if not name.startswith("planted-"):
            kinds = ", ".join(f"`{kind}`" for kind in load_task(name).counterfactuals)
            assert re.search(rf"^\| `{name}` \|.*\| {re.escape(kinds)} \| 100 \|$", page, flags=re.MULTILINE)


def test_the_table_of_what_is_dropped_with_gpt2_is_right(page, gpt2):
    assert load_task("ioi").sample(gpt2, 1).dropped == {}
    assert load_task("greater-than").sample(gpt2, 1).dropped == {"years": 75}
    for name in ("docstring", "agreement", "successor", "antonym", "pronoun"):
        assert load_task(name).sample(gpt2, 1).dropped == {}
    assert load_task("capital").sample(gpt2, 1).dropped == {"countries": 1}
    assert "| `greater-than` | 75 of 679 years |" in page


@pytest.mark.slow
def test_the_table_of_what_is_dropped_with_smollm2_is_right(page, smollm2):
    assert load_task("ioi").sample(smollm2, 1).dropped == {"names": 18}
    assert load_task("greater-than").sample(smollm2, 1).dropped == {"nouns": 6, "years": 119}
    for name in ("docstring", "agreement", "successor", "antonym"):
        assert load_task(name).sample(smollm2, 1).dropped == {}
    assert load_task("pronoun").sample(smollm2, 1).dropped == {"names": 7}
    assert load_task("capital").sample(smollm2, 1).dropped == {"countries": 2}
    assert "18 of 99 names" in page and "6 of 120 nouns, 119 of 679 years" in page
