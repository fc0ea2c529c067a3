"""A bench read back from its file, as rows that tables and figures are made of; what is damaged is told at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from interp.bench.table import COMPARED, METRICS
from interp.errors import InputError
from interp.report.bench import COLUMNS, CONTROLS, YARDSTICK, bench_command
from interp.report.tables import read_rows

TITLES = dict(COLUMNS)
LOWER_IS_BETTER = ("cmd", "forwards", "seconds")


@dataclass(frozen=True)
class Spread:
    """A mean over seeds, with the least and the largest seed; means over tasks have no such range."""

    mean: float
    least: float | None = None
    largest: float | None = None


@dataclass(frozen=True)
class Difference:
    """Of a method and the one it is compared with, on the same subsets, with its 95 % interval over seeds."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class MethodRow:
    """A method with so many pairs.

    Attributes:
        over: how many seeds, or for a mean over tasks how many of them.
        complete: whether a mean over tasks is over all that were run.
        values: by metric, those that were measured.
        differences: by metric, from the method that the bench compares with.
    """

    method: str
    n: int
    over: str
    values: Mapping[str, Spread]
    differences: Mapping[str, Difference] = field(default_factory=dict)
    complete: bool = True

    @property
    def kind(self) -> str:
        if self.method == YARDSTICK:
            return "yardstick"
        return "control" if self.method in CONTROLS else "method"


@dataclass(frozen=True)
class BenchRows:
    """
    Attributes:
        scopes: rows by what they are measured on, means over tasks first.
        against: the method that differences are from.
        skipped: methods left out, with where and why.
        command: what makes it again.
    """

    scopes: Mapping[str, Sequence[MethodRow]]
    against: str | None = None
    skipped: Sequence[str] = ()
    command: str | None = None

    def metrics(self, scope: str) -> list[str]:
        """Those with a value, in the order of the bench's page."""
        return [name for name in TITLES if any(name in row.values for row in self.scopes[scope])]


def read_bench(path: Path) -> BenchRows:
    """Read ``bench.json`` of ``interp bench``.

    Raises:
        InputError: not such a file, or one that was damaged.
    """
    # a table that was kept apart from its cells has no folder to go on with
    out = path.parent if path.name == "bench.json" else Path("runs") / f"bench-{path.stem}"
    found = read_rows(path, partial(_read, out=str(out)), "run the bench again, or delete it")
    if not found.scopes or not all(found.metrics(scope) for scope in found.scopes):
        raise InputError(
            f"{path} holds no rows, or a target without numbers: run the bench again, or delete it"
        )
    return found


def best_first(rows: Sequence[MethodRow], metric: str) -> list[MethodRow]:
    """Rows by falling value (rising where lower is better), those without one last."""
    sign = 1 if metric in LOWER_IS_BETTER else -1

    def order(row: MethodRow) -> tuple:
        value = row.values.get(metric)
        return (value is None, 0.0 if value is None else sign * value.mean, row.method, row.n)

    return sorted(rows, key=order)


def _read(result: Mapping[str, Any], out: str) -> BenchRows:
    differences: dict[tuple, dict[str, Difference]] = {}
    for row in result["comparisons"]:
        key = (str(row["scope"]), str(row["method"]), int(row["n"]))
        if row["metric"] in COMPARED:
            differences.setdefault(key, {})[row["metric"]] = Difference(
                float(row["difference"]), _number(row["low"]), _number(row["high"])
            )
    scopes: dict[str, list[MethodRow]] = {}
    for row in result["groups"]:
        if int(row["of_tasks"]) > 1:
            scope = f"mean over {row['group']}"
            over = f"{row['tasks']} of {row['of_tasks']} tasks"
            mean = _row(row, over, differences, scope)
            scopes.setdefault(scope, []).append(replace(mean, complete=row["tasks"] == row["of_tasks"]))
    several = {
        (row["task"], row["model"])
        for row in result["table"]
        if not row["decides"]  # a target with a second reference
    }
    for row in result["table"]:
        target = str(row["task"]) if row["task"] == row["model"] else f"{row['task']} on {row['model']}"
        scope = target
        if (row["task"], row["model"]) in several:
            scope = f"{target}, against {row['reference']}"
        its = differences if row["decides"] else {}
        scopes.setdefault(scope, []).append(_row(row, f"{int(row['seeds'])} seeds", its, target))
    skipped = [
        f"{row['method']} on {row['task']} ({row['model']}): {row['why']}" for row in result["skipped"]
    ]
    return BenchRows(scopes, str(result["plan"]["against"]), skipped, bench_command(result["plan"], out))


def _row(row: Mapping[str, Any], over: str, differences: Mapping, scope: str) -> MethodRow:
    method, n = str(row["method"]), int(row["n"])
    names = (*METRICS, "jaccard_seeds", "jaccard_bootstrap")
    values = {name: _spread(row[name]) for name in names if row[name] is not None}
    return MethodRow(method, n, over, values, differences.get((scope, method, n), {}))


def _spread(value: Mapping[str, Any] | float) -> Spread:
    if isinstance(value, Mapping):
        return Spread(*(float(value[part]) for part in ("mean", "least", "largest")))
    return Spread(float(value))


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)
