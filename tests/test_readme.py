"""What the README says is what happens."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_five_lines_of_python_run_and_find_the_known_heads(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = _run("interp.discover")
    assert "a23.h3" in capsys.readouterr().out
    run = names["run"]
    effects = {part["site"]: part["effect"] for part in run.members}
    assert {"a23.h3", "a20.h0", "a17.h4"} <= set(effects)
    gap = run.result["metric"]["clean"] - run.result["metric"]["corrupt"]
    assert 0.4 < effects["a23.h3"] / gap < 1.1
    assert (tmp_path / "runs/ioi/report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_example_of_a_bottleneck_runs(capsys):
    attached = _run("attach(model")["attached"]
    assert "[1, 5, 9, 1]" in capsys.readouterr().out
    assert attached.ids["a12"].shape == (1, 5, 9, 1)


def _run(holding: str) -> dict:
    """The names that the one example in the README that holds this text leaves behind."""
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (code,) = [example for example in examples if holding in example]
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:")):
                there = page.parent / target if target else page
                assert there.exists(), f"{page.name} links to {target}"
                assert not heading or heading in _headings(there), f"{page.name} links to {target}#{heading}"


def _headings(page: Path) -> set[str]:
    """As GitHub makes addresses of them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_no_placeholder_is_left():
    assert "<!--" not in README
