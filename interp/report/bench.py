"""The bench as one HTML page without scripts: the figure, the tables, and what every number means."""

import shlex

from markupsafe import Markup

from interp.report import wording
from interp.report.pareto import Point, pareto_figure
from interp.report.templates import environment

YARDSTICK = "yardstick"
CONTROLS = ("random", "layer-index")
"""Rankings that know nothing of the prompts."""
NAMES = {YARDSTICK: "activation patching (yardstick)"}

COLUMNS = (
    ("roc_auc", "ROC AUC"),
    ("average_precision", "average precision"),
    ("precision_at_n", "precision@n"),
    ("spearman", "Spearman"),
    ("edge_roc_auc", "edge ROC AUC"),
    ("edge_average_precision", "edge AP"),
    ("cmd", "CMD"),
    ("cpr", "CPR"),
    ("f_5", "f(5)"),
    ("f_10", "f(10)"),
    ("f_20", "f(20)"),
    ("f_50", "f(50)"),
    ("jaccard_bootstrap", "Jaccard, resampled"),
    ("jaccard_seeds", "Jaccard, seeds"),
    ("forwards", "forwards"),
    ("seconds", "seconds"),
)
"""A column without a single value in its table is left out."""
COMPARED = (
    ("average_precision", "average precision"),
    ("roc_auc", "ROC AUC"),
    ("edge_roc_auc", "edge ROC AUC"),
    ("cmd", "CMD (lower is better)"),
)


def render_bench(result: dict, out: str | None = None) -> str:
    """The page of one table (:func:`interp.bench.table.tabulate`); every text in it is escaped.

    Args:
        out: the folder of the bench, which its command goes on with.
    """
    plan = result["plan"]
    return (
        environment()
        .get_template("bench.html")
        .render(
            result=result,
            plan=plan,
            summary=_summary(result),
            groups=[_group(result, name) for name in _distinct(row["group"] for row in result["groups"])],
            targets=_targets(result),
            comparisons=_comparisons(result),
            command=bench_command(plan, out),
            versions=list(result["versions"].items()),
        )
    )


def bench_command(plan: dict, out: str | None = None) -> str:
    """The command that runs this bench again, in the folder ``out``: cells that are there it keeps."""
    words = ["interp", "bench"]
    for name in ("tasks", "models", "methods", "pairs"):
        words += [f"--{name}", ",".join(map(str, plan[name]))]
    if (dtype := plan.get("dtype", "float32")) != "float32":  # benches of before do not say
        words += ["--dtype", dtype]
    words += ["--seeds", str(plan["seeds"]), "--against", plan["against"]]
    return shlex.join([*words, *([] if out is None else ["--out", out])])


def _distinct(values) -> list:
    return list(dict.fromkeys(values))


def _name(method: str) -> str:
    return NAMES.get(method, method)


def _summary(result: dict) -> str:
    plan = result["plan"]
    parts = []
    for group in _distinct(row["group"] for row in result["groups"]):
        rows = [
            row
            for row in result["groups"]
            if row["group"] == group
            and row["average_precision"] is not None
            and row["tasks"] == row["of_tasks"]
        ]
        methods = [row for row in rows if row["method"] not in (YARDSTICK, *CONTROLS)]
        if not methods:
            continue
        n = max(row["n"] for row in methods)
        best = max((row for row in methods if row["n"] == n), key=lambda row: row["average_precision"])
        yard = next((row for row in rows if row["method"] == YARDSTICK and row["n"] == n), None)
        beside = "" if yard is None else f", the yardstick {yard['average_precision']:.3f}"
        parts.append(
            f"On {group}, {best['method']} has the best mean average precision with {n} pairs: "
            f"{best['average_precision']:.3f}{beside}."
        )
    tasks, methods = len(plan["tasks"]), len(plan["methods"])
    return " ".join([f"{methods} methods on {tasks} tasks, every one on the same pairs.", *parts])


def _ranked(rows: list[dict], key) -> list[str]:
    """Methods by falling mean average precision, the yardstick first."""

    def order(method: str):
        values = [key(row) for row in rows if row["method"] == method and key(row) is not None]
        return (method != YARDSTICK, -sum(values) / len(values) if values else 0.0)

    return sorted(_distinct(row["method"] for row in rows), key=order)


