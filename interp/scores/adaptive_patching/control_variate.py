"""Effects known from a cheap estimate on every pair and from activation patching on some: what is still uncertain?

A head's effect on a pair is what attribution says plus a residual. Attribution is there for all n pairs; the residual
only for the r pairs on which the head was patched. So (a control variate, in the language of Monte Carlo)

    estimate = mean over n of attribution + mean over r of (exact − attribution),

whose error is what n pairs leave open of the effect plus what r of n leave open of the residual. How much effects
differ over pairs is what they do as attribution does, known from all n pairs, plus what they do otherwise, seen on the
r patched ones (the two terms of a regression estimator's variance; Cochran 1977, *Sampling Techniques*, §12.6). A head
that was never patched has an unknown bias; its size is taken from the heads that were, in units of each head's own rms
attribution.

Patches are spent where membership is open and another patch narrows it: on heads with large P(1 − P) / (r + step). Of a
head that was never patched P is held to be :data:`TRUST` at most: attribution can be sure of a member and quite wrong.
(Of a head to which it is blind it is as sure; looking at those would take patches of all the many that do nothing.)
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from interp.scores.adaptive_patching.posterior import Membership, membership, moderated_variance

FIRST_BIAS = 0.3
"""Bias in units of rms attribution that is assumed until heads have been patched."""
ENOUGH_PATCHED = 8
"""Heads that must have been patched before their bias is believed of the others."""
TRUST = 0.9
"""Probability of membership that attribution alone can bring a head to, when patches are chosen."""
ROUNDS = 16
"""Patches are chosen this many times; more rounds choose better and batch worse."""
STEP = 3
"""Pairs that a chosen head is patched on before the next look."""
TIE_BREAK = 1e-6
"""How an effect that is surely below the threshold counts: enough to order such heads."""
FLIPS = 4000
"""Permutations of the labels."""
_PRIOR_WEIGHT = 3.0
"""How many patches the common size of residuals, and a slope of 1, are worth beside a head's own."""


