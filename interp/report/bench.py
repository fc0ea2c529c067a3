"""A bench read back from its file: rows, a figure of quality against cost, and one HTML page."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup
from pydantic.dataclasses import dataclass as checked_dataclass

from interp.bench.table import METRICS
from interp.errors import InputError
from interp.report import wording
from interp.report.style import BLUE, GREY, embed, environment, layout, spread, whiskers
from interp.report.tables import read_rows
from interp.report.wording import in_plot

CONTROLS = ("random", "layer-index")  # rankings that know nothing of the prompts
TITLES = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "precision_at_n": "precision@n",
    "spearman": "Spearman",
    "edge_roc_auc": "edge ROC AUC",
    "edge_average_precision": "edge AP",
    "cmd": "CMD",
    "cpr": "CPR",
    "f_5": "f(5)",
    "f_10": "f(10)",
    "f_20": "f(20)",
    "f_50": "f(50)",
    "jaccard_bootstrap": "Jaccard, resampled",
    "jaccard_seeds": "Jaccard, seeds",
    "forwards": "forwards",
}
"""A column without a single value in its table is left out."""
COMPARED = ("average_precision", "roc_auc", "edge_roc_auc", "cmd")
LOWER_IS_BETTER = ("cmd", "forwards")
BEST = "average_precision"


@checked_dataclass(frozen=True)
class Spread:
    """A mean over seeds, with the least and the largest seed; means over tasks have no such range."""

    mean: float
    least: float | None = None
    largest: float | None = None
    count: int | None = None


@checked_dataclass(frozen=True)
class MethodDifference:
    """Of a method and the one it is compared with, on the same subsets, with its 95 % interval over seeds."""

    mean: float
    low: float | None
    high: float | None

    @property
    def sure(self) -> bool:
        """Whether the interval is off zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class MethodRow:
    """A method with so many pairs."""

    method: str
    n: int
    over: str  # how many seeds, or for a mean over tasks how many of them
    # values, differences: by metric; from the method that the bench compares with
    values: Mapping[str, Spread]
    differences: Mapping[str, MethodDifference] = field(default_factory=dict)
    complete: bool = True  # whether a mean over tasks is over all that were run
    seeds: int | None = None  # how many there were at most; none of a mean over tasks

    @property
    def kind(self) -> str:
        if self.method == wording.EXACT:
            return "baseline"
        return "control" if self.method in CONTROLS else "method"


@dataclass(frozen=True)
class BenchRows:
    """Rows by what they are measured on, means over tasks first; the method that differences are from; methods left
    out, with where and why; and the command that makes it again."""

    scopes: Mapping[str, Sequence[MethodRow]]
    against: str
    skipped: Sequence[str]
    command: str


def measured(rows: Sequence[MethodRow]) -> list[str]:
    """Metrics with a value in any row, in the order of the bench's page."""
    return [name for name in TITLES if any(name in row.values for row in rows)]


def read_bench(path: Path) -> BenchRows:
    """Read ``bench.json`` of ``interp bench``. :class:`InputError`: not such a file, or one that was damaged."""
    # a table that was kept apart from its cells has no folder to go on with
    out = path.parent if path.name == "bench.json" else Path("runs") / f"bench-{path.stem}"
    rows = read_rows(path, partial(bench_rows, out=str(out)), "run the bench again, or delete it")
    if not rows.scopes or not all(map(measured, rows.scopes.values())):
        raise InputError(f"{path} holds no rows, or a target without numbers: run the bench again, or delete it")
    return rows


def best_first(rows: Sequence[MethodRow], metric: str) -> list[MethodRow]:
    """Rows by falling value (rising where lower is better), those without one last."""
    sign = 1 if metric in LOWER_IS_BETTER else -1

    def order(row: MethodRow) -> tuple:
        value = row.values.get(metric)
        return (value is None, 0.0 if value is None else sign * value.mean, row.method, row.n)

    return sorted(rows, key=order)


