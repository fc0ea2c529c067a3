"""``benchmarks/circuits_alone.py``: the bench's circuits on held-out pairs of one's own number."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from interp.bench.plan import Plan
from interp.bench.run import run_bench
from interp.errors import InputError
from interp.evaluation.ablation import Ablator
from interp.files import write_json

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "circuits_alone.py"
HELD_OUT = 6


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> tuple[Path, dict]:
    """A folder with the cells of a bench, and its table."""
    folder = tmp_path_factory.mktemp("bench")
    sizes = {"pairs": (4,), "seeds": 2, "pool": 16, "reference": 20, "held_out": HELD_OUT}
    plan = Plan(("planted-backup",), methods=("adaptive-patching", "attribution"), **sizes)
    result = run_bench(plan, folder)
    write_json(folder / "bench.json", result)
    return folder, result


@pytest.fixture
def alone(bench, monkeypatch, tmp_path):
    def run(*words: str) -> dict:
        out = tmp_path / "alone.json"
        monkeypatch.setattr(sys, "argv", ["circuits_alone.py", str(bench[0]), *words, "--out", str(out)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return json.loads(out.read_text())

    return run


def test_on_the_pairs_of_the_bench_it_has_the_numbers_of_the_bench(alone, bench):
    found = alone("--held-out", str(HELD_OUT))["methods"]
    assert set(found) == {"adaptive-patching", "attribution", "yardstick"}
    for method, row in found.items():
        cells = [cell["cmd"] for cell in bench[1]["cells"] if cell["method"] == method]
        assert row["by_seed"] == pytest.approx(cells, abs=1e-5)
        low, high = row["interval"]
        assert low <= row["cmd"] <= high
    assert found["adaptive-patching"]["less"] == 0
    assert found["attribution"]["less"] == pytest.approx(
        found["adaptive-patching"]["cmd"] - found["attribution"]["cmd"]
    )


def test_what_was_run_is_not_run_again_and_a_method_that_is_not_kept_is_named(alone, monkeypatch):
    words = ("--held-out", "5", "--methods", "attribution")
    first = alone(*words)
    monkeypatch.setattr(Ablator, "metric", None)
    assert alone(*words) == first
    with pytest.raises(InputError, match="eap"):
        alone("--methods", "eap")
