"""The table of methods: every method on the same pairs, judged by the same references; see docs/evaluation.md."""

from interp.bench.plan import Plan
from interp.bench.run import run_bench

__all__ = ["Plan", "run_bench"]