def bench_rows(result: Mapping[str, Any], out: str | None = None) -> BenchRows:
    """Rows of a table (:func:`interp.bench.table.tabulate`), and the command that goes on with it in a folder."""
    differences: dict[tuple, dict[str, MethodDifference]] = {}
    for row in result["comparisons"]:
        if row["metric"] in COMPARED:
            key = row["scope"], row["method"], row["n"]
            interval = MethodDifference(row["difference"], row["low"], row["high"])
            differences.setdefault(key, {})[row["metric"]] = interval
    scopes: dict[str, list[MethodRow]] = {}
    for row in result["groups"]:
        if row["of_tasks"] > 1:
            scope, over = f"mean over {row['group']}", f"{row['tasks']} of {row['of_tasks']} tasks"
            scopes.setdefault(scope, []).append(_row(row, over, differences, scope))
    # those with a second reference
    several = {_target(row) for row in result["table"] if not row["decides"]}
    for row in result["table"]:
        target, of_reference = _target(row), differences if row["decides"] else {}
        scope = f"{target}, against {row['reference']}" if target in several else target
        scopes.setdefault(scope, []).append(_row(row, f"{int(row['seeds'])} seeds", of_reference, target))
    skipped = [f"{row['method']} on {row['task']} ({row['model']}): {row['why']}" for row in result["skipped"]]
    return BenchRows(scopes, str(result["plan"]["against"]), skipped, bench_command(result["plan"], out))


def _target(row: Mapping[str, Any]) -> str:
    return str(row["task"]) if row["task"] == row["model"] else f"{row['task']} on {row['model']}"


def _row(row: Mapping[str, Any], over: str, differences: Mapping = {}, scope: str = "") -> MethodRow:
    method, n = str(row["method"]), int(row["n"])
    values = {
        name: Spread(**row[name]) if isinstance(row[name], Mapping) else Spread(row[name])
        for name in (*METRICS, "jaccard_seeds", "jaccard_bootstrap")
        if row[name] is not None
    }
    complete = "tasks" not in row or row["tasks"] == row["of_tasks"]
    of_method = differences.get((scope, method, n), {})
    return MethodRow(wording.method_name(method), n, over, values, of_method, complete, row.get("seeds"))


def bench_command(plan: Mapping[str, Any], out: str | None = None) -> str:
    """The command that runs this bench again, in the folder ``out``: cells that are there it keeps."""
    words = ["interp", "bench"]
    for name in ("tasks", "models", "methods", "pairs"):
        words += [f"--{name}", ",".join(map(str, plan[name]))]
    if (dtype := plan.get("dtype", "float32")) != "float32":
        words += ["--dtype", dtype]
    words += ["--seeds", str(plan["seeds"]), "--against", plan["against"]]
    return shlex.join([*words, *([] if out is None else ["--out", out])])


def difference_text(difference: MethodDifference | None) -> str:
    """``+0.010 [−0.002, +0.021]``."""
    if difference is None:
        return wording.DASH
    ends = (
        ""
        if difference.low is None
        else f" [{wording.signed(difference.low, 3)}, {wording.signed(difference.high, 3)}]"
    )
    return wording.signed(difference.mean, 3) + ends


def spread_text(name: str, value: Spread | None, seeds: int | None = None) -> str:
    """The mean, in brackets the least and largest seed, and how many seeds where these are fewer than ``seeds``."""
    if value is None:
        return wording.DASH
    if name == "forwards":
        return f"{value.mean:,.0f}"
    mean, least, largest = (wording.number(end, 3) for end in (value.mean, value.least, value.largest))
    if least == largest:
        return mean
    fewer = f", {value.count} seeds" if seeds and value.count and value.count < seeds else ""
    return f"{mean} [{least}, {largest}]{fewer}"


HEIGHT, NAMES_WIDTH, LABEL = 460, 200, 16.0
"""Pixels: of the figure, of the room for names at the right, between two names."""
COST, PAIRS = "forward passes", "prompt pairs"
_PLOT = HEIGHT - 54


