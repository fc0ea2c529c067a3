"""What every scoring method returns, so that one table holds them all.

Sign: positive = the component helps the metric on the clean prompt, negative = it hurts it. Methods that cannot
tell (``signed=False``, such as counts of codes) give non-negative scores. Rank by ``abs``.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from interp.errors import InputError
from interp.interventions.edges import EdgeScore
from interp.scores.adaptive_patching.posterior import at_false_discovery_rate

if TYPE_CHECKING:
    from interp.scores.overlap import HeadCodes

FALSE_DISCOVERY_RATE = 0.1  # share of a circuit that may be expected to be no members, where none is stated


@dataclass(frozen=True)
class Cost:
    """What a method spent: ``forwards`` in forward-pass equivalents of one prompt (a forward counts 1, a backward 2, a
    forward that starts at layer l of L (L − l) / L), and wall time."""

    forwards: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class EdgeEvidence:
    """What speaks for an edge."""

    attribution: float  # to first order, over all positions
    codes: float | None  # to first order, between the sender's codes at the roles; ``None`` without codes
    # bits that the two heads' codes tell of each other given the side; ``None`` without codes
    co_occurrence: float | None
    effect: float  # estimated mean effect
    # its standard error; ``None`` where the edge was no candidate, and ``probability``, of an effect above the
    # threshold, is 0
    error: float | None
    probability: float
    measured: int  # pairs on which the edge was patched


@dataclass(frozen=True)
class ScoredEdges:
    """Edges, best first, and what they cost; evidence for each in the same order where the method gathers it. If
    ``counts``, scores are numbers of pairs of codes: they tell neither a sign nor a direction."""

    edges: tuple[EdgeScore, ...] = ()
    evidence: tuple[EdgeEvidence, ...] = ()
    cost: Cost = Cost()
    counts: bool = False


@dataclass(frozen=True)
class CodeChange:
    """A head's clean code at a role and the corrupt one in its place, on a share of the pairs."""

    role: str
    clean: int
    corrupt: int
    share: float
    attribution: float  # Σ over those pairs of (c(clean) − c(corrupt)) · gradient, over the number of all pairs


@dataclass(frozen=True)
class Evidence:
    """What speaks for a head's membership."""

    # effect, error: estimated mean effect and its standard error
    effect: float
    error: float
    probability: float  # that the effect is above the threshold
    p_value: float  # of no effect at all, under permuted labels
    patched: int  # pairs on which the head was patched exactly
    # the changes of code that the effect comes from, to first order, largest first; of a run whose codes are known
    # (:mod:`interp.scores.adaptive_patching.role_codes`)
    changes: tuple[CodeChange, ...] = ()


@dataclass(frozen=True)
class Scores:
    """One score per head (and MLP), with what is needed to bootstrap them and to compare methods.

    A method fills in the fields up to ``provenance``; whatever runs it fills in the rest.

    Attributes:
        heads: mean score of every head.
        heads_per_pair: the same before the mean over pairs; ``None`` for methods that score the set as a whole.
        mlps: mean score of every MLP; ``None`` for methods that score heads only, and for attention-only models.
        signed: whether scores tell what helps from what hurts.
        exact: whether scores per pair are the measured effects themselves.
        edges: best edges first; empty where the method scores none by itself.
        codes: every head's code on every prompt, where the method read them.
        probability: that each head is a member, where the method says so.
        evidence: by site, for the likely members, where the method gathers it.
        provenance: of the pairs, and what a method adds.
        metric_clean, metric_corrupt: the task metric on every prompt; ``None`` where nothing was run.
    """

    heads: Float[np.ndarray, "layer head"]
    heads_per_pair: Float[np.ndarray, "pair layer head"] | None = None
    mlps: Float[np.ndarray, " layer"] | None = None
    mlps_per_pair: Float[np.ndarray, "pair layer"] | None = None
    signed: bool = True
    exact: bool = False
    edges: tuple[EdgeScore, ...] = ()
    codes: "HeadCodes | None" = None
    probability: Float[np.ndarray, "layer head"] | None = None
    evidence: dict[str, Evidence] = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)
    method: str = ""
    config: dict = field(default_factory=dict)
    cost: Cost = Cost()
    metric_clean: Float[np.ndarray, " pair"] | None = None
    metric_corrupt: Float[np.ndarray, " pair"] | None = None

    @classmethod
    def from_pairs(
        cls,
        heads: Float[np.ndarray, "pair layer head"],
        mlps: Float[np.ndarray, "pair layer"] | None = None,
        **more: Any,
    ) -> "Scores":
        """Of a method whose score is the mean over pairs."""
        mean = None if mlps is None else mlps.mean(0)
        return cls(heads.mean(0), heads, mean, mlps, **more)

    def ranked_heads(self) -> list[tuple[int, int]]:
        """(layer, head) by falling absolute score; ties in reading order."""
        order = np.argsort(-np.abs(self.heads), axis=None, kind="stable")
        layers, heads = np.unravel_index(order, self.heads.shape)
        return list(zip(layers.tolist(), heads.tolist(), strict=True))

    def circuit(self, false_discovery_rate: float = FALSE_DISCOVERY_RATE) -> Bool[np.ndarray, "layer head"]:
        """The heads that the method itself takes to be members, without a check: as many as the rate allows."""
        if self.probability is None:
            raise InputError(f"method {self.method}: it tells no probability that a head is a member")
        return at_false_discovery_rate(self.probability, false_discovery_rate)


def layer_prior(n_layers: int, n_heads: int) -> Float[np.ndarray, "layer head"]:
    """Scores that know only the layer: its index."""
    return np.repeat(np.arange(n_layers, dtype=float)[:, None], n_heads, axis=1)
