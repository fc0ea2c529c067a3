"""From noisy estimates of effects to the probability that each head is a member of the circuit.

A head is a member if its mean effect, over all prompts that a task could give, is at least a share of the
clean–corrupt gap. A score from n pairs is an estimate of that mean with an error of its own, and the error differs
from head to head by orders of magnitude. Ranking by the estimate alone puts a noisy head above a sure one. So:

1. Each head's variance over pairs is shrunk towards that of all heads, because five or ten pairs say little about a
   variance (Smyth 2004, *Statistical Applications in Genetics and Molecular Biology* 3:3).
2. Effects have a common prior, a mixture of normals around 0 of many widths, whose weights are fitted to the
   estimates of all heads by EM (empirical Bayes; Stephens 2017, *Biostatistics* 18:275): most heads do nothing,
   a few do a lot, and the data say how many. Common to all is the prior of effect / error^α (``alpha`` of his
   ``ashr``). With α = 0 an estimate that varies a lot over pairs is taken for one of the many heads that do nothing;
   but those vary little, and what does a lot varies a lot. So α too is what makes the estimates likeliest, of
   :data:`POWERS`.
3. What is left is a posterior of every head's effect; from it P(|effect| ≥ threshold), and the expected size of the
   effect where it is above the threshold, which ranks heads.

It misleads where estimates are biased and the bias is not in ``variance``: a gradient that is blind to a head is sure
of its mistake. A bias that is added in proportion to the estimate makes α larger by itself, as errors then go with
estimates whatever effects do (benchmarks/REPORT.md).

Where the estimates come from: a head's effect on a pair is what attribution says, known of all n pairs, and a residual,
known of the r pairs on which the head was patched. So (a control variate, in the language of Monte Carlo)

    estimate = mean over n of attribution + mean over r of (exact − attribution),

whose error is what n pairs leave open of the effect plus what r of n leave open of the residual. How much effects
differ over pairs is what they do as attribution does, known from all n pairs, plus what they do otherwise, seen on the
r patched ones (the two terms of a regression estimator's variance; Cochran 1977, *Sampling Techniques*, §12.6). A head
that was never patched has an unknown bias; its size is taken from the heads that were, in units of each head's own rms
attribution.

Patches are spent on heads with large P(1 − P) / (r + step). Of a head that was never patched P is held to be
:data:`TRUST` at most: attribution can be sure of a member and quite wrong. (Of a head to which it is blind it is
as sure; looking at those would take patches of all the many that do nothing.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import newton
from scipy.special import digamma, polygamma
from scipy.stats import norm

from interp.errors import InputError

POWERS = (0.0, 0.5, 1.0, 1.5, 2.0)  # α: of the error, to which effects are in proportion
N_WIDTHS = 32
"""Normals in the prior of effect / error^α: next to nothing, then from a tenth of the smallest error to twice the
largest effect, both in the same unit."""
_NOTHING = 1e-4  # of the smallest width; a width of 0 would divide by it
EM_STEPS = 100
_PSEUDO_COUNT = 0.05  # keeps every width possible
NULL_COUNT = 10.0
"""Heads that the normal next to nothing has beforehand, so that where the errors are large a head counts as one that
does nothing unless its estimate says otherwise (``nullweight`` of Stephens' ``ashr``, its default). Among a few heads
only it weighs more than they do: the posterior is then too modest."""


@dataclass(frozen=True)
class Membership:
    """The posterior of every head's mean effect."""

    mean: Float[np.ndarray, " head"]  # posterior mean, shrunk towards 0, in units of the metric
    probability: Float[np.ndarray, " head"]  # P(|effect| ≥ threshold)
    # E[|effect|; |effect| ≥ threshold], the size that a member's effect is expected to have times the probability that
    # it is one; ranks heads
    expected: Float[np.ndarray, " head"]
    threshold: float  # in units of the metric


def at_false_discovery_rate(probability: Float[np.ndarray, "..."], rate: float) -> Bool[np.ndarray, "..."]:
    """The largest set, most probable first, whose expected share of non-members stays below ``rate``, in (0, 1).

    The Bayesian counterpart of Benjamini and Hochberg's rule (Newton et al. 2004, *Biostatistics* 5:155): as right as
    the probabilities are. benchmarks/REPORT.md says what share was found to be wrong.
    """
    if not 0 < rate < 1:
        raise InputError(f"false-discovery rate {rate}: it is a share of the circuit, above 0 and below 1")
    order = np.argsort(-probability, axis=None, kind="stable")
    expected_false = np.cumsum(1 - probability.ravel()[order]) / np.arange(1, len(order) + 1)
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[: int((expected_false <= rate).sum())]] = True
    return chosen.reshape(probability.shape)


