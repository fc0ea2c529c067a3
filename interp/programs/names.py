"""What codes stand for: the variable that they tell, and the value of each code.

A variable's *AMI* is its adjusted mutual information with the code over held-out prompts, clean and corrupt: 0 for no
relation, 1 for the same partition. Its null permutes codes among prompts of the same side that agree in the other
variables, so that a code which only tells the two sides apart, or the template, gets no other name for it.

A name says what a code can be read as, not that anything reads it so: that is what interchange is for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from interp.prompts.pairs import Value
from interp.prompts.variables import Variable

PERMUTATIONS = 999
SIGNIFICANT = 0.05
STRATUM = 5
"""Prompts that a stratum has in the mean."""
CLEAR = 0.5
"""Share of a code's training prompts that have the value which it gets."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class Name:
    """
    Attributes:
        ami, ami_null: of held-out prompts; the null's mean over permutations.
        q: Benjamini–Hochberg, over all slots and variables.
        accuracy: share of held-out prompts whose value is that of their code.
        commonest: share that the commonest value of the training prompts gets right.
        values: of the codes that have one.
    """

    variable: str
    ami: float
    ami_null: float
    q: float
    accuracy: float
    commonest: float
    values: dict[int, Value]


def name_codes(
    fitted: Mapping[Key, Int[np.ndarray, "side pair"]],
    judged: Mapping[Key, Int[np.ndarray, "side held_out"]],
    variables: Sequence[Variable],
    n_fitted: int,
    seed: int = 0,
) -> dict[Key, list[Name]]:
    """The variables that each slot tells, that of highest AMI first: those that are significant and better told than by
    their commonest value.

    Args:
        fitted: codes of the prompts that they were fitted to.
        judged: codes of held-out prompts.
        variables: of both, those of ``fitted`` first.
        n_fitted: pairs of ``fitted``.
    """
    from scipy.stats import false_discovery_control  # half a second

    rng = np.random.default_rng(seed)
    usable = [variable for variable in variables if variable.fault is None]
    tests: list[tuple[Key, Variable, float, float, float]] = []
    for variable in usable:
        values = variable.ids[:, n_fitted:].ravel()
        if len(np.unique(values)) < 2:
            continue
        strata = _strata(variable, usable, n_fitted)
        orders = np.stack([_permuted(strata, rng) for _ in range(PERMUTATIONS)])
        for key, codes in judged.items():
            if len(np.unique(codes)) > 1:
                tests.append((key, variable, *_ami(codes.ravel(), values, orders)))
    q = false_discovery_control([p for *_, p in tests]) if tests else ()
    found: dict[Key, list[Name]] = {key: [] for key in judged}
    for (key, variable, ami, null, _), one in zip(tests, q, strict=True):
        if one <= SIGNIFICANT:
            name = _name(variable, fitted[key], judged[key], n_fitted, (ami, null, float(one)))
            found[key] += [name] * (name.accuracy > name.commonest)
    return {key: sorted(names, key=lambda name: -name.ami) for key, names in found.items()}


def _name(
    variable: Variable,
    fitted: Int[np.ndarray, "side pair"],
    judged: Int[np.ndarray, "side held_out"],
    n_fitted: int,
    told: tuple[float, float, float],
) -> Name:
    before, after = variable.ids[:, :n_fitted].ravel(), variable.ids[:, n_fitted:].ravel()
    table = contingency(fitted.ravel(), before, int(fitted.max()) + 1, len(variable.values))
    predicted = table.argmax(1)
    clear = (table.max(1) >= CLEAR * table.sum(1)) & (table.sum(1) > 0)
    codes = judged.ravel()
    known = codes < len(predicted)
    right = np.zeros(len(codes), dtype=bool)
    right[known] = predicted[codes[known]] == after[known]
    values = {int(code): variable.values[predicted[code]] for code in np.flatnonzero(clear)}
    commonest = float((after == np.bincount(before).argmax()).mean())
    return Name(variable.name, *told, float(right.mean()), commonest, values)


