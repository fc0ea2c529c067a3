"""Running the command line inside the test's own process, as a user would see it."""

import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from interp.cli.main import main

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""For processes of their own: two threads on two busy cores are many times slower than one."""


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status, what it printed where."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr of a command that failed."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1 and lines[0].startswith("error: "), self.err
        return lines[0]

    @property
    def following(self) -> list[list[str]]:
        """The words, after ``interp``, of what it says can be done next."""
        _, _, suggested = f"\n{self.out}".partition("\nnext ")
        lines = [line.partition("    # ") for line in suggested.splitlines()]
        return [shlex.split(words)[1:] for words, comment, _ in lines if comment]


def run_command(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Outcome:
    monkeypatch.setattr(sys, "argv", ["interp", *words])
    monkeypatch.setenv("COLUMNS", "200")
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    return Outcome(end.value.code, *capsys.readouterr())


def quick_and_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are found from few prompts; no line of progress comes in between, however busy the machine is."""
    monkeypatch.setattr("interp.programs.program.FIT_PAIRS", 40)
    monkeypatch.setattr("interp.programs.program.JUDGE_PAIRS", 20)
    monkeypatch.setattr("interp.progress._last_line", math.inf)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> None:
    """What commands write into the working folder goes into the test's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., Outcome]:
    """``command("discover", "ioi")`` runs the command line."""
    quick_and_quiet(monkeypatch)
    return lambda *words: run_command(list(words), monkeypatch, capsys)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden files too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