class EffectEstimates:
    """Attribution of all pairs, exact effects of some, and the membership that follows.

    Args:
        attribution: of every pair and head.
        gap: of the metric; see :func:`~interp.scores.adaptive_patching.posterior.membership`.
        threshold: share of the gap.
        seed: of the order in which each head's pairs are patched.
    """

    def __init__(
        self,
        attribution: Float[np.ndarray, "pair head"],
        gap: float,
        threshold: float,
        pairs: np.ndarray,
        seed: int,
    ) -> None:
        self.attribution, self.gap, self.threshold = attribution, gap, threshold
        self.exact = np.full(attribution.shape, np.nan)
        generator = np.random.default_rng(seed)
        self._order = np.stack([generator.permutation(pairs) for _ in range(attribution.shape[1])])
        self._variance = moderated_variance(attribution)
        self._rms = np.sqrt((attribution**2).mean(axis=0))

    @property
    def patched(self) -> np.ndarray:
        """Number of pairs on which each head was patched [head]."""
        return np.isfinite(self.exact).sum(axis=0)

    def record(self, pairs: np.ndarray, heads: np.ndarray, effects: np.ndarray) -> None:
        """Exact effects of some heads on some pairs, one of each a row."""
        self.exact[pairs, heads] = effects

    def bias(self) -> float:
        """Typical size of attribution's bias, in units of a head's rms attribution."""
        done = (self.patched > 0) & (self._rms > 0)
        if done.sum() < ENOUGH_PATCHED:
            return FIRST_BIAS
        residual = np.nanmean((self.exact - self.attribution)[:, done], axis=0)
        # the median, because one head that attribution gets wrong by 5 x says little about the others
        return max(0.1, 1.4826 * float(np.median(np.abs(residual) / self._rms[done])))

    def estimate(self) -> tuple[Float[np.ndarray, " head"], Float[np.ndarray, " head"]]:
        """Estimate of every head's mean effect and the variance of its error."""
        n, done = len(self.attribution), self.patched
        typical = (self.bias() * self._rms) ** 2
        residual = self.exact - self.attribution
        known = done > 0
        shift = np.zeros(len(done))
        shift[known] = np.nanmean(residual[:, known], axis=0)
        spread = np.nansum((residual - shift) ** 2, axis=0)
        spread = (_PRIOR_WEIGHT * typical + spread) / (_PRIOR_WEIGHT + np.maximum(done - 1, 0))
        open_residual = np.where(known, spread * (1 / np.maximum(done, 1) - 1 / n), typical)
        return self.attribution.mean(axis=0) + shift, self._effect_variance() / n + open_residual

    def _effect_variance(self) -> Float[np.ndarray, " head"]:
        """Variance of every head's effects over pairs: attribution's, times the square of the slope of exact effects
        on it, plus what is left about that line. Of heads that were never patched the slope is held to be 1.

        A slope that is drawn towards 1 leaves errors too large where attribution is too large (with ten pairs and three
        times the effects by half) and too small where it is too small (by a fifth at .3 times).
        """
        known, done = np.isfinite(self.exact), np.maximum(self.patched, 1)
        exact, attribution = (
            np.where(known, values - np.where(known, values, 0).sum(axis=0) / done, 0)
            for values in (self.exact, self.attribution)
        )
        prior = _PRIOR_WEIGHT * self._variance
        scale = np.maximum(prior + (attribution**2).sum(axis=0), np.finfo(float).tiny)
        slope = (prior + (attribution * exact).sum(axis=0)) / scale
        left = ((exact - slope * attribution) ** 2).sum(axis=0) / np.maximum(done - 1, 1)
        return slope**2 * self._variance + left

    def membership(self) -> Membership:
        estimate, variance = self.estimate()
        return membership(estimate, variance, gap=self.gap, threshold=self.threshold)

    def per_pair(self) -> Float[np.ndarray, "pair head"]:
        """Effects by pair: exact where patched, attribution plus the head's mean residual elsewhere."""
        estimate, _ = self.estimate()
        guessed = self.attribution + (estimate - self.attribution.mean(axis=0))
        return np.where(np.isfinite(self.exact), self.exact, guessed)

    def p_values(self, seed: int, flips: int = FLIPS) -> Float[np.ndarray, " head"]:
        """Two-sided p-value of every head's estimate under permuted clean/corrupt labels: of no effect at all.

        A permutation turns the signs of what is known of a pair, attribution and exact effect together, and the
        estimate is made again; so a head that was patched on few pairs, where the patches say something else than
        attribution, cannot be sure. Of a head that was never patched it says that attribution is not by chance, and
        attribution's bias is open. The observed labels count as one of the permutations, so that p is never 0
        (Phipson & Smyth 2010).
        """
        n, done = len(self.attribution), np.maximum(self.patched, 1)
        residual = np.nan_to_num(self.exact - self.attribution)
        parts = self.attribution / n + residual / done
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(flips, n))
        as_large = (np.abs(signs @ parts) >= np.abs(parts.sum(axis=0)) * (1 - 1e-12)).sum(axis=0)
        return (as_large + 1) / (flips + 1)

    def spend(
        self,
        cost: Float[np.ndarray, " head"],
        budget: float,
        patch: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]],
        tell: Callable[[float], None] = lambda _share: None,
    ) -> float:
        """Patch, in :data:`ROUNDS` rounds, where membership is open, until the budget is spent; return what was.

        Args:
            cost: of patching a head on one pair, at most.
            patch: given pairs and heads, their exact effects and what they did cost.
            tell: told which share of the budget is spent.
        """
        left = budget
        # a round that cannot pay for one head would pass over the dearest ones, which are those in early layers
        a_round = max(budget / ROUNDS, STEP * float(cost.max()))
        while True:
            pairs, heads = self.next_patches(cost, min(left, a_round), STEP)
            if len(pairs) == 0:
                return budget - left
            effects, spent = patch(pairs, heads)
            self.record(pairs, heads, effects)
            left -= spent
            tell(1 - left / budget)

    def next_patches(
        self, cost: Float[np.ndarray, " head"], budget: float, step: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pairs and heads to patch next, ``step`` pairs a head, the most useful heads that the budget allows.

        Args:
            cost: of patching a head on one pair.
        """
        done = self.patched
        probability = self.membership().probability
        probability = np.where(done == 0, np.minimum(probability, TRUST), probability)
        value = probability * (1 - probability) / (done + step)
        value[done >= self._order.shape[1]] = 0
        pairs, heads = [], []
        for head in np.argsort(-value, kind="stable"):
            more = self._order[head, done[head] : done[head] + step]
            budget -= cost[head] * len(more)
            if value[head] <= 0 or budget < 0:
                break
            pairs.append(more)
            heads.append(np.full(len(more), head))
        if not pairs:
            return np.empty(0, dtype=int), np.empty(0, dtype=int)
        return np.concatenate(pairs), np.concatenate(heads)
