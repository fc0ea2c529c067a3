"""A discovery against its floor: the bare forward passes of both prompts of 100 pairs.

    python benchmarks/discover.py [--model smollm2-135m-instruct] [--task ioi] [--pairs 100] [--repeats 3] [--threads N]
    python benchmarks/discover.py --growth

Stages are timed in turn, several rounds in one process, and compared within a round: on a shared machine only the
ratio means something. ``members`` is all from the loaded model to checked members: sampling, scores, check and roles,
without edges, program and report. ``--growth`` tells seconds and memory of that by pairs, one process each.
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from interp import DEFAULT_MODEL, find_circuit, load_model
from interp.activations.stream import BATCH_SIZE, equal_length_batches
from interp.models import Model
from interp.prompts.pairs import PromptPairs
from interp.tasks import load_task

FLOOR_PAIRS = 100
GROWTH = (25, 50, 100, 200, 400)
BEFORE_EDGES = ("sample", "score", "check", "roles", "codes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--pairs", type=int, default=FLOOR_PAIRS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--growth", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.growth:
        same = [
            "--model",
            given.model,
            "--task",
            given.task,
            "--threads",
            str(given.threads),
            "--repeats",
            "1",
        ]
        for n in GROWTH:
            subprocess.run([sys.executable, __file__, *same, "--pairs", str(n)], check=True)
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


if __name__ == "__main__":
    main()
