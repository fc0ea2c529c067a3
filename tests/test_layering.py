"""The structure holds: imports point backwards along the data flow, and heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

import interp
from interp.activations.metric import kl_divergence

ROOT = Path(__file__).parent.parent
PACKAGES = """prompts tasks models planted text activations interventions bottlenecks training scores circuits programs
codesearch contrast steering changes evaluation runs bench report cli app"""
ORDER = PACKAGES.split()
"""Packages of ``interp``, each of which imports from those before it; modules beside them are imported everywhere."""
ONLY_IN = {
    "transformer_lens": ("interp.models", "interp.planted"),
    "streamlit": ("interp.app",),
    "ray": ("interp.executor",),
    "sae_lens": ("interp.bottlenecks.interop.sae_lens",),
}


WRITERS = {"starting_at", "Prefix", "Blockwise", "hooked", "end_logits", "answer_logits"}
"""By these a forward can get stored values in the place of activations."""
MAY_WRITE = {
    "a gradient is taken there, or a rule of it changed": (
        "interp.scores.gradients",
        "interp.scores.baselines.atp_star",
        "interp.scores.baselines.relp",
        "interp.scores.baselines.gim",
        "interp.scores.baselines.subnetwork_probing",
        "interp.scores.baselines.contextual_decomposition",
    ),
    "fitting": ("interp.bottlenecks.fit",),
    "training": ("interp.training.trainer",),
    "attach": ("interp.bottlenecks.attach",),
    "layers that two models share are run once": ("interp.changes.reading",),
    "hooks there read, and change nothing": (
        "interp.circuits.roles",
        "interp.codesearch.build",
        "interp.contrast.prompts",
        "interp.contrast.proposals",
        "interp.steering.texts",
        "interp.steering.code_effect",
        "interp.evaluation.codebook_quality",
    ),
}


MODULES = {
    f"{package}.{'.'.join(path.relative_to(ROOT / folder).with_suffix('').parts)}".removesuffix(".__init__"): path
    for folder, package in (("interp", "interp"), ("tasks", "interp.tasks"), ("app", "interp.app"))
    for path in (ROOT / folder).rglob("*.py")
}


@cache
def _imports(name: str, path: Path) -> set[str]:
    """Full names of what a module imports, wherever in the file; ``interp.NAME`` is one but for those in ``_LATER``."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            imported |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute) and (dotted := ast.unparse(node)).startswith("interp."):
            imported.add(dotted)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            imported |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return imported | {interp._EXPORTS[name] for name in interp._EXPORTS if f"interp.{name}" in imported}


def _package(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else None


@cache
def package_imports() -> dict[tuple[str, str], str]:
    """Which package imports from which other, and a module that does."""
    arrows = {}
    for name, path in MODULES.items():
        for imported in _imports(name, path) if _package(name) else ():
            other = _package(imported) if imported.startswith("interp.") else None
            if other not in (None, _package(name)):
                arrows[_package(name), other] = name
    return arrows


def test_imports_point_backwards():
    arrows = {arrow for arrow in package_imports() if ORDER.index(arrow[1]) > ORDER.index(arrow[0])}
    assert {arrow: package_imports()[arrow] for arrow in arrows} == {}


def test_values_are_put_in_the_place_of_activations_by_interventions_alone():
    engine = ("interp.models", "interp.activations", "interp.interventions")
    named = {module for modules in MAY_WRITE.values() for module in modules}
    writing = {
        name
        for name, path in MODULES.items()
        if not name.startswith(engine) and {imported.rpartition(".")[2] for imported in _imports(name, path)} & WRITERS
    }
    assert writing == named


def test_every_package_has_its_place():
    packages = {path.parent.name for path in (ROOT / "interp").glob("*/__init__.py")} | {"tasks", "app"}
    assert packages == set(ORDER)
    assert len(list((ROOT / "interp").glob("*.py"))) <= 8


def test_heavy_libraries_are_imported_only_where_they_belong():
    for name, path in MODULES.items():
        for imported in _imports(name, path):
            allowed = ONLY_IN.get(imported.partition(".")[0], (name,))
            assert any(f"{name}.".startswith(f"{place}.") for place in allowed), f"{name} imports {imported}"


def test_no_file_of_the_app_shadows_the_standard_library():
    for path in (ROOT / "app").rglob("*.py"):
        assert path.stem not in sys.stdlib_module_names - {"__main__"}, path


LIGHT = """
import contextlib, io, sys
import interp, interp.tasks
from interp.cli.main import app
for words in (["--help"], ["discover", "--help"], ["--version"], ["tasks"], ["models"]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        app(words, standalone_mode=False)
    assert out.getvalue(), words
heavy = ("torch", "transformers", "transformer_lens", "numpy", "pandas", "plotly", "sklearn", "streamlit", "scipy")
print([name for name in heavy if name in sys.modules])
"""


def test_lists_help_and_tasks_load_nothing_heavy():
    words = [sys.executable, "-c", LIGHT]
    assert subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == "[]"


def test_shapes_are_checked_while_tests_run():
    with pytest.raises(TypeCheckError):
        kl_divergence(torch.zeros(2, 3), torch.zeros(2, 4))


def test_groups_of_tests_stay_in_one_process(request):
    """Else clusters, servers and fixtures of modules are made twice, as pytest-xdist 3.8 did with pytest 9.2."""
    shared_out = hasattr(request.config, "workerinput")
    assert request.node.nodeid.partition("@")[2] == (str(request.path) if shared_out else "")
