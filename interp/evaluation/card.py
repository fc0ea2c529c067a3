"""The card of ``interp validate``: what a sceptic asks of a circuit (:mod:`.validity`), as a schema."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from interp.circuits.circuit import SiteName, Strict

Index = Annotated[float, Field(ge=0, le=1)]


class Estimate(Strict):
    """A value with its 95 % bootstrap interval over pairs."""

    value: float
    low: float | None
    high: float | None


class NestedShare(Strict):
    """The best ``n_heads`` alone.

    Attributes:
        share, kl: share of the gap and KL divergence at END from the model, in nats, of heads taken by |effect|.
        share_signed: share of heads taken by signed effect, those that hurt last.
    """

    n_heads: NonNegativeInt
    share: float
    share_signed: float
    kl: float


class RandomCircuits(Strict):
    """Circuits with as many heads in each layer as the members have, other heads where the layer has enough.

    Attributes:
        share_mean, share_largest, kl_mean: of each alone.
        left_mean, left_least: share of the gap that is left with each off.
    """

    draws: PositiveInt
    share_mean: float
    share_largest: float
    kl_mean: float
    left_mean: float
    left_least: float


class Interventions(Strict):
    """A circuit alone and a circuit off, on pairs of its task.

    Attributes:
        share, kl: of the members alone; KL in nats at END, from the untouched model.
        left: share of the gap that is left with all members off together; 0 where nothing else does the task.
        cmd, cpr: areas of the nested circuits by |effect| and by signed effect, over MIB's fractions.
    """

    n_heads: PositiveInt
    n_pairs: PositiveInt
    ablation: str
    universe: Literal["heads"] = "heads"
    share: Estimate
    kl: float
    left: Estimate
    cmd: float
    cpr: float
    nested: list[NestedShare]
    random: RandomCircuits


class OnTask(Strict):
    """What a task loses with the members off, and with random circuits off, as shares of its gap (1 is all)."""

    task: str
    n_pairs: PositiveInt
    lost: float
    lost_random: float


class Rival(Strict):
    """A circuit that the same search found on other pairs.

    Attributes:
        jaccard: overlap of its heads with the members.
        share: its share of the gap alone, on the pairs that judge the members.
    """

    seed: NonNegativeInt
    n_pairs: PositiveInt
    heads: list[SiteName]
    jaccard: Index
    share: float


class Validity(Strict):
    """The card of a run.

    Attributes:
        held_out: whether the judging pairs are none of those that the run was found on.
        jaccard: overlap of members with those decided again on resampled pairs; the interval is over resamples.
        tasks: the run's own task first, then the others that the model does.
        left_out: what could not be told and why, a sentence each.
        forwards, seconds: spent on interventions, in forward passes of one prompt; wall time of it all.
    """

    format: Literal[1] = 1
    held_out: bool
    circuit: Interventions
    jaccard: Estimate | None
    tasks: list[OnTask]
    rivals: list[Rival]
    left_out: list[str]
    forwards: float
    seconds: float

    @property
    def best_rival(self) -> Rival | None:
        """The most faithful one: its share is nearest to 1."""
        return min(self.rivals, key=lambda rival: abs(1 - rival.share), default=None)