def moderated_variance(per_pair: Float[np.ndarray, "pair head"]) -> Float[np.ndarray, " head"]:
    """Variance over pairs of each head, shrunk to the common one by as much as the heads agree (Smyth 2004, §3)."""
    pairs, heads = per_pair.shape
    if pairs < 2:
        raise InputError(f"{pairs} pairs: a variance over pairs needs at least 2")
    variance = per_pair.var(axis=0, ddof=1)
    seen = variance > 0
    if heads < 3 or seen.sum() < 3:
        return variance
    freedom = pairs - 1
    logs = np.log(variance[seen]) - digamma(freedom / 2) + np.log(freedom / 2)
    # how much more the log variances differ than they would by chance gives the weight of the common one
    spread = max(float(logs.var(ddof=1) - polygamma(1, freedom / 2)), 1e-3)
    prior_freedom = 2 * _inverse_trigamma(spread)
    common = np.exp(logs.mean() + digamma(prior_freedom / 2) - np.log(prior_freedom / 2))
    return (prior_freedom * common + freedom * variance) / (prior_freedom + freedom)


def membership(
    estimate: Float[np.ndarray, " head"], variance: Float[np.ndarray, " head"], *, gap: float, threshold: float
) -> Membership:
    """Posterior of effects (module docstring). ``variance`` is of the estimate's error: of the mean over pairs, plus
    what is known of its bias. An effect makes a member from ``threshold`` of the gap's size on."""
    bad = (~np.isfinite(estimate) | ~np.isfinite(variance)).sum()
    if not len(estimate) or bad:
        raise InputError(f"{len(estimate)} effects, {bad} of them NaN or infinite: give finite ones")
    gap = abs(gap)
    if gap == 0 or not np.isfinite(gap):
        raise InputError(
            f"the model's scores on clean and corrupt prompts have a gap of {gap:.3g}: "
            "it does not do this task, so there is no circuit to find"
        )
    limit = threshold * gap
    error = np.sqrt(np.maximum(variance, (1e-6 * gap) ** 2))
    priors = [_fitted_prior(estimate, error, power) for power in POWERS]
    _, share, width = max(priors, key=lambda prior: prior[0])
    total = width + error[:, None] ** 2
    mean = width / total * estimate[:, None]
    deviation = np.sqrt(width / total) * error[:, None]
    above, below = (limit - mean) / deviation, (-limit - mean) / deviation
    beyond = norm.sf(above), norm.cdf(below)
    size = mean * (beyond[0] - beyond[1]) + deviation * (norm.pdf(above) + norm.pdf(below))
    return Membership(
        mean=(share * mean).sum(axis=1),
        probability=(share * (beyond[0] + beyond[1])).sum(axis=1).clip(0, 1),
        expected=(share * size).sum(axis=1),
        threshold=limit,
    )


def _fitted_prior(
    estimate: Float[np.ndarray, " head"], error: Float[np.ndarray, " head"], power: float
) -> tuple[float, Float[np.ndarray, "head width"], Float[np.ndarray, "head width"]]:
    """Log-likelihood of the estimates, each head's share in each normal of the prior, and their variances."""
    unit = error**power
    least = (error / unit).min() / 10
    most = max(2 * np.abs(estimate / unit).max(), 10 * least)
    widths = np.array([_NOTHING * least, *np.geomspace(least, most, N_WIDTHS - 1)])
    width = (widths * unit[:, None]) ** 2
    total = width + error[:, None] ** 2
    log_likelihood = -0.5 * (estimate[:, None] ** 2 / total + np.log(total))
    largest = log_likelihood.max(axis=1, keepdims=True)
    likelihood = np.exp(log_likelihood - largest)
    weights, beforehand = np.full(N_WIDTHS, 1 / N_WIDTHS), np.full(N_WIDTHS, _PSEUDO_COUNT)
    beforehand[0] += NULL_COUNT
    for _ in range(EM_STEPS):
        counts = weights * (likelihood.T @ (1 / (likelihood @ weights)))
        weights = (counts + beforehand) / (len(estimate) + beforehand.sum())
    evidence = likelihood @ weights
    share = likelihood * weights / evidence[:, None]
    return float((np.log(evidence) + largest[:, 0]).sum()), share, width


