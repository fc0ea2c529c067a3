"""What each step of the finder ``adaptive-patching`` buys: benchmarks/REPORT.md's table.

    python -m benchmarks.finder_ablation [--tasks ioi greater-than docstring] [--seeds 20] [--threshold 0.05]

The 200 pairs of each shipped reference have known effects, so that a patch costs a look-up. A seed draws n pairs,
ranks the heads from those, and is judged by the exact effects of the others. What a finder spends is counted as if the
patches were run: every row "adaptive-patching" has the same budget. Intervals are over seeds, whose pairs overlap:
they lean narrow. ``--threshold``: the share of the gap from which heads are members, to the finders as to the judge.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.common import arguments, interval, print_table
from interp import DEFAULT_MODEL, THRESHOLD, load_model, load_task
from interp.activations.stream import FORWARD_AND_BACKWARD, HUNDREDTHS
from interp.circuits.references import load_reference
from interp.evaluation.stability import best_heads, mean_jaccard
from interp.files import atomic_path
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

TASKS, CACHE = ["ioi", "greater-than", "docstring"], Path(".cache")
CHOSEN = (PARTIAL_SHARE, QUARTER_RUNS, HALF_WEIGHT, QUARTER_WEIGHT)
PARTIAL = {
    "adaptive-patching": CHOSEN,
    "adaptive-patching, pairs partly off may take all of the budget": (1.0, *CHOSEN[1:]),
    "adaptive-patching, they may take a third of it": (1 / 3, *CHOSEN[1:]),
    "adaptive-patching, all of these pairs half off": (PARTIAL_SHARE, 0.0, HALF_WEIGHT, 0.0),
    "adaptive-patching, all half off, counting 1": (PARTIAL_SHARE, 0.0, 1.0, 0.0),
    "adaptive-patching, half off counts .1, a quarter on .03": (PARTIAL_SHARE, QUARTER_RUNS, 0.1, 0.03),
    "adaptive-patching, half off counts .3, a quarter on .1": (PARTIAL_SHARE, QUARTER_RUNS, 0.3, 0.1),
    "adaptive-patching, half off counts .2, a quarter on .2": (PARTIAL_SHARE, QUARTER_RUNS, 0.2, 0.2),
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
RESAMPLED, DRAWS = 3, 12
"""Sets of pairs whose choice of heads is repeated on bootstraps, and bootstraps of each."""
EXACT_PAIRS = (50, 100, 150, 200, 400)
"""Sizes of the bootstraps that exact effects are tried on: how many prompts it would take."""


def main() -> None:
    args = arguments(__doc__, tasks=TASKS, pairs=[10, 25, 100], seeds=20, threshold=THRESHOLD)
    measured = {task: _Measured(task, args.threshold) for task in args.tasks}

    def by_pairs(measure: Callable) -> list[dict]:
        """What is measured of every task, by the number of pairs."""
        return [{n: measure(measured[task], n, args.seeds) for n in args.pairs} for task in args.tasks]

    recovered = by_pairs(_recovered)
    steps = list(recovered[0][args.pairs[0]])
    rows: list[tuple] = []
    for n, step in itertools.product(args.pairs, steps):
        means = (np.mean(of[n][step], axis=0) for of in recovered)
        rows.append((step, n, *(f"{auc:.3f} ({ap:.3f})" for auc, ap in means)))
    print_table(("step", "pairs", *args.tasks), rows, "ROC AUC (average precision), mean over seeds")
    rows = [(step, *(_less([of[n] for of in recovered], step) for n in args.pairs)) for step in steps]
    title = "adaptive-patching minus it, average precision, mean of the tasks [95 % over seeds]"
    print_table(("step", *(f"{n} pairs" for n in args.pairs)), rows, title)
    stabilities = [_stability(measured[task], max(args.pairs)) for task in args.tasks]
    rows = [(*step, *(f"{of[step]:.3f}" for of in stabilities)) for step in stabilities[0]]
    title = f"Jaccard between bootstraps, mean of {RESAMPLED} sets of pairs"
    print_table(("step", "pairs", *args.tasks), rows, title)
    rates, rows = by_pairs(_rates), []
    for n, (rate, by) in itertools.product(args.pairs, rates[0][args.pairs[0]]):
        rows.append((f"{rate:.0%}", by, n, *(_rate_cell(np.array(of[n][rate, by])) for of in rates)))
    title = "circuits at a stated rate: share that is no member, ± standard error (members in it)"
    print_table(("rate", "by", "pairs", *args.tasks), rows, title)
    off, rows = by_pairs(_off), []
    for n in args.pairs:
        held = ((np.abs(of[n]) < NORMAL_95).mean() for of in off)
        sizes = (np.sqrt((of[n] ** 2).mean()) for of in off)
        rows.append((n, *(f"{share:.3f} ({size:.2f})" for share, size in zip(held, sizes, strict=True))))
    title = "95 % intervals that hold the mean effect of the other pairs (root mean square of z)"
    print_table(("pairs", *args.tasks), rows, title)


def _less(columns: list[dict[str, list]], step: str) -> str:
    """How far ``adaptive-patching`` is above a step in AP; the same seeds of all tasks are resampled together."""
    above = np.mean(
        [np.array(rows["adaptive-patching"])[:, 1] - np.array(rows[step])[:, 1] for rows in columns], axis=0
    )
    drawn = np.random.default_rng(0).integers(len(above), size=(N_BOOT, len(above)))
    low, high = np.percentile(above[drawn].mean(1), [2.5, 97.5])
    return interval(above.mean(), low, high, "+.3f")


def _rate_cell(draws: np.ndarray) -> str:
    (false, power), error = draws.mean(0), draws[:, 0].std(ddof=1) / len(draws) ** 0.5
    return f"{false:.3f} ± {error:.3f} ({power:.2f})"


class _Measured:
    """A reference's exact effects, and what a finder would see of them, by pair."""

    def __init__(self, task: str, threshold: float) -> None:
        reference = load_reference(f"{task}/{DEFAULT_MODEL}")
        self.exact = reference.heads.reshape(reference.n_pairs, -1)
        self.threshold = threshold
        self.gaps = reference.metric_clean - reference.metric_corrupt
        self.values = _values(task, reference.n_pairs)
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
        estimates.patch_until(self.cost, budget, lambda rows, heads: (exact[rows, heads], self.cost[heads].sum()))
        return estimates

    def partial_cost(self, runs: int) -> float:
        return FORWARD_AND_BACKWARD * float(self.values["share"]) * runs


