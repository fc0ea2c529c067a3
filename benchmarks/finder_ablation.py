"""What each step of the ``codes`` finder buys: docs/codes.md's table.

    python benchmarks/finder_ablation.py [--tasks ioi greater-than docstring] [--seeds 20] [--cache .cache]

The development split: the 200 pairs of each shipped reference, whose exact effects are known, so that a swap costs a
look-up. Attribution and the gradients with all heads partly off run once on all of them (kept in ``--cache``); a seed
draws n pairs, ranks the heads from those, and is judged by the exact effects of the others. What a finder spends is
counted as if the swaps were run: every row "codes" has the same budget.
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file, save_file
from sklearn.metrics import average_precision_score, roc_auc_score

from interp.circuits.references import load_reference
from interp.files import atomic_path
from interp.models import load_model
from interp.progress import bar
from interp.scores.codes import (
    CODES_SHARE,
    HALF_WEIGHT,
    HIDDEN_TIE_BREAK,
    PARTIAL_RUNS,
    QUARTER_RUNS,
    QUARTER_WEIGHT,
    CodesBase,
    CodesConfig,
)
from interp.scores.membership import membership, moderated_variance
from interp.scores.redundancy import COST, HALF_ON, QUARTER_ON
from interp.scores.uncertainty import EffectEstimates
from interp.tasks import load_task

THRESHOLD = CodesConfig.threshold
QUARTERS = round(QUARTER_RUNS * PARTIAL_RUNS)
CHOSEN = (PARTIAL_RUNS - QUARTERS, QUARTERS, HALF_WEIGHT, QUARTER_WEIGHT)
PARTIAL = (
    CHOSEN,
    (PARTIAL_RUNS, 0, 0.03, 0.0),
    (PARTIAL_RUNS, 0, 0.1, 0.0),
    (PARTIAL_RUNS, 0, 0.3, 0.0),
    (PARTIAL_RUNS, 0, 1.0, 0.0),
    (PARTIAL_RUNS - QUARTERS, QUARTERS, 0.1, 0.1),
)
"""Pairs with a half and with a quarter of every head on, and how their values count."""


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
    values = _values(task, args, reference.n_pairs)
    layers = np.repeat(np.arange(reference.n_layers), reference.n_heads)
    cost = values["share"] * (1 - layers / reference.n_layers)
    gaps = reference.metric_clean - reference.metric_corrupt
    found: dict = {}
    for n in args.pairs:
        rows: dict[str, list] = {}
        for seed in range(args.seeds):
            some = np.random.default_rng(seed).permutation(len(exact))[:n]
            others = np.setdiff1d(np.arange(len(exact)), some)
            truth = np.abs(exact[others].mean(0)) >= THRESHOLD * gaps[others].mean()
            own = {key: value if key == "share" else value[some] for key, value in values.items()}
            for step, size in _steps(own, exact[some], gaps[some].mean(), cost, seed).items():
                pair = roc_auc_score(truth, size), average_precision_score(truth, size)
                rows.setdefault(step, []).append(pair)
        found[n] = rows
    return found


def _steps(values: dict, exact: np.ndarray, gap: float, cost: np.ndarray, seed: int) -> dict:
    estimate, share = values["attribution"], float(values["share"])
    n = len(estimate)
    budget = CodesConfig.budget * n * (1 - CODES_SHARE) - (1 - share) * n
    order = np.random.default_rng(seed + 1).permutation(n)

    def posterior(per_pair: np.ndarray):
        variance = moderated_variance(per_pair) / len(per_pair)
        return membership(per_pair.mean(0), variance, gap=gap, threshold=THRESHOLD)

    def swapped(spent: float) -> EffectEstimates:
        estimates = EffectEstimates(estimate, gap, THRESHOLD, np.arange(n), seed)
        estimates.spend(cost, spent, lambda rows, heads: (exact[rows, heads], cost[heads].sum()))
        return estimates

    def with_partial(halves: int, quarters: int, half_weight: float, quarter_weight: float) -> np.ndarray:
        fits = min(1.0, n / PARTIAL_RUNS, budget / (COST * share * PARTIAL_RUNS))
        halves, quarters = round(halves * fits), round(quarters * fits)
        size = swapped(budget - COST * share * (halves + quarters)).membership().expected
        parts = (("half", order[quarters : quarters + halves], half_weight),)
        for key, pairs, weight in (*parts, ("quarter", order[:quarters], quarter_weight)):
            if len(pairs) > 1:
                found = posterior(values[key][pairs])
                size = size + weight * (found.expected + HIDDEN_TIE_BREAK * np.abs(found.mean))
        return size

    spent = swapped(budget)
    corrected, _ = spent.estimate()
    done = spent.swapped > 0
    only = np.where(done, np.nanmean(np.where(done, spent.exact, 0.0), axis=0), estimate.mean(0))
    return {
        "attribution": np.abs(estimate.mean(0)),
        "+ posterior": posterior(estimate).expected,
        "+ swaps in place of attribution": np.abs(only),
        "+ swaps as a control variate": np.abs(corrected),
        "both": spent.membership().expected,
        "half off alone": np.abs(values["half"][order[:PARTIAL_RUNS]].mean(0)),
        **{
            f"codes: {a} half at {v:g}" + (f", {b} quarter at {w:g}" if b else ""): with_partial(a, b, v, w)
            for a, b, v, w in PARTIAL
        },
        "exact, all heads": np.abs(exact.mean(0)),
        "exact + posterior": posterior(exact).expected,
    }


_loaded: dict = {}


def _model(spec: str):
    if spec not in _loaded:
        _loaded[spec] = load_model(spec)
    return _loaded[spec]


def _values(task: str, args: argparse.Namespace, n: int) -> dict[str, np.ndarray]:
    """Attribution, and the same with a half and a quarter of every head on [pair, head]; the share that runs run."""
    path = args.cache / f"partial-{task}-{args.model}-{n}.safetensors"
    if not path.is_file():
        model = _model(args.model)
        pairs = load_task(task).sample(model.tokenizer, n, 1000)
        with bar(f"attribution, {task}", n) as advance:
            base = CodesBase(model, pairs, kept=range(n), progress=advance)
        found = {
            "attribution": base.scorer.heads_,
            "half": base.redundancy.of(range(n), HALF_ON),
            "quarter": base.redundancy.of(range(n), QUARTER_ON),
        }
        found = {key: np.ascontiguousarray(value.reshape(n, -1)) for key, value in found.items()}
        found["share"] = np.array(base.swaps.share(range(n)))
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file(found, temporary)
    return load_file(path)


if __name__ == "__main__":
    main()
