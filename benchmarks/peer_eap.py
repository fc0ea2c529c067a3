"""Edge attribution patching against transformer-lens 4's own on the same model and pairs: time, memory, agreement.

    make test-tl4                                                        # makes the environment
    .venv-tl4/bin/python -m benchmarks.peer_eap [--pairs 10] [--rounds 5] [--threads N]

A random GPT-2 of the usual size (12 layers × 12 heads, 768 wide), 15 tokens: theirs refuses grouped queries, and so the
models that need no hub. All take turns in one process and are compared within a round, by wall time. Memory is the peak
resident set less that before the call (Linux). Theirs takes its gradient at the corrupt prompts: with the sides
exchanged it is ours, negated; the control has the sides as they are. It scores edges by position, one pair at a time;
ours are sums over positions.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from transformer_lens.tools.analysis import EdgeAttributionConfig, Node, attribution_patch
from transformers import AutoModelForCausalLM, GPT2Config

from interp.activations.metric import task_metric
from interp.models import Model, load_model
from interp.prompts.pairs import PromptPairs
from interp.scores.eap import EAPConfig, eap
from interp.scores.result import Scores
from tests.pairs import random_pairs
from tests.tiny_models import make_tokenizer

LENGTH, TOP, EVERY = 15, 100, 10**7
Edges = dict[tuple[str, str, str | None], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = gpt2()
    pairs = random_pairs(model.cfg.d_vocab, arguments.pairs, (LENGTH,))
    forms: dict[str, Callable[[], Any]] = {
        "transformer-lens": lambda: peer(model, pairs),
        "ours": lambda: ours(model, pairs, batch_size=8),
        "ours, one pair at a time": lambda: ours(model, pairs, batch_size=1),
    }
    costs, found = defaultdict(list), {}
    for number in range(arguments.rounds + 1):
        for name, form in forms.items():
            found[name], *cost = measure(form)
            if number:  # the first round warms up
                costs[name].append(cost)
    title = f"EAP, random GPT-2, {len(pairs)} pairs of {LENGTH} tokens, {arguments.threads} threads"
    table = Table("", "seconds", "× theirs", "smallest, largest", "peak MB", title=title, box=None)
    theirs = np.array(costs["transformer-lens"])
    for name, values in costs.items():
        seconds, peak = np.median(values, axis=0)
        ratios = np.array(values)[:, 0] / theirs[:, 0]
        ends = f"{ratios.min():.3f}, {ratios.max():.3f}"
        table.add_row(name, f"{seconds:.2f}", f"{np.median(ratios):.3f}", ends, f"{peak:.0f}")
    console, known = Console(), edges_of(found["ours"])
    console.print(table)
    console.print(agreement("agreement", known, by_name(found["transformer-lens"], sign=-1)))
    console.print(agreement("control", known, by_name(peer(model, pairs, exchanged=False))))


def gpt2() -> Model:
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(GPT2Config()).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        return load_model(Path(folder), device="cpu")


def ours(model: Model, pairs: PromptPairs, batch_size: int) -> Scores:
    model.requires_grad_(False)
    return eap(model, pairs, EAPConfig(edges=EVERY, batch_size=batch_size))


def peer(model: Model, pairs: PromptPairs, granularity: str = "edge", exchanged: bool = True) -> list[Any]:
    """Theirs, of each pair."""
    model.requires_grad_(True)  # their graph begins at the parameters
    found, config = [], EdgeAttributionConfig(granularity=granularity)
    for pair in pairs:
        sides = [torch.tensor([tokens]) for tokens in (pair.clean_tokens, pair.corrupt_tokens)]

        def metric(logits: torch.Tensor, pair=pair) -> torch.Tensor:
            return task_metric(logits[:, -1], [pair], "logit_diff")[0]

        found.append(attribution_patch(model, *sides[:: -1 if exchanged else 1], metric, config))
    model.requires_grad_(False)
    return found


def name_of(node: Node) -> str:
    if node.kind in ("embed", "logits"):
        return "input" if node.kind == "embed" else "logits"
    return f"m{node.layer}" if node.head is None else f"a{node.layer}.h{node.head}"


def by_name(results: list[Any], sign: int = 1) -> Edges:
    """Their edges, summed over positions, averaged over pairs."""
    totals: Edges = defaultdict(float)
    for result in results:
        for (writer, reader), score in result.edge_scores.items():
            into = reader.kind[0] if reader.kind.endswith("_input") else None
            totals[name_of(writer), name_of(reader), into] += sign * score / len(results)
    return totals


def edges_of(scores: Scores) -> Edges:
    return {(edge.sender, edge.receiver, edge.into): edge.score for edge in scores.edges}


def measure(form: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, seconds, MB."""
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    begin = time.perf_counter()
    result = form()
    seconds = time.perf_counter() - begin
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return result, seconds, int(peak.split()[1]) / 1e3 - before / 1e6


def agreement(name: str, a: Edges, b: Edges) -> str:
    assert a.keys() == b.keys()
    x, y = (np.array([edges[key] for key in sorted(a, key=str)]) for edges in (a, b))
    best = [set(np.argsort(-np.abs(scores))[:TOP]) for scores in (x, y)]
    off = np.abs(x - y).max() / np.abs(y).max()
    shared = len(best[0] & best[1])
    return (
        f"{name}: {len(x)} edges, Pearson {np.corrcoef(x, y)[0, 1]:.6f}, of the {TOP} largest {shared} shared, "
        + (f"largest difference {off:.1e} of the largest edge ({np.abs(y).max():.2g})")
    )


if __name__ == "__main__":
    main()
