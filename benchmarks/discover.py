"""A discovery against its floor: the bare forward passes of both prompts of 100 pairs.

    python benchmarks/discover.py [--model smollm2-135m-instruct] [--task ioi] [--pairs 100] [--repeats 3] [--threads N]
    python -m benchmarks.discover --growth

Stages are timed in turn, several rounds in one process, and compared within a round: on a shared machine only the
ratio means something. ``members`` is all from the loaded model to checked members: sampling, scores, check and roles,
without edges, program and report. ``--growth`` tells seconds and memory of that by pairs, models and length of prompts,
one process each, and draws them; it goes on where it stopped.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from interp import DEFAULT_MODEL, find_circuit, load_model
from interp.activations.stream import BATCH_SIZE, equal_length_batches
from interp.files import read_json, write_json
from interp.models import Model
from interp.prompts.pairs import PromptPairs
from interp.tasks import load_task

FLOOR_PAIRS = 100
GROWTH = (25, 50, 100, 200, 400)
POINTS = (
    *((DEFAULT_MODEL, "ioi", n) for n in GROWTH),
    *(("gemma-3-270m", "ioi", n) for n in GROWTH[:3]),
    *((DEFAULT_MODEL, task, 100) for task in ("agreement", "docstring")),
)
HERE = Path(__file__).parent
RESULT, PLOT = HERE / "results" / "growth.json", HERE.parent / "docs" / "images" / "growth.png"
BEFORE_EDGES = ("sample", "score", "check", "roles", "codes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--pairs", type=int, default=FLOOR_PAIRS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--point", action="store_true", help="one point of it, as JSON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.growth:
        growth(given.threads)
        return
    if given.point:
        print(json.dumps(point(given)))
        return
    model = load_model(given.model)
    floor_of = load_task(given.task).sample(model.tokenizer, FLOOR_PAIRS, 0)
    bare(model, floor_of)  # the first passes of a process are slower
    rounds = [_round(model, given, floor_of) for _ in range(given.repeats)]
    title = (
        f"{given.task}, {given.model}, {given.pairs} pairs, {given.threads} threads, {given.repeats} rounds"
    )
    table = Table("stage", "seconds (median)", "× floor (median)", title=title, box=None)
    for name in rounds[0]:
        seconds = np.array([one[name] for one in rounds])
        ratio = np.median(seconds / [one["floor"] for one in rounds])
        table.add_row(name, f"{np.median(seconds):.1f}", f"{ratio:.2f}")
    Console(width=100).print(table)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def _round(model: Model, given: argparse.Namespace, floor_of: PromptPairs) -> dict[str, float]:
    found = {"floor": bare(model, floor_of)}
    by = {
        name: find_circuit(model, given.task, n=given.pairs, method=name)
        for name in ("adaptive-patching", "attribution")
    }
    run = by["adaptive-patching"]
    found["attribution"] = by["attribution"].seconds["score"]
    found |= {name: run.seconds[name] for name in ("score", "check", "roles")}
    found["members"] = sum(run.seconds.get(name, 0.0) for name in BEFORE_EDGES)
    return found | {"edges": run.seconds["edges"]}


@torch.no_grad()
def bare(model: Model, pairs: PromptPairs) -> float:
    """Seconds of every prompt through the model, nothing hooked."""
    begin = time.perf_counter()
    for indices in equal_length_batches(pairs, BATCH_SIZE):
        for side in ("corrupt_tokens", "clean_tokens"):
            model(torch.tensor([getattr(pairs[i], side) for i in indices]))
    return time.perf_counter() - begin


def point(given: argparse.Namespace) -> dict[str, float | str]:
    model = load_model(given.model)
    run = find_circuit(model, given.task, n=given.pairs)
    pairs = load_task(given.task).sample(model.tokenizer, given.pairs, 0)
    return {
        "model": given.model,
        "task": given.task,
        "pairs": given.pairs,
        "tokens": float(np.mean([len(pair.clean_tokens) for pair in pairs])),
        "heads": model.cfg.n_layers * model.cfg.n_heads,
        "members": sum(run.seconds.get(name, 0.0) for name in BEFORE_EDGES),
        "edges": run.seconds["edges"],
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def growth(threads: int) -> None:
    rows = read_json(RESULT) if RESULT.is_file() else []
    known = {(row["model"], row["task"], row["pairs"]) for row in rows}
    for model, task, n in POINTS:
        if (model, task, n) not in known:
            words = ["--model", model, "--task", task, "--pairs", str(n), "--threads", str(threads)]
            said = subprocess.run(
                [sys.executable, __file__, *words, "--point"], check=True, stdout=subprocess.PIPE, text=True
            )
            rows.append(json.loads(said.stdout.splitlines()[-1]))
            write_json(RESULT, rows)
            print(rows[-1], flush=True)
    draw(rows)


def draw(rows: list[dict]) -> None:
    """Three panels, pictured by Chromium."""
    from playwright.sync_api import sync_playwright
    from plotly.subplots import make_subplots

    from tests.chromium import FLAGS, chromium_path

    titles = ("seconds to checked members", "peak memory, GiB", "seconds, 100 pairs of SmolLM2")
    figure = make_subplots(1, 3, subplot_titles=titles, horizontal_spacing=0.08)
    for model, colour in ((DEFAULT_MODEL, "#1f6fb4"), ("gemma-3-270m", "#d2691e")):
        own = [row for row in rows if row["model"] == model and row["task"] == "ioi"]
        line = {
            "mode": "lines+markers",
            "line": {"color": colour},
            "name": f"{model}, {own[0]['heads']} heads",
        }
        x = [row["pairs"] for row in own]
        figure.add_scatter(x=x, y=[row["members"] for row in own], row=1, col=1, **line)
        figure.add_scatter(x=x, y=[row["gib"] for row in own], row=1, col=2, showlegend=False, **line)
    own = [row for row in rows if row["model"] == DEFAULT_MODEL and row["pairs"] == FLOOR_PAIRS]
    own.sort(key=lambda row: row["tokens"])
    figure.add_scatter(
        x=[row["tokens"] for row in own],
        y=[row["members"] for row in own],
        text=[row["task"] for row in own],
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
        template="plotly_white",
        width=1200,
        height=380,
        margin={"t": 40},
        legend={"orientation": "h", "y": -0.25},
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
