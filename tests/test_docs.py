"""What the documents say is what happens: commands parse, examples run, links and paths lead somewhere.

A comment before a block says what is done with it: ``<!-- test: run -->`` runs it, ``<!-- test: slow -->`` runs it on
the default model, ``file=NAME`` saves it under that name, for later blocks and commands. Blocks of one page run in
order and share their names.
Python without a comment must compile, and what it imports must be there.
"""

import ast
import doctest
import importlib
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import interp
from interp.cli.main import app as command_line
from tests import test_layering as layering

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks/REPORT.md",
    ROOT / "benchmarks/TABLES.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
EXPORTS = interp.__all__[2:]
REPOSITORY = "https://github.com/interp-codes/interp-codes/blob/main/"
FEWER_TEXTS = {"fire.positive, fire.negative": "fire.positive[:6], fire.negative[:6]", "n_tokens=60": "n_tokens=4"}
SMALLER = {
    "README.md": {'"ioi", n=8': '"ioi", n=5, candidates=1'} | FEWER_TEXTS,
    "docs/changes.md": {"n_tokens=2000": "n_tokens=800"},
    "docs/code_index.md": {"n_tokens=2_000": "n_tokens=640"},
    "docs/codebooks.md": {'"Once upon a time", 40': '"Once upon a time", 8'},
    "docs/steering.md": FEWER_TEXTS | {"n_tokens=20": "n_tokens=4"},
    "docs/why.md": {
        '"smollm2-135m-instruct"': '"planted-inhibition"',
        "Then, Mary and John went to the store. ": "Then Mary and John left the store . ",
        '"a23.h3"': '"a0.h1"',
    },
}
"""What a test runs less of than a reader; the pair of docs/why.md is that of a notebook, which has the larger model."""


@dataclass
class Block:
    page: Path
    language: str
    text: str
    marks: tuple[str, ...]

    @property
    def file(self) -> str | None:
        return next((mark.removeprefix("file=") for mark in self.marks if mark.startswith("file=")), None)


def blocks(page: Path) -> list[Block]:
    fenced = r"(?:^<!-- test: (.*?) -->\n)?^```(\w*)\n(.*?)^```"
    return [
        Block(page, language, text, tuple(marks.split()))
        for marks, language, text in re.findall(fenced, _text(page), flags=re.DOTALL | re.MULTILINE)
    ]


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _run(page: Path) -> None:
    names: dict = {"__name__": "__docs__"}
    smaller = dict(SMALLER.get(_name(page), {}))
    for block in blocks(page):
        if block.language == "json" and block.file:
            json.loads(block.text)
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python" and {"run", "slow"} & set(block.marks):
            text = block.text
            for whole in [whole for whole in smaller if whole in text]:
                text = text.replace(whole, smaller.pop(whole))
            if block.file:
                # to be imported, or named in a command
                Path(block.file).write_text(text, encoding="utf-8")
            else:
                exec(compile(text, _name(page), "exec"), names)
        elif "cli" in block.marks:
            for command in _commands(block.text):
                assert CliRunner().invoke(command_line, command[1:]).exit_code == 0, command
    assert not smaller, "not on the page"


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """An empty folder to run in, whose files can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


def _pages(*, slow: bool) -> list:
    marks = {page: {mark for block in blocks(page) for mark in block.marks} for page in PAGES}
    return [
        pytest.param(page, id=_name(page))
        for page in PAGES
        if marks[page] & {"run", "slow"} and ("slow" in marks[page]) == slow
    ]


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("page", _pages(slow=False))
def test_examples_run(page):
    _run(page)


@pytest.mark.slow
@pytest.mark.usefixtures("desk", "smollm2_at_once")
@pytest.mark.parametrize("page", _pages(slow=True))
def test_examples_run_on_the_default_model(page):
    _run(page)


@pytest.mark.ray
def test_the_page_on_clusters_runs_on_a_ray_head(ray_cluster, desk, monkeypatch):
    """Its ``ray start`` is that of the cluster. A client's command runs in a process of its own."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    page = blocks(ROOT / "docs/cluster.md")
    for block in [block for block in page if block.file]:
        Path(block.file).write_text(block.text.replace("[0, 1, 2]", "[0]"), encoding="utf-8")
    ran = {("bench", "ray")}  # tests/bench has it, tests/test_sweep.py the other
    for block in page:
        for words in _commands(block.text.replace("-n 40", "-n 8").replace("--seeds 2", "--seeds 1")):
            words = [word.replace("HEAD:10001", ray_cluster.client) for word in words]
            if words[1] == "sweep" and words[-1] == "ray":
                words = words[:-2]
            kind = words[1], words[-1]
            if kind in ran and "ray" in words:
                continue  # the same on the same cluster
            ran.add(kind)
            if any(word.startswith("ray://") for word in words):
                words += ["--cpus-per-worker", "2"]  # both of the cluster: one worker is enough
                subprocess.run([sys.executable, "-m", *words], cwd=desk, check=True)
            else:
                assert CliRunner().invoke(command_line, words[1:]).exit_code == 0, words
    jobs = [json.loads(line) for path in desk.rglob("*log.jsonl") for line in path.read_text().splitlines()]
    assert len({job["process"] for job in jobs}) > 1
    assert {"runs/bench/bench.json", "runs/sweep/sweep.json", "runs/sweep2/sweep.json"} <= {
        str(path.relative_to(desk)) for path in desk.rglob("*.json")
    }