def contingency(
    rows: Int[np.ndarray, " prompt"], columns: Int[np.ndarray, " prompt"], height: int, width: int
) -> Int[np.ndarray, "{height} {width}"]:
    """How often each row goes with each column."""
    return np.bincount(rows * width + columns, minlength=height * width).reshape(height, width)


def _strata(variable: Variable, others: Sequence[Variable], n_fitted: int) -> Int[np.ndarray, " prompt"]:
    """Which prompts may exchange their codes: same side, and same values of the other variables.

    The others are added one by one, those of fewest values first, as long as the variable still varies within strata
    and these have :data:`STRATUM` prompts in the mean.
    """
    values = variable.ids[:, n_fitted:]
    strata = np.repeat([0, 1], values.shape[1])
    for other in sorted(others, key=lambda other: len(np.unique(other.ids[:, n_fitted:]))):
        both = np.stack([strata, other.ids[:, n_fitted:].ravel()])
        finer = np.unique(both, axis=1, return_inverse=True)[1].ravel()
        pairs = len(np.unique(np.stack([finer, values.ravel()]), axis=1).T)
        varies = pairs > finer.max() + 1
        if other is not variable and varies and len(finer) >= STRATUM * (finer.max() + 1):
            strata = finer
    return strata


def _permuted(strata: Int[np.ndarray, " prompt"], rng: np.random.Generator) -> Int[np.ndarray, " prompt"]:
    """A random order that leaves every prompt in its stratum."""
    order = np.empty(len(strata), dtype=int)
    order[np.argsort(strata, kind="stable")] = np.lexsort((rng.random(len(strata)), strata))
    return order


def _ami(
    codes: Int[np.ndarray, " prompt"],
    values: Int[np.ndarray, " prompt"],
    orders: Int[np.ndarray, "draw prompt"],
) -> tuple[float, float, float]:
    """AMI, its mean over the permutations, and how rarely one of them reaches it."""
    from sklearn.metrics.cluster import expected_mutual_information

    codes, values = (np.unique(labels, return_inverse=True)[1] for labels in (codes, values))
    n, width = len(codes), int(values.max()) + 1
    table = contingency(codes, values, int(codes.max()) + 1, width)
    permuted = (np.bincount(c * width + values) for c in codes[orders])
    weighted = np.arange(n + 1) * np.log(np.maximum(np.arange(n + 1), 1))  # count · log count
    rows, columns, *both = (
        weighted[counts].sum() / n - np.log(n)
        for counts in (table.sum(1), table.sum(0), table.ravel(), *permuted)
    )
    information = np.array(both) - rows - columns
    expected = expected_mutual_information(table, n)
    ami = (information - expected) / ((-rows - columns) / 2 - expected)
    reached = int((information[1:] >= information[0] - 1e-9).sum())
    return float(ami[0]), float(ami[1:].mean()), (1 + reached) / (1 + len(orders))


def usual_codes(
    codes: Int[np.ndarray, "side pair"], values: Int[np.ndarray, "side pair"], n_values: int, least: int
) -> Int[np.ndarray, " value"]:
    """The commonest code of each value; −1 where fewer than ``least`` prompts have it."""
    table = contingency(values.ravel(), codes.ravel(), n_values, int(codes.max()) + 1)
    return np.where(table.sum(1) >= least, table.argmax(1), -1)


def class_means(
    z: Float[np.ndarray, "side pair d"], values: Int[np.ndarray, "side pair"], n_values: int
) -> Float[np.ndarray, "value d"]:
    """Mean of z by value: the baseline without codes; NaN where no prompt has the value."""
    sums, counts = np.zeros((n_values, z.shape[-1])), np.bincount(values.ravel(), minlength=n_values)
    np.add.at(sums, values.ravel(), z.reshape(-1, z.shape[-1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums / counts[:, None]
