"""How much a head's value while others are off should count in the ``codes`` finder: docs/codes.md's table.

    python benchmarks/redundancy_weight.py [--tasks ioi greater-than docstring] [--pairs 10 25] [--seeds 8]

The development split of finder_ablation.py: a seed draws n of a reference's 200 pairs, the finder runs on them as it
is, and the weight is changed afterwards; judged by the exact effects of the other pairs. Minutes a task on one core.
"""

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score, roc_auc_score

from interp.circuits.references import load_reference
from interp.models import load_model
from interp.progress import bar
from interp.scores.codes import CodesBase, CodesConfig
from interp.tasks import load_task

WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["ioi", "greater-than", "docstring"])
    parser.add_argument("--pairs", nargs="+", type=int, default=[10, 25])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    args = parser.parse_args()
    model = load_model(args.model)
    columns = {task: _task(model, task, args) for task in args.tasks}
    table = Table("weight", "pairs", *args.tasks, title="ROC AUC (average precision), mean over seeds")
    for n in args.pairs:
        for weight in WEIGHTS:
            means = [np.mean(columns[task][n, weight], axis=0) for task in args.tasks]
            table.add_row(f"{weight:g}", str(n), *(f"{auc:.3f} ({ap:.3f})" for auc, ap in means))
        table.add_section()
    Console().print(table)


def _task(model, task: str, args: argparse.Namespace) -> dict:
    reference = load_reference(f"{task}/{args.model}")
    exact = reference.heads.reshape(reference.n_pairs, -1)
    gaps = reference.metric_clean - reference.metric_corrupt
    pairs = load_task(task).sample(model.tokenizer, reference.n_pairs, 1000)
    orders = [np.random.default_rng(seed).permutation(reference.n_pairs) for seed in range(args.seeds)]
    needed = sorted({int(i) for order in orders for i in order[: max(args.pairs)]})
    row = {index: k for k, index in enumerate(needed)}
    with bar(task, len(needed)) as advance:
        base = CodesBase(model, pairs.subset(needed), kept=range(len(needed)), progress=advance)
    found: dict = {}
    for n in args.pairs:
        for seed, order in enumerate(orders):
            ranking = base.rank([row[int(i)] for i in order[:n]], CodesConfig(seed=seed))
            others = order[n:]
            truth = np.abs(exact[others].mean(0)) >= CodesConfig.threshold * gaps[others].mean()
            for weight in WEIGHTS:
                size = ranking.member.expected + weight * ranking.hidden.ravel()
                scored = roc_auc_score(truth, size), average_precision_score(truth, size)
                found.setdefault((n, weight), []).append(scored)
    return found


if __name__ == "__main__":
    main()