def bench_plot(rows: Sequence[MethodRow], metric: str, along: str = COST) -> go.Figure:
    """One line a method, fewest pairs first; bars reach from the least to the largest seed.

    Blue are points that none passes at their cost or less; the baseline is hollow, controls are crosses. ``along`` is
    ``COST`` or ``PAIRS``.
    """
    rows = [row for row in rows if metric in row.values and (along == PAIRS or "forwards" in row.values)]
    costs = [_cost(row, along) for row in rows]
    positive = [cost for cost in costs if cost > 0] or [1.0]
    edge = min(positive) / 2
    low = math.log10(edge)
    high = max(math.log10(max(positive) * 1.15), low + 0.5)
    front = pareto_front(rows, metric, along)
    by_method = _by([(row.method, row) for row in sorted(rows, key=lambda row: row.n)])
    figure = go.Figure()
    for line in sorted(by_method.values(), key=lambda line: any(row in front for row in line)):
        x = [max(_cost(row, along), edge) for row in line]
        figure.add_trace(_line(line, metric, x, [row in front for row in line]))
    values = [row.values[metric] for row in rows]
    ends = [end for value in values for end in (value.mean, value.least, value.largest) if end is not None]
    least, largest = min(ends, default=0.0), max(ends, default=1.0)
    margin = 0.04 * (largest - least or 1.0)
    least, largest = least - margin, largest + margin
    # a method's name at the right, a thin line from it to the method's last point
    lasts = sorted((line[-1] for line in by_method.values()), key=lambda row: row.values[metric].mean)
    heights = spread([row.values[metric].mean for row in lasts], LABEL * (largest - least) / _PLOT, least, largest)
    arrow = {"arrowhead": 0, "arrowwidth": 0.7, "arrowcolor": "rgba(128,128,128,.55)", "standoff": 6}
    for row, height in zip(lasts, heights, strict=True):
        name = in_plot(row.method)
        end = {"x": math.log10(max(_cost(row, along), edge)), "y": row.values[metric].mean}
        begin = {"ax": high + 0.03 * (high - low), "ay": float(height), "axref": "x", "ayref": "y"}
        text = f"<b>{name}</b>" if row in front else name
        figure.add_annotation(text=text, align="left", xanchor="left", **begin, **end, **arrow)
    ticks = _ticks(edge, 10**high) if along == COST else sorted({float(row.n) for row in rows if row.n})
    labels = {edge: "0"} if 0 in costs else {}
    labels |= {tick: f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks}
    named = {"tickvals": list(labels), "ticktext": list(labels.values())}
    figure.update_xaxes(type="log", range=[low - 0.05, high], title=along, **named)
    figure.update_yaxes(title=_title(metric), range=[least, largest], zeroline=False)
    return layout(figure, height=HEIGHT, left=60, right=NAMES_WIDTH)


def pareto_front(rows: Sequence[MethodRow], metric: str, along: str = COST) -> list[MethodRow]:
    """Methods that no other beats at their cost or less, cheapest first; of those level in both all.

    Neither the baseline nor a control is one: no method is expected to pass the first.
    """
    sign = -1 if metric in LOWER_IS_BETTER else 1
    front: list[MethodRow] = []
    best = None
    for row in sorted(rows, key=lambda row: (_cost(row, along), -sign * row.values[metric].mean)):
        point = (_cost(row, along), sign * row.values[metric].mean)
        if row.kind == "method" and (best is None or point[1] > best[1] or point == best):
            front.append(row)
            best = point
    return front


def _title(metric: str) -> str:
    return TITLES[metric] + (" (lower is better)" if metric in LOWER_IS_BETTER else "")


def _cost(row: MethodRow, along: str) -> float:
    return float(row.n) if along == PAIRS else row.values["forwards"].mean


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers above the left edge: 1, 2, 5, 10, …, or only powers of ten over a long way."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) <= 4 else (1,)
    return [step * 10.0**p for p in powers for step in steps if low * 1.3 < step * 10.0**p <= high]


def _line(rows: Sequence[MethodRow], metric: str, x: Sequence[float], on_front: Sequence[bool]) -> go.Scatter:
    kind, values = rows[0].kind, [row.values[metric] for row in rows]
    colour = [BLUE if best else GREY for best in on_front]
    symbol = {"baseline": "circle-open", "control": "x-thin-open", "method": "circle"}[kind]
    ends = [(v.mean, v.least, v.largest) for v in values if v.least is not None and v.largest is not None]
    return go.Scatter(
        x=x,
        y=[value.mean for value in values],
        name=in_plot(rows[0].method),
        mode="lines+markers",
        line={"color": GREY, "width": 1.4, "dash": "dot" if kind == "baseline" else "solid"},
        marker={"size": 9, "color": colour, "symbol": symbol, "line": {"width": 1.8, "color": colour}},
        error_y=whiskers(ends, thickness=1, width=0, color=GREY) if len(ends) == len(values) else None,
        text=[f"{row.n} pairs" for row in rows],
        hovertemplate="%{fullData.name}, %{text}: %{y:.3f}<extra></extra>",
    )