def _group(result: dict, name: str) -> dict:
    rows = [row for row in result["groups"] if row["group"] == name]
    points = [
        Point(
            _name(row["method"]),
            row["n"],
            row["forwards"] or 0.0,
            row["average_precision"],
            row["method"] in (YARDSTICK, *CONTROLS),
        )
        for row in rows
        if row["average_precision"] is not None and row["tasks"] == row["of_tasks"]
    ]
    columns = [(key, title) for key, title in COLUMNS if any(row[key] is not None for row in rows)]
    lines = []
    for method in _ranked(rows, lambda row: row["average_precision"]):
        its = [row for row in rows if row["method"] == method]
        lines.append(
            {
                "method": _name(method),
                "rows": [
                    {
                        "n": row["n"],
                        "tasks": f"{row['tasks']} of {row['of_tasks']}",
                        "values": [_plain(key, row[key]) for key, _ in columns],
                    }
                    for row in its
                ],
            }
        )
    figure = (
        pareto_figure(points, "mean average precision", f"Average precision against cost on {name}")
        if points
        else None
    )
    return {"name": name, "figure": figure, "columns": columns, "lines": lines}


def _plain(key: str, value: float | None) -> str:
    if key == "forwards":
        return wording.DASH if value is None else f"{value:,.0f}"
    return wording.number(value, 1 if key == "seconds" else 3)


def _spread(key: str, value: dict | float | None, of_seeds: int) -> Markup | str:
    """The mean, and in brackets the least and largest seed, and how many seeds where these are not all."""
    if not isinstance(value, dict):
        return _plain(key, value)
    mean, least, largest = (_plain(key, value[part]) for part in ("mean", "least", "largest"))
    seeds = f", {value['count']} seeds" if "count" in value and value["count"] < of_seeds else ""
    if least == largest or key in ("forwards", "seconds"):
        return mean
    return Markup("{} <span class=soft>[{}, {}]{}</span>").format(mean, least, largest, seeds)


def _targets(result: dict) -> list[dict]:
    found = []
    for task, model, reference in _distinct((r["task"], r["model"], r["reference"]) for r in result["table"]):
        rows = [
            r for r in result["table"] if (r["task"], r["model"], r["reference"]) == (task, model, reference)
        ]
        columns = [(key, title) for key, title in COLUMNS if any(row[key] is not None for row in rows)]
        ranked = _ranked(rows, lambda row: row["average_precision"] and row["average_precision"]["mean"])
        lines = [
            {
                "method": _name(method),
                "rows": [
                    {
                        "n": row["n"],
                        "seeds": row["seeds"],
                        "values": [_spread(key, row[key], row["seeds"]) for key, _ in columns],
                    }
                    for row in rows
                    if row["method"] == method
                ],
            }
            for method in ranked
        ]
        title = task if task == model else f"{task} on {model}"
        found.append({"title": title, "reference": reference, "columns": columns, "lines": lines})
    return found


def _comparisons(result: dict) -> list[dict]:
    """One table a scope: a line a method and number of pairs, a column a metric."""
    found = []
    for scope in _distinct(row["scope"] for row in result["comparisons"]):
        rows = [row for row in result["comparisons"] if row["scope"] == scope]
        columns = [(key, title) for key, title in COMPARED if any(row["metric"] == key for row in rows)]
        lines = []
        for method, n in _distinct((row["method"], row["n"]) for row in rows):
            by_metric = {row["metric"]: row for row in rows if (row["method"], row["n"]) == (method, n)}
            values = [_difference(by_metric.get(key)) for key, _ in columns]
            over = {row["tasks"] for row in by_metric.values() if "tasks" in row}
            line = {"method": _name(method), "n": n, "values": values}
            lines.append(line | {"tasks": "–".join(str(n) for n in sorted(over))})
        order = _distinct(line["method"] for line in lines)
        lines.sort(key=lambda line: (order.index(line["method"]), line["n"]))
        found.append(
            {"scope": scope, "columns": columns, "lines": lines, "open": rows[0]["group"] is not None}
        )
    return sorted(found, key=lambda table: not table["open"])


def _difference(row: dict | None) -> dict:
    """Bold where the interval is off zero."""
    if row is None:
        return {"text": wording.DASH, "interval": "", "sure": False}
    interval = ""
    if row["low"] is not None:
        interval = f"[{wording.signed(row['low'], 3)}, {wording.signed(row['high'], 3)}]"
    sure = row["low"] is not None and (row["low"] > 0 or row["high"] < 0)
    return {"text": wording.signed(row["difference"], 3), "interval": interval, "sure": sure}
