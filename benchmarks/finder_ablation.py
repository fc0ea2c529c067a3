"""What each step of the finder ``adaptive-patching`` buys: benchmarks/REPORT.md's table.

    python benchmarks/finder_ablation.py [--tasks ioi greater-than docstring] [--seeds 20] [--cache .cache]

The development split: the 200 pairs of each shipped reference, whose exact effects are known, so that a patch costs a
look-up. Attribution and the gradients with all heads partly off run once on all of them (kept in ``--cache``); a seed
draws n pairs, ranks the heads from those, and is judged by the exact effects of the others. What a finder spends is
counted as if the patches were run: every row "adaptive-patching" has the same budget. A second table tells how far
``adaptive-patching`` is above each step, with intervals over seeds (whose pairs overlap: they lean narrow); a third
how much the best heads, as many as there are members, depend on the prompts drawn: their overlap between bootstraps;
a fourth whether circuits at a stated false-discovery rate hold it; a fifth whether 95 % intervals of the heads that
were patched do. With ``--threshold 0.05`` heads are members from 5 % of the gap on, to the finders as to the judge.
"""

import argparse
import itertools
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file, save_file
from sklearn.metrics import average_precision_score, roc_auc_score

from interp import DEFAULT_MODEL, THRESHOLD
from interp.activations.stream import FORWARD_AND_BACKWARD, HUNDREDTHS
from interp.circuits.references import load_reference
from interp.evaluation.stability import best_heads, mean_jaccard
from interp.files import atomic_path
from interp.models import load_model
from interp.progress import bar
from interp.scores.adaptive_patching import posterior as prior
from interp.scores.adaptive_patching.method import (
    BUDGET_PAIRS,
    HALF_WEIGHT,
    HIDDEN_TIE_BREAK,
    PARTIAL_RUNS,
    PARTIAL_SHARE,
    QUARTER_RUNS,
    QUARTER_WEIGHT,
    AdaptivePatchingBase,
    AdaptivePatchingConfig,
    partial_runs,
)
from interp.scores.adaptive_patching.partial_ablation import HALF_ON, QUARTER_ON
from interp.scores.adaptive_patching.posterior import (
    EffectEstimates,
    Membership,
    at_false_discovery_rate,
    membership,
    moderated_variance,
)
from interp.scores.method import Context
from interp.tasks import load_task

