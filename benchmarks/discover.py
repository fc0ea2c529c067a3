"""Each stage of a discovery against the floor: the bare forward passes of the same prompts.

    python benchmarks/discover.py [--pairs 64] [--repeats 3] [--threads N]

Stages are timed in turn, several rounds in one process, and compared within a round: on a shared machine only the
ratio means something. The floor is ``model(tokens)`` on every clean and every corrupt prompt, in the same batches.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from interp.activations.means import HeadMeans, output_weights
from interp.activations.stream import BATCH_SIZE, MetricConsumer, equal_length_batches, feed
from interp.circuits.roles import HeadReadout
from interp.circuits.verify import candidates
from interp.models import load_model
from interp.scores.attribution import AttributionConsumer, attribution
from interp.scores.eap import attributed_edges
from interp.scores.head_codes import fit_head_codes
from interp.scores.overlap import head_edges, head_overlap
from interp.scores.patching import activation_patching
from interp.tasks import load_task

GOALS = {"collecting": 1.5, "attribution": 4.0, "scoring and edges": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model()
    pairs = load_task("ioi").sample(model.tokenizer, arguments.pairs, 0)
    weights = output_weights(model)
    means = HeadMeans(pairs)
    feed(model, pairs, [means])
    codes = fit_head_codes(means, weights)
    scores = attribution(model, pairs)
    best = candidates(scores)

    stages: dict[str, Callable[[], object]] = {
        "floor: bare forwards": lambda: bare(model, pairs),
        "collecting": lambda: feed(model, pairs, [HeadMeans(pairs), MetricConsumer(len(pairs))]),
        "attribution": lambda: feed(model, pairs, [AttributionConsumer(len(pairs))]),
        "attribution, codes' means and roles in one pass": lambda: feed(
            model, pairs, [AttributionConsumer(len(pairs)), HeadMeans(pairs), HeadReadout(model, len(pairs))]
        ),
        "scoring and edges": lambda: (head_overlap(codes), head_edges(codes)),
        "the dictionary's training and encoding": lambda: fit_head_codes(means, weights),
        "activation patching of 30 heads": lambda: activation_patching(model, pairs, best),
        "edge attribution among 30 heads": lambda: attributed_edges(model, pairs, sites=best),
    }
    seconds = {name: [] for name in stages}
    for _ in range(arguments.repeats):
        for name, stage in stages.items():
            begin = time.perf_counter()
            stage()
            seconds[name].append(time.perf_counter() - begin)

    floor = np.array(seconds["floor: bare forwards"])
    title = f"SmolLM2, IOI, {arguments.pairs} pairs, {arguments.threads} threads, {arguments.repeats} rounds"
    table = Table("stage", "seconds (median)", "× floor (median)", "goal", title=title, box=None)
    for name, values in seconds.items():
        goal = f"≤ {GOALS[name]}" if name in GOALS else ""
        ratio = np.median(np.array(values) / floor)
        table.add_row(name, f"{np.median(values):.2f}", f"{ratio:.2f}", goal)
    Console().print(table)


@torch.no_grad()
def bare(model, pairs) -> None:
    """Every prompt through the model, nothing hooked."""
    for indices in equal_length_batches(pairs, BATCH_SIZE):
        for side in ("corrupt_tokens", "clean_tokens"):
            model(torch.tensor([getattr(pairs[i], side) for i in indices]))


if __name__ == "__main__":
    main()
