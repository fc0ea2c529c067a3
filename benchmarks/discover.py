"""A discovery against its floor: the bare forward passes of both prompts of 100 pairs.

    python -m benchmarks.discover [--model smollm2-135m-instruct] [--task ioi] [--repeats 3] [--threads N]
    python -m benchmarks.discover --growth

Stages are compared within a round: on a shared machine only the ratio means something. ``members`` is sampling,
scores, check and roles, without edges, program and report. ``--growth`` tells seconds and memory of that by pairs,
models and length of prompts, one process each, and draws them; it goes on where it stopped.
"""

import multiprocessing
import resource
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import RESULTS, arguments, bare, kept, print_table
from interp import DEFAULT_MODEL, find_circuit, load_model, load_task
from interp.files import write_json
from interp.models import Model
from interp.prompts.pairs import PromptPairs

FLOOR_PAIRS = 100
GROWTH = (25, 50, 100, 200, 400)
POINTS = (
    *((DEFAULT_MODEL, "ioi", n) for n in GROWTH),
    *(("gemma-3-270m", "ioi", n) for n in GROWTH[:3]),
    *((DEFAULT_MODEL, task, 100) for task in ("agreement", "docstring")),
)
RESULT, PLOT = RESULTS / "growth.json", Path(__file__).parents[1] / "docs" / "images" / "growth.png"
BEFORE_EDGES = ("sample", "score", "check", "roles", "codes")


def main() -> None:
    given = arguments(
        __doc__, model=DEFAULT_MODEL, task="ioi", repeats=3, threads=torch.get_num_threads(), growth=False
    )
    if given.growth:
        growth(given.threads)
        return
    model = load_model(given.model)
    floor_of = load_task(given.task).sample(model.tokenizer, FLOOR_PAIRS, 0)
    bare(model, floor_of)  # the first passes of a process are slower
    rounds = [_round(model, given, floor_of) for _ in range(given.repeats)]
    title = f"{given.task}, {given.model}, {FLOOR_PAIRS} pairs, {given.threads} threads, {given.repeats} rounds"
    rows = []
    for name in rounds[0]:
        seconds = np.array([each[name] for each in rounds])
        ratio = np.median(seconds / [each["floor"] for each in rounds])
        rows.append((name, f"{np.median(seconds):.1f}", f"{ratio:.2f}"))
    print_table(("stage", "seconds (median)", "× floor (median)"), rows, title)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def _round(model: Model, given: Namespace, floor_of: PromptPairs) -> dict[str, float]:
    seconds = {"floor": bare(model, floor_of)}
    by = {
        name: find_circuit(model, given.task, n=FLOOR_PAIRS, method=name)
        for name in ("adaptive-patching", "attribution")
    }
    run = by["adaptive-patching"]
    seconds["attribution"] = by["attribution"].seconds["score"]
    seconds |= {name: run.seconds[name] for name in ("score", "check", "roles")}
    seconds["members"] = sum(run.seconds.get(name, 0.0) for name in BEFORE_EDGES)
    return seconds | {"edges": run.seconds["edges"]}


def point(model_spec: str, task: str, n: int, threads: int) -> dict[str, float | str]:
    """For a fresh process: its peak of memory is that of a discovery."""
    torch.set_num_threads(threads)
    model = load_model(model_spec)
    run = find_circuit(model, task, n=n)
    pairs = load_task(task).sample(model.tokenizer, n, 0)
    return {
        "model": model_spec,
        "task": task,
        "pairs": n,
        "tokens": float(np.mean([len(pair.clean_tokens) for pair in pairs])),
        "heads": model.cfg.n_layers * model.cfg.n_heads,
        "members": sum(run.seconds.get(name, 0.0) for name in BEFORE_EDGES),
        "edges": run.seconds["edges"],
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def growth(threads: int) -> None:
    rows = kept(RESULT, [])
    known = {(row["model"], row["task"], row["pairs"]) for row in rows}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for wanted in POINTS:
            if wanted not in known:
                rows.append(pool.apply(point, (*wanted, threads)))
                write_json(RESULT, rows)
                print(rows[-1], flush=True)
    show(rows)
    draw(rows)


def show(rows: list[dict]) -> None:
    """Of every discovery what it is of, and its seconds and memory."""
    numbers = ("members", "edges", "gib")
    cells = [
        (row["model"], row["task"], row["pairs"], f"{row['tokens']:.0f}", *(f"{row[name]:.1f}" for name in numbers))
        for row in rows
    ]
    columns = ("model", "task", "pairs", "tokens", "seconds to checked members", "of edges", "peak GiB")
    print_table(columns, cells, left=2)


def draw(rows: list[dict]) -> None:
    """Three panels, pictured by Chromium."""
    from playwright.sync_api import sync_playwright
    from plotly.subplots import make_subplots

    from tests.chromium import FLAGS, chromium_path

    titles = ("seconds to checked members", "peak memory, GiB", "seconds, 100 pairs of SmolLM2")
    figure = make_subplots(1, 3, subplot_titles=titles, horizontal_spacing=0.08)
    for model, colour in ((DEFAULT_MODEL, "#1f6fb4"), ("gemma-3-270m", "#d2691e")):
        model_rows = [row for row in rows if row["model"] == model and row["task"] == "ioi"]
        line = {"mode": "lines+markers", "line": {"color": colour}, "name": f"{model}, {model_rows[0]['heads']} heads"}
        x = [row["pairs"] for row in model_rows]
        figure.add_scatter(x=x, y=[row["members"] for row in model_rows], row=1, col=1, **line)
        figure.add_scatter(x=x, y=[row["gib"] for row in model_rows], row=1, col=2, showlegend=False, **line)
    task_rows = [row for row in rows if row["model"] == DEFAULT_MODEL and row["pairs"] == FLOOR_PAIRS]
    task_rows.sort(key=lambda row: row["tokens"])
    figure.add_scatter(
        x=[row["tokens"] for row in task_rows],
        y=[row["members"] for row in task_rows],
        text=[row["task"] for row in task_rows],
        mode="lines+markers+text",
        textposition="bottom center",
        cliponaxis=False,
        showlegend=False,
        row=1,
        col=3,
    )
    for column, title in enumerate(("pairs", "pairs", "tokens a prompt"), start=1):
        figure.update_xaxes(title=title, rangemode="tozero", row=1, col=column)
        figure.update_yaxes(rangemode="tozero", row=1, col=column)
    figure.update_layout(
        template="plotly_white", width=1200, height=380, margin={"t": 40}, legend={"orientation": "h", "y": -0.25}
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 380})
        page.set_content(figure.to_html(include_plotlyjs=True, full_html=False))
        page.wait_for_timeout(1500)
        page.screenshot(path=PLOT)
        browser.close()


if __name__ == "__main__":
    main()