def render_bench(result: Mapping[str, Any], out: str | None = None) -> str:
    """The page of one table, as :func:`bench_rows` takes it; every text in it is escaped."""
    plan = result["plan"]
    groups = _by([(r["group"], _row(r, f"{r['tasks']} of {r['of_tasks']}")) for r in result["groups"]])
    targets = _by([((_target(r), r["reference"]), _row(r, str(r["seeds"]))) for r in result["table"]])
    page = environment().get_template("bench.html")
    return page.render(
        result=result,
        plan=plan,
        summary=_summary(plan, groups),
        groups=[{"name": name, "figure": _figure(name, rows), **_table(rows)} for name, rows in groups.items()],
        targets=[{"title": key[0], "reference": key[1], **_table(rows)} for key, rows in targets.items()],
        comparisons=_comparisons(result["comparisons"]),
        command=bench_command(plan, out),
        versions=list(result["versions"].items()),
    )


def _by(pairs: list[tuple]) -> dict:
    groups: dict = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _summary(plan: Mapping[str, Any], groups: Mapping[str, Sequence[MethodRow]]) -> str:
    parts = [f"{len(plan['methods'])} methods on {len(plan['tasks'])} tasks, every one on the same pairs."]
    for group, rows in groups.items():
        rows = [row for row in rows if BEST in row.values and row.complete]
        if methods := [row for row in rows if row.kind == "method"]:
            n = max(row.n for row in methods)
            best = best_first([row for row in methods if row.n == n], BEST)[0]
            exact = [row.values[BEST].mean for row in rows if row.kind == "baseline" and row.n == n]
            exact_text = f"; exact patching {exact[0]:.3f}" if exact else ""
            parts.append(
                f"On {group}, {best.method} has the best mean average precision with {n} pairs: "
                f"{best.values[BEST].mean:.3f}{exact_text}."
            )
    return " ".join(parts)


def _figure(group: str, rows: Sequence[MethodRow]) -> Markup | None:
    drawn = [row for row in rows if {BEST, "forwards"} <= row.values.keys() and row.complete]
    return embed(bench_plot(drawn, BEST), f"Quality against cost on {group}", least=700) if drawn else None


def _table(rows: Sequence[MethodRow]) -> dict:
    """Methods by falling mean average precision, the baseline first; columns are the metrics with a value."""
    columns = measured(rows)

    def order(entry: tuple[str, list[MethodRow]]) -> tuple[bool, float]:
        values = [row.values[BEST].mean for row in entry[1] if BEST in row.values]
        return (entry[0] != wording.EXACT, -sum(values) / len(values) if values else 0.0)

    lines = []
    for method, method_rows in sorted(_by([(row.method, row) for row in rows]).items(), key=order):
        shown = [[spread_text(name, row.values.get(name), row.seeds) for name in columns] for row in method_rows]
        cells = [{"n": row.n, "over": row.over, "values": texts} for row, texts in zip(method_rows, shown, strict=True)]
        lines.append({"method": method, "rows": cells})
    return {"columns": [TITLES[name] for name in columns], "lines": lines}


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> list[dict]:
    """One table a scope, means over tasks first: a line a method and number of pairs, a column a metric."""
    tables = []
    for scope, scope_rows in _by([(row["scope"], row) for row in rows]).items():
        columns = [name for name in COMPARED if any(row["metric"] == name for row in scope_rows)]
        by_method = _by([((row["method"], row["n"]), row) for row in scope_rows])
        lines = []
        for (method, n), line in sorted(by_method.items()):
            values = {row["metric"]: MethodDifference(row["difference"], row["low"], row["high"]) for row in line}
            tasks = "–".join(map(str, sorted({row["tasks"] for row in line if "tasks" in row})))
            shown = [
                {"text": difference_text(value := values.get(name)), "sure": value is not None and value.sure}
                for name in columns
            ]
            lines.append({"method": wording.method_name(method), "n": n, "tasks": tasks, "values": shown})
        titles, is_mean = list(map(_title, columns)), scope_rows[0]["group"] is not None
        tables.append({"scope": scope, "columns": titles, "lines": lines, "open": is_mean})
    return sorted(tables, key=lambda table: not table["open"])