CHOSEN = (PARTIAL_SHARE, QUARTER_RUNS, HALF_WEIGHT, QUARTER_WEIGHT)
PARTIAL = {
    "adaptive-patching": CHOSEN,
    "adaptive-patching, pairs partly off may take all of the budget": (1.0, *CHOSEN[1:]),
    "adaptive-patching, they may take a third of it": (1 / 3, *CHOSEN[1:]),
    "adaptive-patching, all of these pairs half off": (PARTIAL_SHARE, 0.0, HALF_WEIGHT, 0.0),
    "adaptive-patching, all half off, counting 1": (PARTIAL_SHARE, 0.0, 1.0, 0.0),
    "adaptive-patching, half off counts .1, a quarter on .03": (PARTIAL_SHARE, QUARTER_RUNS, 0.1, 0.03),
    "adaptive-patching, half off counts .3, a quarter on .1": (PARTIAL_SHARE, QUARTER_RUNS, 0.3, 0.1),
    "adaptive-patching, half off counts .2, a quarter on .2": (
        PARTIAL_SHARE,
        QUARTER_RUNS,
        HALF_WEIGHT,
        HALF_WEIGHT,
    ),
}
"""Share of the budget that pairs with all heads partly off may take, share of these that have a quarter on and not a
half, and how their values count."""
PRIORS = {
    "one prior for all heads (α = 0)": {"POWERS": (0.0,)},
    "α = 1½": {"POWERS": (1.5,)},
    "no weight on effects of nothing": {"NULL_COUNT": 0.0},
}
"""The finder with other constants of its prior, wherever it uses it."""
RATES = (0.05, 0.1, 0.2)
NORMAL_95 = 1.96
N_BOOT = 2000
CONSOLE = Console(width=140)
RESAMPLED, DRAWS = 3, 12
"""Sets of pairs whose choice of heads is repeated on bootstraps, and bootstraps of each."""
EXACT_PAIRS = (50, 100, 150, 200, 400)
"""Sizes of the bootstraps that exact effects are tried on: how many prompts it would take."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["ioi", "greater-than", "docstring"])
    parser.add_argument("--pairs", nargs="+", type=int, default=[10, 25, 100])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD, help="share of the gap that makes a member"
    )
    args = parser.parse_args()
    table = Table(title="ROC AUC (average precision), mean over seeds")
    for name in ("step", "pairs", *args.tasks):
        table.add_column(name, justify="left" if name == "step" else "right")
    measured = {task: _Measured(task, args) for task in args.tasks}
    columns = {
        task: {n: _recovered(measured[task], n, args.seeds) for n in args.pairs} for task in args.tasks
    }
    for n in args.pairs:
        for step in columns[args.tasks[0]][n]:
            cells = [np.mean(columns[task][n][step], axis=0) for task in args.tasks]
            table.add_row(step, str(n), *(f"{auc:.3f} ({ap:.3f})" for auc, ap in cells))
        table.add_section()
    CONSOLE.print(table)
    table = Table(title="codes minus it, average precision, mean of the tasks [95 % over seeds]")
    for name in ("step", *(f"{n} pairs" for n in args.pairs)):
        table.add_column(name, justify="left" if name == "step" else "right")
    for step in columns[args.tasks[0]][args.pairs[0]]:
        cells = [_less([columns[task][n] for task in args.tasks], step) for n in args.pairs]
        table.add_row(step, *cells)
    CONSOLE.print(table)
    table = Table(title=f"Jaccard between bootstraps, mean of {RESAMPLED} sets of pairs")
    for name in ("step", "pairs", *args.tasks):
        table.add_column(name, justify="left" if name == "step" else "right")
    found = {task: _stability(measured[task], max(args.pairs)) for task in args.tasks}
    for step in found[args.tasks[0]]:
        table.add_row(*step, *(f"{found[task][step]:.3f}" for task in args.tasks))
    CONSOLE.print(table)
    table = Table(
        title="circuits at a stated rate: share that is no member, ± standard error (members in it)"
    )
    for name in ("rate", "by", "pairs", *args.tasks):
        table.add_column(name, justify="right")
    rates = {task: {n: _rates(measured[task], n, args.seeds) for n in args.pairs} for task in args.tasks}
    for n in args.pairs:
        for rate, by in rates[args.tasks[0]][n]:
            cells = [_rate_cell(np.array(rates[task][n][rate, by])) for task in args.tasks]
            table.add_row(f"{rate:.0%}", by, str(n), *cells)
        table.add_section()
    CONSOLE.print(table)
    table = Table(title="95 % intervals that hold the mean effect of the other pairs (root mean square of z)")
    for name in ("pairs", *args.tasks):
        table.add_column(name, justify="right")
    for n in args.pairs:
        z = [_off(measured[task], n, args.seeds) for task in args.tasks]
        cells = [f"{(np.abs(off) < NORMAL_95).mean():.3f} ({np.sqrt((off**2).mean()):.2f})" for off in z]
        table.add_row(str(n), *cells)
    CONSOLE.print(table)


def _less(columns: list[dict[str, list]], step: str) -> str:
    """How far codes is above a step in average precision; the same seeds of all tasks are resampled together."""
    above = np.mean(
        [np.array(rows["adaptive-patching"])[:, 1] - np.array(rows[step])[:, 1] for rows in columns], axis=0
    )
    drawn = np.random.default_rng(0).integers(len(above), size=(N_BOOT, len(above)))
    low, high = np.percentile(above[drawn].mean(1), [2.5, 97.5])
    return f"{above.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def _rate_cell(draws: np.ndarray) -> str:
    (false, power), error = draws.mean(0), draws[:, 0].std(ddof=1) / len(draws) ** 0.5
    return f"{false:.3f} ± {error:.3f} ({power:.2f})"


class _Measured:
    """A reference's exact effects, and what a finder would see of them, by pair."""

    def __init__(self, task: str, args: argparse.Namespace) -> None:
        reference = load_reference(f"{task}/{args.model}")
        self.exact = reference.heads.reshape(reference.n_pairs, -1)
        self.threshold = args.threshold
        self.gaps = reference.metric_clean - reference.metric_corrupt
        self.values = _values(task, args, reference.n_pairs)
        layers = np.repeat(np.arange(reference.n_layers), reference.n_heads)
        self.cost = self.values["share"] * (1 - layers / reference.n_layers)

    def members(self, pairs: np.ndarray) -> np.ndarray:
        return np.abs(self.exact[pairs].mean(0)) >= self.threshold * self.gaps[pairs].mean()

    def budget(self, n: int) -> float:
        """Forward-pass equivalents for patches and partial runs, after what patches of n pairs need kept."""
        patches = AdaptivePatchingConfig.budget * min(n, BUDGET_PAIRS)
        return patches - (1 - float(self.values["share"])) * n

    def patch_budget(self, n: int) -> float:
        """What is left of it for patches, beside the partial runs of ``adaptive-patching``."""
        runs = partial_runs(n, self.budget(n), self.partial_cost(1), PARTIAL_SHARE)
        return self.budget(n) - self.partial_cost(runs)

    def patched(self, pairs: np.ndarray, budget: float) -> EffectEstimates:
        """What is known of the effects after patches of that price."""
        gap, exact = self.gaps[pairs].mean(), self.exact[pairs]
        attribution = self.values["attribution"][pairs]
        estimates = EffectEstimates(attribution, gap, self.threshold, np.arange(len(pairs)))
        estimates.spend(self.cost, budget, lambda rows, heads: (exact[rows, heads], self.cost[heads].sum()))
        return estimates

    def partial_cost(self, runs: int) -> float:
        return FORWARD_AND_BACKWARD * float(self.values["share"]) * runs


