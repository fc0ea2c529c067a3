"""Edges of every method that scores them on the planted models: benchmarks/REPORT.md's table.

    python -m benchmarks.planted_edges [--tasks planted-hydra …] [--pairs 10] [--seeds 5] [--out FILE]

The truth are the edges that were written into the weights, among all edges from a head into the query, key or value of
a later one. Seeds draw from the bench's pool, so that rows of methods that the bench runs are the bench's. *Code
vectors alone* ranks the edges of ``adaptive-patching`` by attribution between code vectors, *co-occurrence alone* by
what two heads' codes tell of each other. *A third of the pairs* are as many as a discovery scores edges on. ACDC prunes
edges one by one, which on SmolLM2 is 125,000 forwards a pair.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import arguments, print_table
from benchmarks.path_patched_edges import role_codes
from interp.activations.stream import BASE_COST, BOTH_SIDES
from interp.bench.plan import POOL, POOL_SEED, drawn
from interp.circuits.references import written_reference
from interp.evaluation.recovery import recover_edges
from interp.files import write_json
from interp.models import Model
from interp.planted.models import load_planted_model
from interp.planted.tasks import load_planted_task, planted_task_names
from interp.progress import bar
from interp.prompts.pairs import PromptPairs
from interp.scores.adaptive_patching.edges import PatchedEdgesConfig, patched_edges
from interp.scores.eap import WITHIN_LAYERS
from interp.scores.registry import load_method, method_config
from interp.scores.result import EdgeScore

OTHERS = ("eap-ig", "eap-ig-activations", "eap", "acdc", "flow-routes", "overlap")
EdgesAndCost = tuple[tuple[EdgeScore, ...], float]


def main() -> None:
    args = arguments(__doc__, tasks=planted_task_names(), pairs=10, seeds=5, out=Path)
    rows = []
    with bar("edges", len(args.tasks) * args.seeds) as advance:
        for task in args.tasks:
            model = load_planted_model(task)
            pool = load_planted_task(task).sample(model.tokenizer, POOL, POOL_SEED)
            truth = written_reference(task, model)
            for seed in range(args.seeds):
                pairs = pool.subset(drawn(seed, args.pairs, len(pool)))
                for method, (edges, forwards) in _scored(model, pairs, seed):
                    recovery = recover_edges(edges, truth)
                    row = {"task": task, "seed": seed, "method": method, "roc_auc": recovery.roc_auc}
                    row |= {"average_precision": recovery.average_precision, "forwards": forwards / len(pairs)}
                    rows.append(row)
                advance(1)
    result = {"pairs": args.pairs, "seeds": args.seeds, "rows": rows}
    if args.out:
        write_json(args.out, result)
    show(result)


def _scored(model: Model, pairs: PromptPairs, seed: int) -> Iterator[tuple[str, EdgesAndCost]]:
    """Every method's edges, and forward-pass equivalents for all pairs (of ``adaptive-patching`` those of its edges
    alone)."""
    codes, config = role_codes(model, pairs, seed), PatchedEdgesConfig()
    ours = patched_edges(model, pairs, codes, config)
    by_third = patched_edges(model, pairs.subset(range(config.n_pairs(len(pairs)))), codes, config)
    edge_evidence = list(zip(ours.edges, ours.evidence, strict=True))
    yield "adaptive-patching", (ours.edges, ours.cost.forwards)
    yield "a third of the pairs", (by_third.edges, by_third.cost.forwards)
    yield "code vectors alone", (_by(edge_evidence, lambda why: why.codes), (BASE_COST + WITHIN_LAYERS) * len(pairs))
    yield "co-occurrence alone", (_by(edge_evidence, lambda why: why.co_occurrence), BOTH_SIDES * len(pairs))
    for name in OTHERS:
        options = {"level": "edges"} if name == "acdc" else {}
        scores = _run(name, model, pairs, seed, **options)
        yield name, (scores.edges, scores.cost.forwards)


def _by(edge_evidence: list[tuple], score: Callable) -> tuple[EdgeScore, ...]:
    return tuple(replace(edge, score=score(why)) for edge, why in edge_evidence)


def _run(method: str, model: Model, pairs: PromptPairs, seed: int, **options: str):
    config = method_config(method, pairs.task, options, seed=seed)
    return load_method(method)(model, pairs, config)


def show(result: dict) -> None:
    """A row a method: ROC AUC (average precision), mean over seeds, and the mean of the tasks."""
    table, rows = [], result["rows"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for method in dict.fromkeys(row["method"] for row in rows):
        cells, costs = [], []
        for task in tasks:
            task_rows = [row for row in rows if (row["method"], row["task"]) == (method, task)]
            cells.append([np.mean([row[key] for row in task_rows]) for key in ("roc_auc", "average_precision")])
            costs += [row["forwards"] for row in task_rows]
        cells.append(np.mean(cells, axis=0))
        table.append((method, *(f"{auc:.3f} ({ap:.3f})" for auc, ap in cells), f"{np.mean(costs):.0f}"))
    columns = ("method", *(task.removeprefix("planted-") for task in tasks), "mean", "forwards a pair")
    print_table(columns, table, "edges among heads: ROC AUC (average precision)")


if __name__ == "__main__":
    main()
