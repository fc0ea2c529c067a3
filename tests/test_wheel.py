"""The wheel: holds everything and nothing else, and works where the repository is not."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests.browser.workbench import free_ports, started
from tests.command_line import ONE_THREAD

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
INSTALLED = {"interp": "interp", "tasks": "interp/tasks", "app": "interp/app"}
"""Folder of the repository -> where the wheel has it."""
NO_LEFTOVERS = shutil.ignore_patterns("__pycache__", "*.pyc")


def _run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | ONE_THREAD | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that the repository gets no build folder."""
    source = tmp_path_factory.mktemp("source")
    for name in INSTALLED:
        shutil.copytree(ROOT / name, source / name, ignore=NO_LEFTOVERS)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    _run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(source / "dist"), cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    command = ["-m", "pip", "install", "--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
    _run(*command, "--target", str(folder), str(wheel), cwd=folder)
    return folder


def test_it_holds_every_file_of_the_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"interp"}
    wanted = {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in INSTALLED.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert {name for name in names if name.startswith("interp/")} == wanted
    for data in ("circuits/data/published.json", "tasks/data/ioi.json", "report/report.html"):
        assert f"interp/{data}" in names
    assert any(name.startswith("interp/circuits/data/measured-") for name in names)


def test_it_finds_a_circuit_where_the_repository_is_not(installed, tmp_path):
    code = "import interp, interp.tasks, interp.app; print(interp.__file__, interp.tasks.__file__, interp.app.__file__)"
    files = _run("-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).stdout.split()
    assert [Path(file).is_relative_to(installed) for file in files] == [True] * 3
    words = ["discover", "planted-induction", "-n", "8", "--out", "run"]
    done = _run("-m", "interp.cli.main", *words, cwd=tmp_path, PYTHONPATH=str(installed))
    assert "3 members" in done.stdout
    result = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {part["site"] for part in result["heads"] if part["in_circuit"]} == {"a0.h3", "a1.h1", "a2.h4"}
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


def test_the_workbench_comes_along_and_starts(installed, tmp_path):
    code = "from importlib.util import find_spec; print(find_spec('interp.app.main').origin)"
    main = Path(_run("-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).stdout.strip())
    assert main.is_relative_to(installed)
    assert (main.parent / "circuit" / "page.py").is_file()
    [port] = free_ports(1)
    command = [sys.executable, "-m", "interp.cli.main", "app", "--port", str(port)]
    with (
        started(command, port, tmp_path / "log", cwd=tmp_path, PYTHONPATH=str(installed)) as address,
        urllib.request.urlopen(address) as answer,
    ):
        assert answer.status == 200
    log = (tmp_path / "log").read_text()
    # the configuration came along too: no statistics are gathered, no mail address is asked for
    assert address in log and "statistics" not in log and "email" not in log
