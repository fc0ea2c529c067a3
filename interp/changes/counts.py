"""Codes that one model has and the other has not, counted: exact tests over stretches of text."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import binom, false_discovery_control

from interp.bottlenecks.base import NO_CODE
from interp.changes.reading import Reading

ALPHA = 0.05


def least_blocks(n_codes: int) -> int:
    """Stretches that it takes for the smallest possible p to count among so many codes."""
    return int(np.ceil(1 + np.log2(n_codes / ALPHA)))


def sign_test(more: Int[np.ndarray, " n"], less: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Two-sided p of so many stretches with more and with less, where each was as likely; 1 without any."""
    return np.minimum(1.0, 2 * binom.cdf(np.minimum(more, less), more + less, 0.5))


def only_in(first: Shaped[np.ndarray, "token k"], second: Shaped[np.ndarray, "token k"]) -> Bool[np.ndarray, "token k"]:
    """Which codes of the first stand at a token where the second has them not."""
    if first.shape[1] == 1 == second.shape[1]:
        return (first != second) & (first != NO_CODE)
    return ~(first[:, :, None] == second[:, None, :]).any(2) & (first != NO_CODE)


@dataclass(frozen=True)
class Counts:
    """Of every code of all books, one row each."""

    starts: dict[str, int]  # the first row of every book
    # base, tuned: tokens that have it in either model
    base: Int[np.ndarray, " code"]
    tuned: Int[np.ndarray, " code"]
    # p, q: of the sign test over stretches; q over all codes that are ever on
    p: Float[np.ndarray, " code"]
    q: Float[np.ndarray, " code"]

    def book_of(self, row: int) -> tuple[str, int]:
        names, begins = list(self.starts), np.array(list(self.starts.values()))
        i = int(np.searchsorted(begins, row, side="right")) - 1
        return names[i], row - int(begins[i])


def count_codes(base: Reading, tuned: Reading, n_codes: dict[str, int], context: int) -> Counts:
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("base", "tuned", "p")}
    starts, total = {}, 0
    for name, n in n_codes.items():
        starts[name], total = total, total + n
        before, after = base.ids[name], tuned.ids[name]
        for model, ids in (("base", before), ("tuned", after)):
            columns[model].append(np.bincount(ids[ids != NO_CODE], minlength=n)[:n])
        columns["p"].append(_p(before, after, n, context))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    ever_on, q = joined["base"] + joined["tuned"] > 0, np.ones(total)
    if ever_on.any():
        q[ever_on] = false_discovery_control(joined["p"][ever_on])
    return Counts(starts, q=q, **joined)


def _p(before: np.ndarray, after: np.ndarray, n: int, context: int) -> Float[np.ndarray, " code"]:
    n_blocks = -(-len(before) // context)
    block = np.broadcast_to(np.arange(len(before))[:, None] // context, before.shape)

    def counted(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        keys = ids[mask].astype(np.int64) * n_blocks + block[mask]
        return np.bincount(keys, minlength=n * n_blocks)

    change = counted(after, only_in(after, before)) - counted(before, only_in(before, after))
    change = change.reshape(n, n_blocks)
    return sign_test((change > 0).sum(1), (change < 0).sum(1))
