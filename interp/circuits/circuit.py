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
    """One directed edge from a sender's output to a receiver's query, key or value input.

    What follows ``score`` is known of ``adaptive-patching`` alone, see
    :class:`~interp.scores.adaptive_patching.edges.EdgeEvidence`.

    Attributes:
        into: ``None`` where the receiver is an MLP or the logits, or where the method does not tell the inputs apart.
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