def _inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = value, by Newton's method on the reciprocals (Smyth 2004, appendix)."""
    return newton(
        lambda x: 1 / polygamma(1, x) - 1 / value,
        0.5 + 1 / value,
        fprime=lambda x: -polygamma(2, x) / polygamma(1, x) ** 2,
        rtol=1e-10,
    )


FIRST_BIAS = 0.3  # bias in units of rms attribution that is assumed until heads have been patched
ENOUGH_PATCHED = 8  # heads that must have been patched before their bias is believed of the others
TRUST = 0.9  # probability of membership that attribution alone can bring a head to, when patches are chosen
ROUNDS = 4  # patches are chosen this many times; more rounds choose better and batch worse
STEP = 3  # pairs that a chosen head is patched on before the next look
TIE_BREAK = 1e-6  # how an effect that is surely below the threshold counts: enough to order such heads
FLIPS = 4000  # permutations of the labels
_PRIOR_WEIGHT = 3.0  # how many patches the common size of residuals, and a slope of 1, are worth beside a head's own


class EffectEstimates:
    """Attribution of all pairs, exact effects of some, and the :func:`membership` that follows. ``pairs`` is the order
    in which pairs are patched, the same for every head: so patches share forwards."""

    def __init__(
        self, attribution: Float[np.ndarray, "pair head"], gap: float, threshold: float, pairs: np.ndarray
    ) -> None:
        self.attribution, self.gap, self.threshold = attribution, gap, threshold
        self.exact = np.full(attribution.shape, np.nan)
        self._order = pairs
        self._variance = moderated_variance(attribution)
        self._rms = np.sqrt((attribution**2).mean(axis=0))

    @property
    def patched(self) -> np.ndarray:
        """Number of pairs on which each head was patched [head]."""
        return np.isfinite(self.exact).sum(axis=0)

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

    def p_values(self, seed: int, flips: int = FLIPS) -> Float[np.ndarray, " head"]:
        """Two-sided p-value of every head's estimate under permuted clean/corrupt labels: of no effect at all.

        A permutation turns the signs of what is known of a pair, attribution and exact effect together, and the
        estimate is made again; so a head that was patched on few pairs, where the patches say something else than
        attribution, cannot be sure. Of a head that was never patched it says that attribution is not by chance. The
        observed labels count as one of the permutations, so that p is never 0 (Phipson & Smyth 2010).
        """
        n, done = len(self.attribution), np.maximum(self.patched, 1)
        residual = np.nan_to_num(self.exact - self.attribution)
        parts = self.attribution / n + residual / done
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(flips, n))
        as_large = (np.abs(signs @ parts) >= np.abs(parts.sum(axis=0)) * (1 - 1e-12)).sum(axis=0)
        return (as_large + 1) / (flips + 1)

    def patch_until(
        self,
        cost: Float[np.ndarray, " head"],
        budget: float,
        patch: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]],
        report_progress: Callable[[float], None] = lambda _share: None,
    ) -> float:
        """Patch, in :data:`ROUNDS` rounds, where membership is open, until the budget is spent; return what was.
        ``cost`` is of a patch on one pair, at most; ``patch`` gives the exact effects of heads on pairs and what they
        did cost."""
        left = budget
        # a round that cannot pay for one head would pass over the dearest ones, which are those in early layers
        a_round = max(budget / ROUNDS, STEP * float(cost.max()))
        while True:
            pairs, heads = self.next_patches(cost, min(left, a_round), STEP)
            if len(pairs) == 0:
                return budget - left
            self.exact[pairs, heads], spent = patch(pairs, heads)
            left -= spent
            report_progress(1 - left / budget)

    def next_patches(self, cost: Float[np.ndarray, " head"], budget: float, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs and heads to patch next, ``step`` pairs a head, the most useful heads that the budget allows."""
        done = self.patched
        probability = self.membership().probability
        probability = np.where(done == 0, np.minimum(probability, TRUST), probability)
        value = probability * (1 - probability) / (done + step)
        value[(done >= len(self._order)) | (value < 1e-12)] = 0  # settled, but for rounding
        pairs, heads = [np.empty(0, dtype=int)], [np.empty(0, dtype=int)]
        for head in np.argsort(-value, kind="stable"):
            more = self._order[done[head] : done[head] + step]
            budget -= cost[head] * len(more)
            if value[head] <= 0 or budget < 0:
                break
            pairs.append(more)
            heads.append(np.full(len(more), head))
        return np.concatenate(pairs), np.concatenate(heads)
