"""From cells to the table: means over seeds, means over tasks, and methods compared pair by pair on the same subsets.

Intervals are percentile bootstraps over seeds. Seeds draw subsets of one pool, so large subsets overlap: with 100 of
300 pairs an interval is about a fifth too narrow for prompts drawn anew, and the reference is held fixed throughout.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np

from interp.bench.judges import AGREEMENT, EDGE_AGREEMENT
from interp.bench.plan import YARDSTICK, BenchPlan, BenchTarget
from interp.evaluation.faithfulness import SIZES
from interp.evaluation.stability import best_heads, mean_jaccard
from interp.models.provenance import versions

FORMAT = 1
FAITHFUL = ("cpr", "cmd", *(f"f_{size}" for size in SIZES))
METRICS = (*AGREEMENT, *EDGE_AGREEMENT, *FAITHFUL, "forwards")
COMPARED = ("roc_auc", "average_precision", "edge_roc_auc", "cpr", "cmd")  # of these CMD is better when it is lower
N_BOOT = 2000


@dataclass(frozen=True)
class BenchCell:
    """One method on ``n`` pairs of one seed."""

    target: BenchTarget
    method: str
    n: int
    seed: int
    result: dict  # as it is kept on disk: heads, agreement by reference, faithfulness, cost
    size: int  # members of the first reference
    bootstrap_jaccard: float | None  # of the method on resamples of `n` pairs, where it was measured

    @property
    def reference(self) -> str:
        return next(iter(self.result["agreement"]))

    def rows(self) -> list[dict]:
        faithful = self.result["faithfulness"] or {}
        at = faithful.get("f_at", {})
        shared = {name: faithful.get(name) for name in ("cpr", "cmd")}
        shared |= {f"f_{size}": at.get(str(size)) for size in SIZES}
        shared["forwards"] = self.result["forwards"]
        start = {**asdict(self.target), "method": self.method, "n": self.n, "seed": self.seed}
        nothing = dict.fromkeys(METRICS)
        return [
            {**start, "reference": name, "decides": name == self.reference, **nothing, **agreement, **shared}
            for name, agreement in self.result["agreement"].items()
        ]


def tabulate(plan: BenchPlan, cells: Sequence[BenchCell], skipped: Sequence[dict]) -> dict:
    """Everything that is shown, as JSON-able values.

    ============== ==========================================================================================
    ``cells``      one row a cell and reference
    ``table``      one row a target, reference, method and number of pairs: mean, least and largest over seeds
    ``groups``     means over the tasks of a group (a model's tasks; the planted models), deciding references
    ``comparisons`` every method less ``plan.against`` on the same subsets, by task and group; not the baseline, whose
                   pairs and reference are its own
    ``skipped``    methods left out of a target, and why
    ============== ==========================================================================================
    """
    rows = [row for cell in cells for row in cell.rows()]
    table = _table(cells)
    return {
        "format": FORMAT,
        "plan": asdict(plan),
        "cells": rows,
        "table": table,
        "groups": _groups(plan, table),
        "comparisons": _comparisons(plan, rows),
        "skipped": list(skipped),
        "versions": versions(),
    }


def one_line(cells: Sequence[BenchCell]) -> str:
    """A method on a target in a few words, for who watches."""
    parts = []
    for n in sorted({cell.n for cell in cells}):
        rows = [cell.result["agreement"][cell.reference] for cell in cells if cell.n == n]
        auc, precision = (_mean(row[key] for row in rows) for key in ("roc_auc", "average_precision"))
        parts.append(f"n={n} AUC {_text(auc)} AP {_text(precision)}")
    return "; ".join(parts)


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _mean(values: Iterable[float | None]) -> float | None:
    return spread["mean"] if (spread := _spread(values)) else None


def _keyed(rows: Iterable[dict], *keys: str) -> dict[tuple, list[dict]]:
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _table(cells: Sequence[BenchCell]) -> list[dict]:
    groups: dict[tuple, list[BenchCell]] = {}
    for cell in cells:
        groups.setdefault((cell.target, cell.method, cell.n), []).append(cell)
    table, names = [], ("task", "model", "reference", "decides", "method", "n")
    for group in groups.values():
        circuits = [best_heads(np.array(cell.result["heads"]), cell.size, seed=cell.seed) for cell in group]
        jaccard = {"jaccard_seeds": mean_jaccard(circuits), "jaccard_bootstrap": group[0].bootstrap_jaccard}
        rows = [row for cell in group for row in cell.rows()]
        for key, alike in _keyed(rows, *names).items():
            line = dict(zip(names, key, strict=True)) | {"seeds": len(alike)}
            table.append(line | {name: _spread(row[name] for row in alike) for name in METRICS} | jaccard)
    return table


def _spread(values: Iterable[float | None]) -> dict | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": float(np.mean(known)), "least": min(known), "largest": max(known), "count": len(known)}


def _groups(plan: BenchPlan, table: list[dict]) -> list[dict]:
    by_group = plan.groups()
    group_of = {(t.task, t.model): name for name, targets in by_group.items() for t in targets}
    deciding = [line | {"group": group_of[line["task"], line["model"]]} for line in table if line["decides"]]
    names, groups = ("group", "method", "n"), []
    for key, lines in _keyed(deciding, *names).items():
        start = dict(zip(names, key, strict=True)) | {"tasks": len(lines), "of_tasks": len(by_group[key[0]])}
        means = {name: _mean(line[name] and line[name]["mean"] for line in lines) for name in METRICS}
        means |= {name: _mean(line[name] for line in lines) for name in ("jaccard_seeds", "jaccard_bootstrap")}
        groups.append(start | means)
    return groups


def _comparisons(plan: BenchPlan, rows: list[dict]) -> list[dict]:
    deciding = [row for row in rows if row["decides"]]
    row_of = {(row["task"], row["model"], row["method"], row["n"], row["seed"]): row for row in deciding}
    apart = (plan.against, YARDSTICK)
    methods = [m for m in dict.fromkeys(row["method"] for row in deciding) if m not in apart]
    groups = plan.groups()
    scopes = [(t.name, t.group if len(groups[t.group]) == 1 else None, [t]) for t in plan.targets()]
    scopes += [(f"mean over {group}", group, members) for group, members in groups.items() if len(members) > 1]

    def differences(target: BenchTarget, method: str, n: int, metric: str) -> list[float]:
        """On the same subsets, one a seed that both methods have."""
        gaps = []
        for seed in range(plan.seeds):
            keys = [(target.task, target.model, name, n, seed) for name in (method, plan.against)]
            a, b = (row_of[key][metric] if key in row_of else None for key in keys)
            if a is not None and b is not None:
                gaps.append(a - b)
        return gaps

    comparisons = []
    for metric, n, method, (scope, group, targets) in product(COMPARED, plan.pairs, methods, scopes):
        known = list(filter(None, (differences(target, method, n, metric) for target in targets)))
        if known:
            start = {"scope": scope, "group": group, "method": method, "against": plan.against, "n": n}
            comparisons.append(start | {"metric": metric, "tasks": len(known), **compare_subsets(known)})
    return comparisons


def compare_subsets(by_task: Sequence[Sequence[float]]) -> dict:
    """Mean over tasks of the mean over seeds of paired differences, with its 95 % bootstrap interval over seeds.
    ``by_task``: for every task the differences of two methods, one a seed. Returns ``difference``, ``low`` and ``high``
    (``None`` with a single seed), ``seeds`` (the fewest of any task)."""
    fewest = min(len(differences) for differences in by_task)
    result = {"difference": float(np.mean([np.mean(d) for d in by_task])), "low": None, "high": None}
    if fewest > 1:
        rng = np.random.default_rng(0)
        drawn = [rng.choice(np.asarray(d), (N_BOOT, len(d))).mean(1) for d in by_task]
        low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
        result |= {"low": float(low), "high": float(high)}
    return result | {"seeds": fewest}
