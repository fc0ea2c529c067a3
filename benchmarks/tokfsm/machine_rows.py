"""The finite-state experiment read back from ``result.json`` of ``interp reproduce tokfsm``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tokfsm.table import NAMES, PHASE
from interp.report.tables import read_rows

CODED = "codebooks"
"""The arm that is the experiment; the others are its controls."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """The model on its way: tokens read so far, and whether it had codebooks by then."""

    tokens: int
    coded: bool
    loss: float
    state_accuracy: float
    top10_overlap: float


@dataclass(frozen=True)
class Reproduction:
    """
    Attributes:
        scores: by arm and by the names of :data:`benchmarks.tokfsm.table.NAMES`, and of ``PHASE`` where the run has
        them.
        alive: share of codes alive by site, mean over the books there.
        purity: by ``bigram`` and ``trigram``, of each MLP, by site.
        precision: of states, by who tells them: codes, neurons, k-means.
        recall: of the codes.
        divergence: by arm and by where codes were set.
        n: how many sequences, samples and pairs.
    """

    scale: str
    seed: int
    n_codes: int
    tokens: int
    plain_tokens: int
    scores: Mapping[str, Mapping[str, Estimate]]
    alive: Mapping[str, float]
    purity: Mapping[str, Mapping[str, float]]
    precision: Mapping[str, Estimate]
    recall: Estimate
    divergence: Mapping[str, Mapping[str, float]]
    curve: Sequence[Point]
    n: Mapping[str, int]
    command: str


def read_reproduction(path: Path) -> Reproduction:
    """Read the file.

    Raises:
        InputError: not such a file, or one that was damaged.
    """
    return read_rows(
        path, _read, f"make it again with interp reproduce tokfsm --out {path.parent}, and its --scale"
    )


def _read(result: Mapping[str, Any]) -> Reproduction:
    codes, recipe = result["codes"], result["recipe"]
    ours, kmeans = codes[CODED], codes["untrained k-means"]
    best = ours["state"]["best"]
    if CODED not in result["scores"] or "pairs" not in result["n"]:
        raise ValueError("it does not score the model with codebooks, or not say on how many pairs")
    if CODED not in result["intervention"] or not ours["alive"]:
        raise ValueError("it does not say what setting codes does, or which are alive")
    return Reproduction(
        str(recipe["scale"]),
        int(recipe["seed"]),
        int(recipe["n_codes"]),
        int(result["tokens"]),
        int(result["plain_tokens"]),
        {str(a): _scores(by) for a, by in result["scores"].items()},
        {str(site): sum(map(float, rates)) / len(rates) for site, rates in ours["alive"].items()},
        {
            kind: {
                str(site): float(values[0]) for site, values in ours["purity"][kind].items() if site[0] == "m"
            }
            for kind in ("bigram", "trigram")
        },
        {
            "codes": _estimate(best["precision"]),
            "best neuron": _estimate(ours["neuron_precision"]),
            "untrained k-means": _estimate(kmeans["state"]["best"]["precision"]),
        },
        _estimate(best["recall"]),
        {str(a): {str(at): float(v) for at, v in by.items()} for a, by in result["intervention"].items()},
        tuple(
            Point(
                int(point["tokens"]),
                bool(point["coded"]),
                float(point["loss"]),
                float(point["transition_accuracy"]),
                float(point["top10_overlap"]),
            )
            for point in result["curve"]
        ),
        {str(name): int(value) for name, value in result["n"].items()},
        str(result["command"]),
    )


def _scores(by: Mapping[str, Any]) -> dict[str, Estimate]:
    """Numbers of one arm; results of earlier versions have none of the phase."""
    return {key: _estimate(by[key]) for key in (*NAMES, *(key for key in PHASE if key in by))}


def _estimate(value: Mapping[str, Any]) -> Estimate:
    return Estimate(*(float(value[part]) for part in ("mean", "low", "high")))
