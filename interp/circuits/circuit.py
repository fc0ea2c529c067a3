"""A circuit: the heads and MLPs that causally carry a behaviour, with signed effects, and the edges among them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from interp.scores.result import Evidence

if TYPE_CHECKING:
    import pandas as pd

SiteName = Annotated[str, Field(pattern=r"^(a\d+\.h\d+|m\d+)$")]


def absent(value: object) -> bool:
    """Whether a field stays out of the JSON."""
    return value is None or value == {}


class Strict(BaseModel):
    """What a run is made of: no conversion, no key too many, no NaN; the same on the way in and out of JSON."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        revalidate_instances="always",
        ser_json_inf_nan="null",
        validate_by_name=True,
        serialize_by_alias=True,
    )


class Writes(Strict):
    """Tokens whose logits a head raises and lowers most, each with by how much."""

    top: list[tuple[str, float]]
    bottom: list[tuple[str, float]]


class CodesUsed(Strict):
    """The codes a head has on either side, each with its share of the prompts and roles, most used first."""

    clean: list[tuple[int, float]]
    corrupt: list[tuple[int, float]]


class Component(Strict):
    """A head (``a5.h3``) or MLP (``m2``) as a method scored it and as patching it measured it.

    Attributes:
        head: ``None`` of an MLP.
        effect: mean fall of the metric when the component's output is patched with its value on the corrupt prompt
            (positive = it helps); ``None`` where it was not checked.
        low, high: 95 % bootstrap interval of the effect, over pairs.
        measured: pairs that the effect was measured on; fewer than there are where these settled membership.
        roles: role name -> score in [0, 1], see :mod:`interp.circuits.roles`.
        direct: what a member adds directly to the logit difference, mean over pairs.
        writes, codes, evidence: of heads that are members, where the method and the model tell them.
    """

    site: SiteName
    layer: NonNegativeInt
    head: NonNegativeInt | None = Field(default=None, exclude_if=absent)
    score: float
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    in_circuit: bool = False
    measured: PositiveInt | None = Field(default=None, exclude_if=absent)
    roles: dict[str, float] = Field(default={}, exclude_if=absent)
    direct: float | None = Field(default=None, exclude_if=absent)
    writes: Writes | None = Field(default=None, exclude_if=absent)
    codes: CodesUsed | None = Field(default=None, exclude_if=absent)
    evidence: Evidence | None = Field(default=None, exclude_if=absent)

    @property
    def is_mlp(self) -> bool:
        return self.head is None


class Edge(Strict):
    """One directed edge from a sender's output to a receiver's query, key or value input; ``into`` is ``None`` where
    the receiver is an MLP or the logits, or where the method does not tell the inputs apart.

    What follows ``score`` is known of ``adaptive-patching`` alone, see :class:`~interp.scores.result.EdgeEvidence`.
    """

    sender: str
    receiver: str
    into: Literal["q", "k", "v"] | None
    score: float
    attribution: float | None = Field(default=None, exclude_if=absent)
    codes: float | None = Field(default=None, exclude_if=absent)
    co_occurrence: float | None = Field(default=None, exclude_if=absent)
    effect: float | None = Field(default=None, exclude_if=absent)
    error: float | None = Field(default=None, exclude_if=absent)
    probability: float | None = Field(default=None, exclude_if=absent)
    measured: NonNegativeInt | None = Field(default=None, exclude_if=absent)

    @model_validator(mode="after")
    def _an_error_has_an_effect(self) -> "Edge":
        if self.error is not None and self.effect is None:
            raise ValueError(f"{self.sender} to {self.receiver} has an error of an effect and no effect")
        return self


@dataclass(frozen=True)
class Circuit:
    """The outcome of a discovery, as other tools see it too (:mod:`interp.circuits.graph_json`).

    Attributes:
        universe: ``heads`` (MLPs stay live) or ``heads+mlps``.
        metric: its mean on ``clean`` and ``corrupt`` prompts; empty of a foreign file.
        components: all that were scored, members or not.
        signed: whether scores say if a component helps.
    """

    model: str
    task: str
    method: str
    universe: str
    n_layers: int
    n_heads: int
    metric: dict[str, float]
    components: tuple[Component, ...]
    edges: tuple[Edge, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    signed: bool = True

    @property
    def members(self) -> tuple[Component, ...]:
        """Heads and MLPs in the circuit, largest absolute effect first."""
        inside = [part for part in self.components if part.in_circuit]
        return tuple(sorted(inside, key=lambda part: -abs(part.effect or 0.0)))

    @property
    def heads(self) -> tuple[Component, ...]:
        return tuple(part for part in self.members if not part.is_mlp)

    @property
    def mlps(self) -> tuple[Component, ...]:
        return tuple(part for part in self.members if part.is_mlp)

    def to_pandas(self) -> "pd.DataFrame":
        """One row a member: site, layer, head, score, effect, low, high, and a column a role."""
        import pandas as pd

        columns = ("site", "layer", "head", "score", "effect", "low", "high")
        rows = [{key: getattr(part, key) for key in columns} | part.roles for part in self.members]
        return pd.DataFrame(rows, columns=None if rows else columns)


Index = Annotated[float, Field(ge=0, le=1)]


class Estimate(Strict):
    """A value with its 95 % bootstrap interval over pairs."""

    value: float
    low: float | None
    high: float | None


class NestedShare(Strict):
    """The best ``n_heads`` alone: ``share`` of the gap and KL divergence at END from the model, in nats, of heads taken
    by |effect|; ``share_signed`` of heads taken by signed effect, those that hurt last."""

    n_heads: NonNegativeInt
    share: float
    share_signed: float
    kl: float


class RandomCircuits(Strict):
    """Circuits with as many heads in each layer as the members have, other heads where the layer has enough:
    ``share_…`` and ``kl_mean`` of each alone, ``left_…`` the share of the gap that is left with each off."""

    draws: PositiveInt
    share_mean: float
    share_largest: float
    kl_mean: float
    left_mean: float
    left_least: float


class Interventions(Strict):
    """A circuit alone and a circuit off, on pairs of its task."""

    n_heads: PositiveInt
    n_pairs: PositiveInt
    ablation: str
    universe: Literal["heads"] = "heads"
    # share, kl: of the members alone; KL in nats at END, from the untouched model
    share: Estimate
    kl: float
    left: Estimate  # share of the gap that is left with all members off together; 0 where nothing else does the task
    # cmd, cpr: areas of the nested circuits by |effect| and by signed effect, over MIB's fractions
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
    """A circuit that the same search found on other pairs: ``jaccard`` is the overlap of its heads with the members,
    ``share`` its share of the gap alone, on the pairs that judge the members."""

    seed: NonNegativeInt
    n_pairs: PositiveInt
    heads: list[SiteName]
    jaccard: Index
    share: float


class Validity(Strict):
    """The card of a run."""

    format: Literal[1] = 1
    held_out: bool  # whether the judging pairs are none of those that the run was found on
    circuit: Interventions
    # overlap of members with those decided again on resampled pairs; the interval is over resamples
    jaccard: Estimate | None
    tasks: list[OnTask]  # the run's own task first, then the others that the model does
    rivals: list[Rival]
    left_out: list[str]  # what could not be told and why, a sentence each
    # forwards, seconds: spent on interventions, in forward passes of one prompt; wall time of it all
    forwards: float
    seconds: float

    @property
    def best_rival(self) -> Rival | None:
        """The most faithful one: its share is nearest to 1."""
        return min(self.rivals, key=lambda rival: abs(1 - rival.share), default=None)
