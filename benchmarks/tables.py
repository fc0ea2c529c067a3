"""Every kept result as a table: fills benchmarks/TABLES.md, whose sections name files of `results` and commands.

    python -m benchmarks.tables

Nothing is measured, and no model is loaded. A command with ``show`` in it is run, of ``interp bench`` the table is made
here, and of another script its ``show`` is called with what each file holds.
"""

import contextlib
import importlib
import io
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.common import RESULTS, interval, print_table
from interp.bench.plan import YARDSTICK
from interp.bench.table import compare_subsets
from interp.files import read_json, write_text

PAGE = Path(__file__).with_name("TABLES.md")
FINDER, PRECISION = "adaptive-patching", "average_precision"


def filled(page: str) -> str:
    """The page with the tables that kept results give now; the first paragraph of every section stays."""
    start, *sections = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    return start + "\n".join(_section("\n\n".join(section.split("\n\n")[:2]).strip()) for section in sections)


def _section(head: str) -> str:
    named = [text.replace("\n", " ") for text in re.findall("`([^`]+)`", head)]
    commands = [text for text in named if text.startswith(("python ", "interp "))]
    paths = [path for pattern in named if "/" in pattern or "." in pattern for path in sorted(RESULTS.glob(pattern))]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        name, *words = shlex.split(commands[-1])[2:]
        module = importlib.import_module(name) if name.startswith("benchmarks.") else None
        if module is None:
            bench([read_json(path) for path in paths])
        elif {"show", "--show", "seeds"} & set(words):
            if hasattr(module, "__path__"):
                module = importlib.import_module(f"{name}.__main__")
            with mock.patch.object(sys, "argv", [name, *words]):
                module.main()
        else:
            for path in paths:
                module.show(read_json(path))
    lines = (re.sub(r"^(?=[^|*\s])", "- ", line) for line in out.getvalue().splitlines())
    tables = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return f"{head}\n\n{tables}\n"


def bench(results: Sequence[dict]) -> None:
    """Of each task, and in the mean of several, how well methods find heads, and by how much the finder is ahead on the
    same pairs; exact patching has other pairs. Where two files have a cell, the later one counts."""
    known: dict[tuple, dict[int, dict]] = {}
    for row in (row for result in results for row in result.get("cells", _cell(result)) if row["decides"]):
        known.setdefault((Path(row["task"]).stem, row["method"], row["n"]), {})[row["seed"]] = row
    tasks, methods, pairs = ([*dict.fromkeys(key[place] for key in known)] for place in range(3))

    def by_seed(task_group: list[str], method: str, n: int, name: str) -> list[dict[int, float]]:
        cells = [known.get((task, method, n), {}) for task in task_group]
        return [{seed: row[name] for seed, row in of.items() if row[name] is not None} for of in cells]

    def mean(*what: Any, form: str = ".3f", share: int = 1) -> str | None:
        values = by_seed(*what)
        return format(np.mean([np.mean([*of.values()]) for of in values]) / share, form) if all(values) else None

    def ahead(task_group: list[str], method: str, n: int) -> str | None:
        both = zip(by_seed(task_group, FINDER, n, PRECISION), by_seed(task_group, method, n, PRECISION), strict=True)
        gaps = [[a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())] for a, b in both]
        if method == FINDER or min(map(len, gaps)) < 2:
            return None
        apart = compare_subsets(gaps)
        return interval(apart["difference"], apart["low"], apart["high"], "+.3f")

    least = min(pairs)
    heads = (f"{n} pairs{what}" for n in sorted(pairs) for what in (": ROC AUC", ": AP", f", {FINDER} minus it, AP"))
    columns = ("method", "passes a pair", *heads, "CMD")
    for task_group in [*([task] for task in tasks), *([tasks] if len(tasks) > 1 else [])]:
        rows = []
        for method in methods:
            cells: list[str | None] = []
            for n in sorted(pairs):
                cells += [mean(task_group, method, n, name) for name in ("roc_auc", PRECISION)] + [
                    ahead(task_group, method, n)
                ]
            if any(cells):
                passes = mean(task_group, method, least, "forwards", form=".0f", share=least)
                name = "exact patching" if method == YARDSTICK else method
                rows.append((name, passes, *cells, mean(task_group, method, least, "cmd")))
        print_table(columns, rows, task_group[0] if len(task_group) == 1 else f"mean of {len(task_group)} tasks")


def _cell(kept: dict) -> list[dict]:
    """As a bench's table has it, if this is one that is kept by itself."""
    if "agreement" not in kept.get("result", {}):
        return []
    settings, result = kept["settings"], kept["result"]
    row = {name: settings[name] for name in ("task", "method", "n", "seed")} | {"decides": True}
    row |= {"forwards": result["forwards"], "cmd": (result["faithfulness"] or {}).get("cmd")}
    return [row | next(iter(result["agreement"].values()))]


if __name__ == "__main__":
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))
    print(PAGE)