@pytest.mark.slow
@pytest.mark.usefixtures("desk", "smollm2_at_once")
def test_every_public_name_has_an_example_that_runs():
    """In the order in which they are listed; later ones use what earlier ones made."""
    names: dict = {}
    missing = []
    for name in EXPORTS:
        names[name] = getattr(interp, name)
        finder = doctest.DocTestFinder(recurse=False)
        [test] = finder.find(names[name], name, globs=names, module=False) or [None]
        if test is None or not test.examples:
            missing.append(name)
            continue
        test.globs = names
        for example in test.examples:  # less of it, as of pages
            example.source = example.source.replace("lr=0.01", "lr=0.01, batch_size=4").replace("640", "256")
            example.want = example.want.replace("640", "256")
        assert doctest.DocTestRunner().run(test, clear_globs=False).failed == 0, name
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_other_python_compiles_and_its_imports_are_there(page):
    for block in blocks(page):
        if block.language == "python" and not block.marks:
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom):
                    module = importlib.import_module(node.module)
                    assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
                elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "interp":
                    assert hasattr(importlib.import_module("interp"), node.attr), ast.unparse(node)


def _commands(text: str) -> list[list[str]]:
    return [
        shlex.split(line, comments=True)
        for line in text.splitlines()
        if line.strip().startswith("interp ") and " by " not in line.split("#")[0]
    ]


def _all_commands(page: Path) -> list[list[str]]:
    fenced = [command for block in blocks(page) if block.language == "" for command in _commands(block.text)]
    prose = re.sub(r"^```.*?^```", "", _text(page), flags=re.DOTALL | re.MULTILINE)
    return fenced + [shlex.split(text) for text in re.findall(r"`(interp [^`]+)`", prose)]


def _check_command(words: list[str]) -> None:
    """Raise where the command line has no such command or option; files need not be there."""
    command, context = typer.main.get_command(command_line), None
    while True:
        context = command.context_class(command, info_name=words[0], parent=context)
        if not hasattr(command, "get_command") or not words[1:] or words[1].startswith("-"):
            break
        command, words = command.get_command(context, words[1]), words[1:]
    command.make_parser(context).parse_args(list(words[1:]))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_parse(page):
    wrong = []
    for words in _all_commands(page):
        try:
            _check_command(words)
        except Exception as error:  # the parser's own, of whichever copy of click
            wrong.append(f"{shlex.join(words)}: {error!r}")
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_scripts_are_there_with_their_options(page):
    for script, options in re.findall(r"python (-m [\w.]+|[\w/]+\.py)([^`\n#]*)", _text(page)):
        if script.startswith("-m "):
            path = ROOT / script.removeprefix("-m ").replace(".", "/")
            path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        else:
            path = ROOT / script
        if not path.is_relative_to(ROOT / "benchmarks"):
            continue
        assert path.exists(), script
        source = "".join(_text(file) for file in path.parent.glob("*.py")) if path.stem == "__main__" else _text(path)
        if "add_subparsers" in source:
            assert f'add_parser("{options.split()[0]}"' in source, f"{script} {options}"
        for option in re.findall(r"(--[\w-]+)", options):
            assert f'"{option}"' in source or f"def {option}" in source or option[2:].replace("-", "_") in source, (
                f"{script} has no {option}"
            )


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_and_paths_lead_somewhere(page):
    for target, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", _text(page)):
        if target.startswith(REPOSITORY):
            there = ROOT / target.removeprefix(REPOSITORY)
        elif target.startswith(("http:", "https:")):
            continue
        else:
            there = page.parent / target if target else page
        assert there.exists(), target
        assert not heading or heading in _headings(there), f"{target}#{heading}"
    for path in re.findall(r"`((?:interp|tasks|app|tests|benchmarks|docs)/[\w./-]*)`", _text(page)):
        assert (ROOT / path).exists(), path


def _headings(page: Path) -> set[str]:
    """As GitHub makes addresses of them."""
    lines = re.findall(r"^#+ (.*)$", _text(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_the_drawing_of_packages_is_that_of_the_imports():
    (drawing,) = [block for block in blocks(ROOT / "docs/architecture.md") if block.language == "mermaid"]
    drawn = set(re.findall(r"^\s*(\w+) --> (\w+)$", drawing.text, flags=re.MULTILINE))
    real = set(layering.package_imports())
    assert drawn <= real, f"drawn, and not imported: {sorted(drawn - real)}"
    reached = drawn
    while (further := reached | {(a, d) for a, b in reached for c, d in drawn if b == c}) != reached:
        reached = further
    assert real <= reached, f"imported, and not drawn: {sorted(real - reached)}"