def _recovered(measured: _Measured, n: int, seeds: int) -> dict[str, list]:
    rows: dict[str, list] = {}
    everything = np.arange(len(measured.exact))
    for seed in range(seeds):
        some = np.random.default_rng(seed).permutation(everything)[:n]
        truth = measured.members(np.setdiff1d(everything, some))
        for step, size in _steps(measured, some, seed).items():
            pair = roc_auc_score(truth, size), average_precision_score(truth, size)
            rows.setdefault(step, []).append(pair)
    return rows


def _rates(measured: _Measured, n: int, seeds: int) -> dict[tuple[float, str], list]:
    """By codes, and by the same posterior of attribution alone, which does not know where it is wrong."""
    rows: dict[tuple[float, str], list] = {}
    everything = np.arange(len(measured.exact))
    for seed in range(seeds):
        some = np.random.default_rng(seed).permutation(everything)[:n]
        truth = measured.members(np.setdiff1d(everything, some))
        budget = measured.patch_budget(n)
        found = {
            "adaptive-patching": measured.patched(some, budget).membership(),
            "attribution": _posterior(
                measured, measured.values["attribution"][some], measured.gaps[some].mean()
            ),
        }
        for name in PRIORS:
            with _prior(name):
                found[name] = measured.patched(some, budget).membership()
        for rate in RATES:
            for by, member in found.items():
                chosen = at_false_discovery_rate(member.probability, rate)
                false, right = (chosen & ~truth).sum(), (chosen & truth).sum()
                rows.setdefault((rate, by), []).append((false / max(1, chosen.sum()), right / truth.sum()))
    return rows


def _off(measured: _Measured, n: int, seeds: int) -> np.ndarray:
    """How far estimates of patched heads are from the others' mean, in standard errors of both, over seeds."""
    everything, found = np.arange(len(measured.exact)), []
    for seed in range(seeds):
        some = np.random.default_rng(seed).permutation(everything)[:n]
        others = measured.exact[np.setdiff1d(everything, some)]
        estimates = measured.patched(some, measured.patch_budget(n))
        estimate, variance = estimates.estimate()
        error = np.sqrt(variance + others.var(axis=0, ddof=1) / len(others))
        found.append(((estimate - others.mean(axis=0)) / error)[estimates.patched > 0])
    return np.concatenate(found)


def _prior(name: str) -> AbstractContextManager:
    return mock.patch.multiple(prior, **PRIORS[name])


def _posterior(measured: _Measured, per_pair: np.ndarray, gap: float) -> Membership:
    variance = moderated_variance(per_pair) / len(per_pair)
    return membership(per_pair.mean(0), variance, gap=gap, threshold=measured.threshold)


