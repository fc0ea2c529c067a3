"""``benchmarks/circuits_alone.py``: the bench's circuits on held-out pairs of one's own number."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from interp.bench.plan import BenchPlan
from interp.bench.run import run_bench
from interp.files import write_json

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "circuits_alone.py"
HELD_OUT = 6


def test_on_the_pairs_of_the_bench_it_has_the_numbers_of_the_bench(tmp_path, monkeypatch):
    sizes = {"pairs": (4,), "seeds": 2, "pool": 16, "reference": 20, "held_out": HELD_OUT}
    plan = BenchPlan(("planted-backup",), methods=("adaptive-patching", "attribution"), **sizes)
    bench, out = run_bench(plan, tmp_path / "bench"), tmp_path / "alone.json"
    write_json(tmp_path / "bench" / "bench.json", bench)
    words = ["circuits_alone.py", str(tmp_path / "bench"), "--held-out", str(HELD_OUT), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    methods = json.loads(out.read_text())["methods"]
    assert set(methods) == {"adaptive-patching", "attribution", "yardstick"}
    for method, row in methods.items():
        cells = [cell["cmd"] for cell in bench["cells"] if cell["method"] == method]
        assert row["by_seed"] == pytest.approx(cells, abs=1e-5)
        low, high = row["interval"]
        assert low <= row["cmd"] <= high
    best, other = methods["adaptive-patching"], methods["attribution"]
    assert best["less"] == 0 and other["less"] == pytest.approx(best["cmd"] - other["cmd"])
