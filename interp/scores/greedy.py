"""Greedy pruning of a graph, and a sweep of its threshold: the search of ACDC, whatever is pruned.

Conmy et al. 2023 (arXiv 2304.14997), Algorithm 1. Nothing here knows a model: parts are numbers, and ``damage``
tells how far the graph without a set of parts is from the whole.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float

Damage = Callable[[int, list[frozenset[int]]], list[float]]
"""(group, sets of removed parts) -> damage of each set; all parts of the sets lie in this group or earlier ones."""


class Pruner:
    """
    Args:
        groups: parts in the order in which they are tried, cut into groups that ``damage`` can measure together.
        most: sets measured in one call.
        canonical: gives sets of removed parts that leave the same graph the same key.
        advance: told how many parts have just been decided.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        damage: Damage,
        most: int,
        canonical: Callable[[frozenset[int]], Hashable] = lambda removed: removed,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.groups, self.damage, self.most = groups, damage, most
        self.canonical, self.advance = canonical, advance
        self.size = 1 + max(part for group in groups for part in group)
        self._known: dict[Hashable, float] = {}
        """Thresholds of a sweep often stand before the same graph; no graph is measured twice."""

    def prune(self, threshold: float) -> tuple[Bool[np.ndarray, " part"], Float[np.ndarray, " part"]]:
        """Try every part once; return which survive, and the rise of the damage when each was tried.

        A part goes when the rise is below the threshold. Several are tried in one call, each with the ones before it
        gone; from the first that stays on, the guesses are worthless and are made anew.
        """
        rise = np.zeros(self.size)
        kept = np.zeros(self.size, dtype=bool)
        removed: frozenset[int] = frozenset()
        current, ahead = 0.0, 1
        for number, group in enumerate(self.groups):
            begin = 0
            while begin < len(group):
                tried = group[begin : begin + ahead]
                sets = [removed | frozenset(tried[: i + 1]) for i in range(len(tried))]
                for part, trial, value in zip(tried, sets, self._measure(number, sets), strict=True):
                    begin += 1
                    rise[part] = value - current
                    if not rise[part] < threshold:
                        kept[part], ahead = True, 1
                        break
                    removed, current = trial, value
                else:
                    ahead = min(2 * ahead, self.most)
            self.advance(len(group))
        return kept, rise

    def sweep(self, thresholds: Sequence[float]) -> Float[np.ndarray, " part"]:
        """Score of every part: the largest threshold that it survives, made finer by its rise when tried there.

        A part that survives τ_k and not τ_k+1 gets its rise at τ_k (at most τ_k+1); one that survives none gets its
        rise at the smallest threshold, in [0, τ_0). One threshold alone gives the rise when tried.
        """
        ordered, scores = sorted(thresholds), np.empty(0)
        for k, threshold in enumerate(ordered):
            kept, rise = self.prune(threshold)
            above = ordered[k + 1] if k + 1 < len(ordered) else np.inf
            below = np.clip(rise, 0.0, threshold) if k == 0 else scores
            scores = np.where(kept, np.clip(rise, threshold, above), below)
        return scores

    def _measure(self, group: int, sets: list[frozenset[int]]) -> list[float]:
        keys = [self.canonical(trial) for trial in sets]
        unknown = {key: trial for key, trial in zip(keys, sets, strict=True) if key not in self._known}
        if unknown:
            self._known.update(zip(unknown, self.damage(group, list(unknown.values())), strict=True))
        return [self._known[key] for key in keys]
