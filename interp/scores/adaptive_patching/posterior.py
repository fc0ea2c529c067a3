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
of its mistake. :mod:`interp.scores.adaptive_patching.method` measures that bias and adds it. A bias that is added in
proportion to the estimate makes α larger by itself, as errors then go with estimates whatever effects do
(benchmarks/REPORT.md).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import digamma, polygamma
from scipy.stats import norm

from interp.errors import InputError

POWERS = (0.0, 0.5, 1.0, 1.5, 2.0)
"""α: of the error, to which effects are in proportion."""
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
    """The posterior of every head's mean effect.

    Attributes:
        mean: posterior mean, shrunk towards 0, in units of the metric.
        probability: P(|effect| ≥ threshold).
        expected: E[|effect|; |effect| ≥ threshold], the size that a member's effect is expected to have times the
            probability that it is one; ranks heads.
        threshold: in units of the metric.
    """

    mean: Float[np.ndarray, " head"]
    probability: Float[np.ndarray, " head"]
    expected: Float[np.ndarray, " head"]
    threshold: float


def at_false_discovery_rate(probability: Float[np.ndarray, "..."], rate: float) -> Bool[np.ndarray, "..."]:
    """The largest set, most probable first, whose expected share of non-members stays below ``rate``.

    The Bayesian counterpart of Benjamini and Hochberg's rule (Newton et al. 2004, *Biostatistics* 5:155): as right as
    the probabilities are. benchmarks/REPORT.md says what share was found to be wrong.

    Raises:
        InputError: a rate that is not above 0 and below 1.
    """
    if not 0 < rate < 1:
        raise InputError(f"false-discovery rate {rate}: it is a share of the circuit, above 0 and below 1")
    order = np.argsort(-probability, axis=None, kind="stable")
    expected_false = np.cumsum(1 - probability.ravel()[order]) / np.arange(1, len(order) + 1)
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[: int((expected_false <= rate).sum())]] = True
    return chosen.reshape(probability.shape)


def moderated_variance(
    per_pair: Float[np.ndarray, "pair head"],
) -> Float[np.ndarray, " head"]:
    """Variance over pairs of each head, shrunk towards the common one by as much as the heads agree (Smyth 2004, §3).

    Raises:
        InputError: fewer than two pairs.
    """
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
    estimate: Float[np.ndarray, " head"],
    variance: Float[np.ndarray, " head"],
    *,
    gap: float,
    threshold: float,
) -> Membership:
    """Posterior of effects (module docstring).

    Args:
        estimate: of every head's mean effect.
        variance: of the estimate's error: of the mean over pairs, plus what is known of its bias.
        gap: of the metric from clean to corrupt prompts; only its size counts.
        threshold: share of the gap from which on an effect makes a member.

    Raises:
        InputError: no head, an estimate that is not finite, or a gap of zero.
    """
    bad = (~np.isfinite(estimate) | ~np.isfinite(variance)).sum()
    if not len(estimate) or bad:
        raise InputError(
            f"{len(estimate)} effects, {bad} of them NaN or infinite: give finite ones, at least one"
        )
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
    """x with trigamma(x) = value, by Newton's method (Smyth 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if -step / x < 1e-8:
            break
    return x
