"""What runs measured beside what was published: each seed and their mean."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t

from benchmarks.common import interval, print_table

PUBLISHED = {
    "codebooks": {
        "loss": 1.269,
        "token_accuracy": 0.4527,
        "transition_accuracy": 0.6365,
        "first_transition": 0.88,
        "top10_overlap": 0.975,
    },
    "no codebooks": {"loss": 1.179, "token_accuracy": 0.4636, "transition_accuracy": 0.9677},
}
"""Attention and MLP, k = 1, C = 10 000: the paper's Table 1, the model card, the tutorial; without codes: Table 1."""
PUBLISHED_ALIVE = (0.0031, 0.0465, 0.0651, 0.0181)
"""By layer, of the model card."""
PUBLISHED_PURITY = {"bigram": (0.0, 0.99, 0.96, 0.84), "trigram": (0.0, 0.91, 0.81, 0.66)}
"""Of MLP codes by layer, read off a plot, ± 0.01."""
PUBLISHED_PRECISION = {"codes": 0.971, "neuron": 0.705}
PUBLISHED_JSD = {"none": 1.0, "a0": 0.86, "m1": 0.71, "all attention": 0.56, "all MLP": 0.26, "all": 0.0}
"""Read off a chart, ± 0.01."""
NAMES = {
    "loss": "loss, nats a token",
    "token_accuracy": "token accuracy",
    "transition_accuracy": "state accuracy: transitions sampled",
    "first_transition": "state accuracy: first transition",
    "top10_overlap": "state accuracy: top-10 overlap",
}
PHASE = {
    "forbidden": "probability of forbidden digits a state, on true texts",
    "one_digit_off": "transitions sampled, read from the second digit on",
}
"""What state accuracy is short by: see ``accuracy``. Not published."""
FORMS = {"loss": ".3f", "forbidden": ".4f"}
AIMS = {"loss": "≤ 1.20", "transition_accuracy": "≥ 90 %"}
ANOTHER = "another pair's codes"
Value = Mapping[str, float]
"""A mean, perhaps with the ends of its interval over a run's sequences or states."""


class Row(NamedTuple):
    """One number of every run, and what it is beside."""

    name: str
    values: Sequence[Value]
    published: float | None = None
    aim: str = ""
    form: str = ".1%"


def rows(results: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Every number, from one result a seed."""
    for key, name in (NAMES | PHASE).items():
        for arm in results[0]["scores"]:
            if all(key in result["scores"][arm] for result in results):  # runs made before have no phase
                values = [result["scores"][arm][key] for result in results]
                aim = AIMS.get(key, "") if arm == "codebooks" else ""
                published = PUBLISHED.get(arm, {}).get(key)
                yield Row(_beside(name, arm), values, published, aim, FORMS.get(key, ".1%"))
    codes, untrained = ([result["codes"][arm] for result in results] for arm in ("codebooks", "untrained k-means"))
    yield Row("alive, mean of books", [{"mean": of["alive_mean"]} for of in codes], None, "≥ 50 %")
    for site in sorted(codes[0]["alive"]):
        values = [{"mean": float(np.mean(of["alive"][site]))} for of in codes]
        yield Row(f"alive, {site}", values, PUBLISHED_ALIVE[int(site[1:])])
    for kind, shares in PUBLISHED_PURITY.items():
        for site in (site for site in codes[0]["alive"] if site[0] == "m"):
            values = [{"mean": of["purity"][kind][site][0]} for of in codes]
            yield Row(f"purity of {kind}s, {site}", values, shares[int(site[1:])])
    for site, part in ((site, part) for site in codes[0]["state"] for part in ("precision", "recall")):
        known = (PUBLISHED_PRECISION["codes"], "≥ 97.1 %") if (site, part) == ("best", "precision") else ()
        name = f"state {part}, {'best MLP' if site == 'best' else site}"
        yield Row(name, [of["state"][site][part] for of in codes], *known)
    kmeans = [of["state"]["best"]["precision"] for of in untrained]
    yield Row("state precision, best MLP, untrained k-means", kmeans)
    neurons = [of["neuron_precision"] for of in codes]
    yield Row("state precision, best neuron at that recall", neurons, PUBLISHED_PRECISION["neuron"])
    for site in results[0]["intervention"]["codebooks"]:
        for arm in ("codebooks", "untrained k-means", ANOTHER):
            values = [{"mean": result["intervention"][arm][site]} for result in results]
            known = PUBLISHED_JSD.get(site), "≤ 0.26" if site == "all MLP" else ""
            name = _beside(f"divergence left, codes set: {site}", arm)
            yield Row(name, values, *(known if arm == "codebooks" else (None, "")), ".2f")


def _beside(name: str, arm: str) -> str:
    return name if arm == "codebooks" else f"{name}, {arm}"


def print_seeds(results: Sequence[Mapping[str, Any]]) -> None:
    """Each seed, their mean with its interval, and what it is beside."""
    cells = []
    for row in rows(results):
        values = [format(value["mean"], row.form) for value in row.values]
        over = None
        if len(results) > 2:
            over = interval(*_over_seeds(row.values), row.form)
        elif len(results) == 1 and "low" in row.values[0]:
            over = interval(*(row.values[0][end] for end in ("mean", "low", "high")), row.form)
        published = None if row.published is None else format(row.published, row.form)
        cells.append((row.name, *values, over, published, row.aim))
    seeds = (f"seed {result['recipe']['seed']}" for result in results)
    over = "mean [95 % over seeds]" if len(results) > 1 else "95 % over sequences or states"
    print_table(("", *seeds, over, "published", "aim"), cells)


def summary(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Shares right by arm, over at least three seeds."""
    summary_rows = []
    for key, name in NAMES.items():
        for arm in results[0]["scores"] if key != "loss" else ():
            row = {"measure": name.replace("state accuracy: ", "states: "), "arm": arm}
            ends = _over_seeds([result["scores"][arm][key] for result in results])
            row |= dict(zip(("mean", "low", "high"), ends, strict=True))
            summary_rows.append(row | {"published": PUBLISHED.get(arm, {}).get(key)})
    return summary_rows


def _over_seeds(values: Sequence[Value]) -> tuple[float, float, float]:
    """Their mean and Student's interval."""
    means, n = [value["mean"] for value in values], len(values)
    mean, half = np.mean(means), t.ppf(0.975, n - 1) * np.std(means, ddof=1) / np.sqrt(n)
    return float(mean), float(mean - half), float(mean + half)
