"""The finite-state experiment over seeds: each seed, their mean, and what it leaves open.

::

    python -m benchmarks.tokfsm seeds                                               # the kept runs of scale cpu
    python -m benchmarks.tokfsm seeds benchmarks/results/tokfsm/pull-seed*.json     # the recipe before
    python -m benchmarks.tokfsm seeds benchmarks/results/tokfsm/pull-quick-*.json   # 10 M tokens by that
    python -m benchmarks.tokfsm seeds benchmarks/results/tokfsm/long-*.json         # 38 M tokens by that
    python -m benchmarks.tokfsm seeds benchmarks/results/tokfsm/adam-*.json         # 38 M by one earlier still
    python -m benchmarks.tokfsm seeds runs/tokfsm-*                                 # folders of runs of one scale

Runs nothing. The interval is Student's, 95 %, over seeds: how far the mean over all seeds may be from this one, where
those of a single run (``table.md``) are over its sequences. Of fewer than three seeds there is none.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import t

from benchmarks.tokfsm.table import (
    NAMES,
    PHASE,
    PUBLISHED,
    PUBLISHED_JSD,
    PUBLISHED_PLAIN,
    PUBLISHED_PRECISION,
    form_of,
)

RESULTS = Path(__file__).parents[1] / "results" / "tokfsm"
CONTROLLED = {"loss": "loss", "transition_accuracy": "state accuracy: transitions sampled"}
ARMS = ("codebooks", "untrained k-means", "another pair's codes")
AIMS = {"loss": "≤ 1.20", "transition_accuracy": "≥ 90 %"}


class Row(NamedTuple):
    """One number of every seed, and what it is beside."""

    name: str
    values: list[float]
    published: float | None = None
    aim: str = ""
    form: str = ".1%"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="*", help="result files, or folders with a result.json")
    parser.add_argument(
        "--summary", type=Path, help="JSON of the shares right, which the page Evaluation draws"
    )


def main(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    paths = [run / "result.json" if run.is_dir() else run for run in given.runs] or RESULTS.glob("cpu-*.json")
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    scales = {result["recipe"]["scale"] for result in results}
    if len(scales) != 1:
        parser.error(f"runs of the scales {', '.join(sorted(scales))}: give those of one")
    recipes = [{**result["recipe"], "seed": None} for result in results]
    for key in sorted(set().union(*recipes)):
        if len(values := {str(recipe.get(key)) for recipe in recipes}) > 1:
            parser.error(f"runs with {key} {', '.join(sorted(values))}: give those of one recipe")
    results.sort(key=lambda result: result["recipe"]["seed"])
    if given.summary is not None:
        given.summary.write_text(json.dumps(summary(results), indent=1) + "\n", encoding="utf-8")
    seeds = [f"seed {result['recipe']['seed']}" for result in results]
    table = Table("", *seeds, "mean [95 % over seeds]", "published", "aim", box=None)
    for row in rows(results):
        cells = [format(value, row.form) for value in row.values]
        published = "" if row.published is None else format(row.published, row.form)
        table.add_row(row.name, *cells, _interval(row), published, row.aim)
    Console(width=150, highlight=False).print(table)


def rows(results: list[dict[str, Any]]) -> Iterator[Row]:
    """The numbers that were published, and those that an aim was set for, from one result a seed."""

    def scores(arm: str, key: str) -> list[float]:
        return [result["scores"][arm][key]["mean"] for result in results]

    for key, name in NAMES.items():
        yield Row(name, scores("codebooks", key), PUBLISHED[key], AIMS.get(key, ""), form_of(key))
    for key, name in CONTROLLED.items():
        yield Row(
            f"{name}, no codebooks", scores("no codebooks", key), PUBLISHED_PLAIN[key], "", form_of(key)
        )
        yield Row(f"{name}, untrained k-means", scores("untrained k-means", key), form=form_of(key))
    for key, name in PHASE.items():
        if all(key in result["scores"]["codebooks"] for result in results):  # runs made before have none
            yield Row(name, scores("codebooks", key), form=form_of(key))
            yield Row(f"{name}, no codebooks", scores("no codebooks", key), form=form_of(key))
    codes = [result["codes"]["codebooks"] for result in results]
    yield Row("alive, mean of books", [one["alive_mean"] for one in codes], None, "≥ 50 %")
    untrained = [result["codes"]["untrained k-means"] for result in results]
    precision, recall = (
        [one["state"]["best"][part]["mean"] for one in codes] for part in ("precision", "recall")
    )
    yield Row("state precision", precision, PUBLISHED_PRECISION["codes"], "≥ 97.1 %")
    yield Row("at a recall of", recall)
    yield Row("untrained k-means'", [one["state"]["best"]["precision"]["mean"] for one in untrained])
    neuron = [one["neuron_precision"]["mean"] for one in codes]
    yield Row("the best neuron's", neuron, PUBLISHED_PRECISION["neuron"])
    for key, aim in (("all MLP", "≤ 0.26"), ("all attention", "")):
        for arm in ARMS:
            left = [result["intervention"][arm][key] for result in results]
            name, given = ("", (PUBLISHED_JSD[key], aim)) if arm == "codebooks" else (f", {arm}", (None, ""))
            yield Row(f"divergence left, codes of {key} set{name}", left, *given, ".2f")


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shares right by arm, over at least three seeds."""
    published = {"codebooks": PUBLISHED, "no codebooks": PUBLISHED_PLAIN}
    found = []
    for key, name in NAMES.items():
        for arm in results[0]["scores"] if key != "loss" else ():
            mean, half = _mean([result["scores"][arm][key]["mean"] for result in results])
            row = {"measure": name.replace("state accuracy: ", "states: "), "arm": arm}
            row |= {"mean": mean, "low": mean - half, "high": mean + half}
            found.append(row | {"published": published.get(arm, {}).get(key)})
    return found


def _interval(row: Row) -> str:
    if len(row.values) < 3:
        return format(float(np.mean(row.values)), row.form)
    mean, half = _mean(row.values)
    low, high = (format(value, row.form) for value in (mean - half, mean + half))
    return f"{mean:{row.form}} [{low}, {high}]"


def _mean(values: list[float]) -> tuple[float, float]:
    """Mean over seeds, and half its interval."""
    n = len(values)
    return float(np.mean(values)), float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
