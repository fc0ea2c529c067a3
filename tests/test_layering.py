"""The structure holds: imports point backwards along the data flow, and heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = (
    "interp.tasks",
    "interp.models",
    "interp.text",
    "interp.activations",
    "interp.bottlenecks",
    "interp.training",
    "interp.scores.registry",
    "interp.circuits",
    "interp.codesearch",
    "interp.steering",
    "interp.evaluation",
    "interp.runs.run_format",
    "interp.runs.run",
    "interp.runs.record",
    "interp.runs.discover",
    "interp.runs.measure",
    "interp.bench",
    "interp.tokfsm",
    "interp.report",
    "interp.cli.terminal",
    "interp.cli.render",
    "interp.cli.render",
    "interp.cli.render",
    "interp.cli.render",
    "interp.cli.options",
    "interp.cli.terminal",
    "interp.cli.doctor",
    "interp.cli.failures",
    "interp.cli.app",
    "interp.cli.bench",
    "interp.cli.discover",
    "interp.cli.codebook",
    "interp.cli.discover",
    "interp.cli.discover",
    "interp.cli.index",
    "interp.cli.codebook",
    "interp.cli.steer",
    "benchmarks.tokfsm.__main__",
    "interp.cli.tasks",
    "interp.cli.main",
    "interp.app",
)
EVERYWHERE = ("interp.defaults", "interp.files", "interp.stats", "interp.progress", "interp.errors")
ONLY_IN = {
    "transformer_lens": ("interp.models",),
    "streamlit": ("interp.app",),
    "sae_lens": ("interp.bottlenecks.interop.sae_lens",),
}


def _modules() -> dict[str, Path]:
    found = {}
    for folder, package in (("interp", "interp"), ("tasks", "interp.tasks"), ("app", "interp.app")):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *(p for p in parts if p != "__init__")))
            found[name] = path
    return found


MODULES = _modules()


def _imports(name: str, path: Path) -> set[str]:
    """Full names of what a module imports, wherever in the file."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def _stage(name: str) -> int | None:
    hits = [i for i, stage in enumerate(ORDER) if name == stage or name.startswith(stage + ".")]
    return hits[0] if hits else None


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_backwards(name):
    stage = _stage(name)
    for imported in _imports(name, MODULES[name]):
        if not imported.startswith("interp.") or imported.startswith(EVERYWHERE) or stage is None:
            continue
        other = _stage(imported)
        assert other is None or other <= stage, f"{name} imports {imported}, which comes after it"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_heavy_libraries_are_imported_only_where_they_belong(name):
    for imported in _imports(name, MODULES[name]):
        library = imported.partition(".")[0]
        for allowed in ONLY_IN.get(library, (name,)):
            assert name == allowed or name.startswith(allowed + "."), f"{name} imports {imported}"


def test_tasks_import_nothing_else_of_ours():
    for name, path in MODULES.items():
        if name.startswith("interp.tasks"):
            for imported in _imports(name, path):
                assert not imported.startswith("interp.") or imported.startswith("interp.tasks"), name


def test_no_file_of_the_app_shadows_the_standard_library():
    for path in (ROOT / "app").rglob("*.py"):
        assert path.stem not in sys.stdlib_module_names - {"__main__"}, path


@pytest.mark.parametrize("module", ["interp", "interp.cli.main", "interp.tasks"])
def test_light_modules_import_no_heavy_library(module):
    heavy = ("torch", "transformers", "transformer_lens", "plotly", "pandas", "sklearn", "streamlit", "scipy")
    code = f"import {module}, sys; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_files_stay_small_enough_to_read():
    long = {name: n for name, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 400}
    assert not long
