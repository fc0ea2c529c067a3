"""What each step of the ``codes`` finder buys: docs/codes.md's table.

    python benchmarks/finder_ablation.py [--tasks ioi greater-than docstring] [--seeds 20] [--cache .cache]

The development split: the 200 pairs of each shipped reference, whose exact effects are known, so that a swap costs a
look-up. Attribution runs once on all of them (kept in ``--cache``); a seed draws n pairs, ranks the heads from those,
and is judged by the exact effects of the others. What a finder spends is counted as if the swaps were run. Redundancy
needs the model in states that no table holds and is left out here: it orders heads that have no effect of their own.
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score, roc_auc_score

from interp.circuits.references import load_reference
from interp.files import atomic_path
from interp.models import load_model
from interp.progress import bar
from interp.scores.attribution import attribution
from interp.scores.codes import CODES_SHARE, REDUNDANCY_SHARE, CodesConfig
from interp.scores.membership import membership, moderated_variance
from interp.scores.uncertainty import EffectEstimates
from interp.tasks import load_task

THRESHOLD = CodesConfig.threshold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["ioi", "greater-than", "docstring"])
    parser.add_argument("--pairs", nargs="+", type=int, default=[10, 25, 100])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    args = parser.parse_args()
    table = Table(title="ROC AUC (average precision), mean over seeds")
    for name in ("step", "pairs", *args.tasks):
        table.add_column(name, justify="left" if name == "step" else "right")
    columns = {task: _task(task, args) for task in args.tasks}
    for n in args.pairs:
        for step in columns[args.tasks[0]][n]:
            cells = [np.mean(columns[task][n][step], axis=0) for task in args.tasks]
            table.add_row(step, str(n), *(f"{auc:.3f} ({ap:.3f})" for auc, ap in cells))
        table.add_section()
    Console().print(table)


def _task(task: str, args: argparse.Namespace) -> dict:
    reference = load_reference(f"{task}/{args.model}")
    exact = reference.heads.reshape(reference.n_pairs, -1)
    estimates = _attribution(task, args, reference.n_pairs)
    first = [
        pair.first_difference / len(pair.clean_tokens) for pair in _pairs(task, args, reference.n_pairs)[1]
    ]
    layers = np.repeat(np.arange(reference.n_layers), reference.n_heads)
    cost = (1 - np.mean(first)) * (1 - layers / reference.n_layers)
    gaps = reference.metric_clean - reference.metric_corrupt
    found: dict = {}
    for n in args.pairs:
        rows: dict[str, list] = {}
        for seed in range(args.seeds):
            some = np.random.default_rng(seed).permutation(len(exact))[:n]
            others = np.setdiff1d(np.arange(len(exact)), some)
            truth = np.abs(exact[others].mean(0)) >= THRESHOLD * gaps[others].mean()
            for step, size in _steps(estimates[some], exact[some], gaps[some].mean(), cost, seed).items():
                pair = roc_auc_score(truth, size), average_precision_score(truth, size)
                rows.setdefault(step, []).append(pair)
        found[n] = rows
    return found


def _steps(estimate: np.ndarray, exact: np.ndarray, gap: float, cost: np.ndarray, seed: int) -> dict:
    n = len(estimate)
    variance = moderated_variance(estimate) / n
    alone = membership(estimate.mean(0), variance, gap=gap, threshold=THRESHOLD)
    spent = EffectEstimates(estimate, gap, THRESHOLD, np.arange(n), seed)
    budget = CodesConfig.budget * n * (1 - CODES_SHARE) * (1 - REDUNDANCY_SHARE)
    spent.spend(cost, budget, lambda rows, heads: (exact[rows, heads], cost[heads].sum()))
    corrected, _ = spent.estimate()
    swapped = spent.swapped > 0
    only = np.where(swapped, np.nanmean(np.where(swapped, spent.exact, 0.0), axis=0), estimate.mean(0))
    whole = moderated_variance(exact) / n
    return {
        "attribution": np.abs(estimate.mean(0)),
        "+ posterior": alone.expected,
        "+ swaps in place of attribution": np.abs(only),
        "+ swaps as a control variate": np.abs(corrected),
        "codes: both": spent.membership().expected,
        "exact, all heads": np.abs(exact.mean(0)),
        "exact + posterior": membership(exact.mean(0), whole, gap=gap, threshold=THRESHOLD).expected,
    }


def _pairs(task: str, args: argparse.Namespace, n: int):
    model = _model(args.model)
    return model, load_task(task).sample(model.tokenizer, n, 1000)


_loaded: dict = {}


def _model(spec: str):
    if spec not in _loaded:
        _loaded[spec] = load_model(spec)
    return _loaded[spec]


def _attribution(task: str, args: argparse.Namespace, n: int) -> np.ndarray:
    path = args.cache / f"attribution-{task}-{args.model}-{n}.npy"
    if not path.is_file():
        model, pairs = _pairs(task, args, n)
        with bar(f"attribution, {task}", n) as advance:
            scores = attribution(model, pairs, progress=advance)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, scores.heads_per_pair.reshape(n, -1))
    return np.load(path)


if __name__ == "__main__":
    main()