def _stability(measured: _Measured, n: int) -> dict[tuple[str, str], float]:
    everything = np.arange(len(measured.exact))
    members = int(measured.members(everything).sum())
    found: dict[tuple[str, str], list[float]] = {}
    for base in range(RESAMPLED):
        some, chosen = np.random.default_rng(base).permutation(everything)[:n], {}
        for draw in range(DRAWS):
            again = np.random.default_rng(draw).choice(some, n)
            for step, size in _steps(measured, again, draw).items():
                chosen.setdefault(step, []).append(best_heads(size[None], members, seed=draw))
            gap = measured.gaps[again].mean()
            known = {
                "adaptive-patching": measured.patched(again, measured.patch_budget(n)).membership(),
                "activation patching of all heads": _posterior(measured, measured.exact[again], gap),
            }
            for (by, member), rate in itertools.product(known.items(), RATES):
                circuit = at_false_discovery_rate(member.probability, rate)
                chosen.setdefault(f"{by}, circuit at {rate:.0%}", []).append(circuit[None])
        for step, circuits in chosen.items():
            found.setdefault((step, str(n)), []).append(mean_jaccard(circuits))
    for pairs in EXACT_PAIRS:
        circuits = []
        for draw in range(RESAMPLED * DRAWS):
            again = np.random.default_rng(draw).choice(everything, pairs)
            circuits.append(best_heads(np.abs(measured.exact[again].mean(0))[None], members, seed=draw))
        found["activation patching, of all pairs", str(pairs)] = [mean_jaccard(circuits)]
    return {step: float(np.mean(values)) for step, values in found.items()}


def _steps(measured: _Measured, pairs: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    estimate, exact = measured.values["attribution"][pairs], measured.exact[pairs]
    n, gap, budget = len(pairs), measured.gaps[pairs].mean(), measured.budget(len(pairs))
    order = np.random.default_rng(seed + 1).permutation(pairs)

    def posterior(per_pair: np.ndarray) -> Membership:
        return _posterior(measured, per_pair, gap)

    def patched(spent: float) -> EffectEstimates:
        return measured.patched(pairs, spent)

    def with_partial(
        share: float, quarter_runs: float, half_weight: float, quarter_weight: float
    ) -> np.ndarray:
        runs = partial_runs(n, budget, measured.partial_cost(1), share)
        quarters = round(quarter_runs * runs)
        quarters = quarters if quarters > 1 else 0
        size = patched(budget - measured.partial_cost(runs)).membership().expected
        parts = (("half", order[quarters:runs], half_weight), ("quarter", order[:quarters], quarter_weight))
        for key, some, weight in parts:
            if len(some) > 1:
                found = posterior(measured.values[key][some])
                size = size + weight * (found.expected + HIDDEN_TIE_BREAK * np.abs(found.mean))
        return size

    def under(name: str) -> np.ndarray:
        with _prior(name):
            return with_partial(*CHOSEN)

    spent = patched(budget)
    corrected, _ = spent.estimate()
    done = spent.patched > 0
    only = np.where(done, np.nanmean(np.where(done, spent.exact, 0.0), axis=0), estimate.mean(0))
    return {
        "attribution": np.abs(estimate.mean(0)),
        "attribution, posterior": posterior(estimate).expected,
        "patches in place of attribution": np.abs(only),
        "patches as a control variate of attribution": np.abs(corrected),
        "control variate and posterior, all the budget in patches": spent.membership().expected,
        "the same, three times the patches": patched(3 * budget).membership().expected,
        "ten pairs half off, nothing else": np.abs(measured.values["half"][order[:PARTIAL_RUNS]].mean(0)),
        **{name: with_partial(*some) for name, some in PARTIAL.items()},
        **{f"adaptive-patching, {name}": under(name) for name in PRIORS},
        "activation patching of all heads": np.abs(exact.mean(0)),
        "activation patching of all heads, posterior": posterior(exact).expected,
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
        with bar(f"attribution, {task}", HUNDREDTHS) as advance:
            base = AdaptivePatchingBase(Context(model, pairs, progress=advance), kept=range(n))
        found = {
            "attribution": base.scorer.heads_,
            "half": base.partial.of(range(n), HALF_ON)[0],
            "quarter": base.partial.of(range(n), QUARTER_ON)[0],
        }
        found = {key: np.ascontiguousarray(value.reshape(n, -1)) for key, value in found.items()}
        found["share"] = np.array(base.runner.share(range(n)))
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file(found, temporary)
    return load_file(path)


if __name__ == "__main__":
    main()