def _draws(measured: _Measured, n: int, seeds: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Every seed's pairs, and all others."""
    everything = np.arange(len(measured.exact))
    for seed in range(seeds):
        drawn = np.random.default_rng(seed).permutation(everything)[:n]
        yield seed, drawn, np.setdiff1d(everything, drawn)


def _recovered(measured: _Measured, n: int, seeds: int) -> dict[str, list]:
    rows: dict[str, list] = {}
    for seed, drawn, others in _draws(measured, n, seeds):
        truth = measured.members(others)
        for step, size in _steps(measured, drawn, seed).items():
            pair = roc_auc_score(truth, size), average_precision_score(truth, size)
            rows.setdefault(step, []).append(pair)
    return rows


def _rates(measured: _Measured, n: int, seeds: int) -> dict[tuple[float, str], list]:
    """By codes, and by the same posterior of attribution alone, which does not know where it is wrong."""
    rows: dict[tuple[float, str], list] = {}
    budget = measured.patch_budget(n)
    for _, drawn, others in _draws(measured, n, seeds):
        truth, attribution = measured.members(others), measured.values["attribution"][drawn]
        memberships = {
            "adaptive-patching": measured.patched(drawn, budget).membership(),
            "attribution": _posterior(measured, attribution, measured.gaps[drawn].mean()),
        }
        for name in PRIORS:
            with _prior(name):
                memberships[name] = measured.patched(drawn, budget).membership()
        for rate in RATES:
            for by, member in memberships.items():
                chosen = at_false_discovery_rate(member.probability, rate)
                false, right = (chosen & ~truth).sum(), (chosen & truth).sum()
                rows.setdefault((rate, by), []).append((false / max(1, chosen.sum()), right / truth.sum()))
    return rows


def _off(measured: _Measured, n: int, seeds: int) -> np.ndarray:
    """How far estimates of patched heads are from the others' mean, in standard errors of both, over seeds."""
    z_scores = []
    for _, drawn, rest in _draws(measured, n, seeds):
        others = measured.exact[rest]
        estimates = measured.patched(drawn, measured.patch_budget(n))
        estimate, variance = estimates.estimate()
        error = np.sqrt(variance + others.var(axis=0, ddof=1) / len(others))
        z_scores.append(((estimate - others.mean(axis=0)) / error)[estimates.patched > 0])
    return np.concatenate(z_scores)


def _prior(name: str) -> AbstractContextManager:
    return mock.patch.multiple(prior, **PRIORS[name])


def _posterior(measured: _Measured, per_pair: np.ndarray, gap: float) -> Membership:
    variance = moderated_variance(per_pair) / len(per_pair)
    return membership(per_pair.mean(0), variance, gap=gap, threshold=measured.threshold)


def _stability(measured: _Measured, n: int) -> dict[tuple[str, str], float]:
    everything = np.arange(len(measured.exact))
    members = int(measured.members(everything).sum())
    similarities: dict[tuple[str, str], list[float]] = {}
    for base in range(RESAMPLED):
        sampled_pairs, chosen = np.random.default_rng(base).permutation(everything)[:n], {}
        for draw in range(DRAWS):
            again = np.random.default_rng(draw).choice(sampled_pairs, n)
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
            similarities.setdefault((step, str(n)), []).append(mean_jaccard(circuits))
    for pairs in EXACT_PAIRS:
        circuits = []
        for draw in range(RESAMPLED * DRAWS):
            again = np.random.default_rng(draw).choice(everything, pairs)
            circuits.append(best_heads(np.abs(measured.exact[again].mean(0))[None], members, seed=draw))
        similarities["activation patching, of all pairs", str(pairs)] = [mean_jaccard(circuits)]
    return {step: float(np.mean(values)) for step, values in similarities.items()}


def _steps(measured: _Measured, pairs: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    estimate, exact = measured.values["attribution"][pairs], measured.exact[pairs]
    n, gap, budget = len(pairs), measured.gaps[pairs].mean(), measured.budget(len(pairs))
    order = np.random.default_rng(seed + 1).permutation(pairs)

    def posterior(per_pair: np.ndarray) -> Membership:
        return _posterior(measured, per_pair, gap)

    def patched(spent: float) -> EffectEstimates:
        return measured.patched(pairs, spent)

    def with_partial(share: float, quarter_runs: float, half_weight: float, quarter_weight: float) -> np.ndarray:
        runs = partial_runs(n, budget, measured.partial_cost(1), share)
        quarters = round(quarter_runs * runs)
        quarters = quarters if quarters > 1 else 0
        size = patched(budget - measured.partial_cost(runs)).membership().expected
        parts = (("half", order[quarters:runs], half_weight), ("quarter", order[:quarters], quarter_weight))
        for key, partial_pairs, weight in parts:
            if len(partial_pairs) > 1:
                partial_membership = posterior(measured.values[key][partial_pairs])
                size = size + weight * (
                    partial_membership.expected + HIDDEN_TIE_BREAK * np.abs(partial_membership.mean)
                )
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
        **{name: with_partial(*settings) for name, settings in PARTIAL.items()},
        **{f"adaptive-patching, {name}": under(name) for name in PRIORS},
        "activation patching of all heads": np.abs(exact.mean(0)),
        "activation patching of all heads, posterior": posterior(exact).expected,
    }


_model = cache(load_model)


def _values(task: str, n: int) -> dict[str, np.ndarray]:
    """Attribution, and the same with a half and a quarter of every head on [pair, head]; the share that runs run."""
    path = CACHE / f"partial-{task}-{DEFAULT_MODEL}-{n}.safetensors"
    if not path.is_file():
        model = _model(DEFAULT_MODEL)
        pairs = load_task(task).sample(model.tokenizer, n, 1000)
        with bar(f"attribution, {task}", HUNDREDTHS) as advance:
            base = AdaptivePatchingBase(Context(model, pairs, progress=advance), kept=range(n))
        arrays = {
            "attribution": base.scorer.heads_,
            "half": base.partial.of(range(n), HALF_ON)[0],
            "quarter": base.partial.of(range(n), QUARTER_ON)[0],
        }
        arrays = {key: np.ascontiguousarray(value.reshape(n, -1)) for key, value in arrays.items()}
        arrays["share"] = np.array(base.runner.share(range(n)))
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file(arrays, temporary)
    return load_file(path)


if __name__ == "__main__":
    main()
