"""The part *Methods* of the page *Evaluation*: tables of methods that find circuits, as benches left them."""

import streamlit as st

from interp.app.evaluation import sources
from interp.app.widgets import run_store
from interp.app.widgets.charts import command, table
from interp.app.widgets.tokens import plain
from interp.app.widgets.url_state import IN_URL, choice
from interp.bench.table import FAITHFUL
from interp.report import bench, wording

ALL = "all"
GROWN = " `adaptive-patching` grows its circuits, which takes up to 17 forward passes a pair beyond this cost."
SHORT, TALL = 16, 600  # lines that are all shown, and pixels of a table with more


def show() -> None:
    files = sources.benches()
    if not files:
        st.info("No table of methods yet. Make one in a terminal (a minute), then reload this page:")
        words = ["interp", "bench", "--tasks", "planted-backup", "--seeds", "3", "--out"]
        command([*words, f"{run_store.shown_path()}/bench"])
        return
    left, right = st.columns(2)
    name = left.selectbox("Bench", list(files), key="bench", bind=IN_URL)
    result = sources.read(bench.read_bench, files[name])
    scope = right.selectbox("Measured on", list(result.scopes), key="scope", bind=IN_URL)
    rows = result.scopes[scope]
    metrics = bench.measured(rows)
    left, middle, right = st.columns(3)
    metric = left.selectbox(
        "Metric",
        metrics,
        index=metrics.index(bench.BEST) if bench.BEST in metrics else 0,
        format_func=bench.TITLES.get,
        key="bench_metric",
        bind=IN_URL,
    )
    numbers = [str(n) for n in sorted({row.n for row in rows if row.n})]
    pairs = choice("Prompt pairs", [ALL, *numbers], "bench_pairs", place=middle)
    costs = any("forwards" in row.values for row in rows)
    along = choice("Drawn against", [bench.COST, bench.PAIRS] if costs else [bench.PAIRS], "along", place=right)
    # rankings that use no pairs belong beside every number of them
    chosen = [row for row in rows if pairs == ALL or row.n in (0, int(pairs))]
    ranked = bench.best_first(chosen, metric)
    drawn = [row for row in chosen if row.complete]
    st.plotly_chart(
        bench.bench_plot(drawn, metric, along),
        alt=f"{bench.TITLES[metric]} of every method; the same as the table below",
    )
    if len(drawn) < len(chosen):
        st.caption("Methods that were not run on all tasks stand in the table alone: their means are of other tasks.")
    st.caption(
        "A line a method, a point a number of pairs; bars reach from the least to the largest seed. Blue: nothing is "
        "better at its cost or less. Hollow: activation patching of as many of the reference’s own pairs. "
        "Crosses: controls that know nothing of the prompts."
        + (GROWN if metric in FAITHFUL and along == bench.COST else "")
    )
    height = "content" if len(ranked) <= SHORT else TALL
    table(method_rows(ranked, metric, result.against), columns=columns(result, metric), height=height)
    with st.expander("All metrics"):
        table(wide(ranked, metrics))
    if result.skipped:
        with st.expander(f"Left out: {len(result.skipped)}"):
            st.markdown("\n".join(f"- {plain(line)}" for line in result.skipped))
    if result.command is not None:
        st.caption("Again, with all pairs and seeds of the methods that are named:")
        st.code(result.command, language="bash", wrap_lines=True)


def method_rows(rows: list[bench.MethodRow], metric: str, against: str | None) -> list[dict]:
    """One line a method and number of pairs, with its range over seeds and its difference from ``against``."""
    lines = []
    ranged = any(metric in row.values and row.values[metric].least is not None for row in rows)
    for row in rows:
        value = row.values.get(metric)
        line = {"method": row.method, "kind": row.kind, "pairs": row.n, "over": row.over}
        line["value"] = value and value.mean
        if ranged:
            ends = () if value is None or value.least is None else (value.least, value.largest)
            line["least, largest seed"] = ", ".join(wording.number(end, 3) for end in ends) or wording.DASH
        if against is not None:
            line["difference"] = bench.difference_text(row.differences.get(metric))
        if (forwards := row.values.get("forwards")) is not None:
            line["forward passes"] = forwards.mean
        lines.append(line)
    return lines


def wide(rows: list[bench.MethodRow], metrics: list[str]) -> list[dict]:
    return [
        {"method": row.method, "pairs": row.n}
        | {bench.TITLES[metric]: bench.spread_text(metric, row.values.get(metric)) for metric in metrics}
        for row in rows
    ]


def columns(result: bench.BenchRows, metric: str) -> dict:
    better = "lower" if metric in bench.LOWER_IS_BETTER else "higher"
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    return {
        "value": number(bench.TITLES[metric], format="%.3f", help=f"Mean over seeds; {better} is better."),
        "difference": text(
            f"minus {result.against or ''} [95 %]",
            help="On the same pairs; mean over seeds, and its bootstrap interval over seeds.",
        ),
        "forward passes": number(format="%.0f", help="Of one prompt; a backward pass counts 2."),
    }
