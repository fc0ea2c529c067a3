"""A run: all that one discovery tells, as a schema with its JSON; its folder on disk is :mod:`interp.runs.folder`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field, InstanceOf, NonNegativeInt, PositiveInt, model_serializer, model_validator
from pydantic_core import from_json, to_json

import interp
from interp.circuits.circuit import Circuit, Component, Edge, SiteName, Strict, Validity
from interp.circuits.references import ExactEffects, Reference, named_reference
from interp.evaluation.recovery import Recovery
from interp.programs.program import Program
from interp.tasks import TaskFile

_PROOF = ("transitions", "interchange")
Share = Annotated[float, Field(ge=0, le=1)]


class Metric(Strict):
    """The task's metric on either side of a pair, or its mean over pairs."""

    clean: float
    corrupt: float
    name: str

    @property
    def gap(self) -> float:
        return self.clean - self.corrupt


class Proposed(Strict):
    """The heads that a method takes to be members before any check."""

    false_discovery_rate: Share
    heads: list[SiteName]


class Stricter(Strict):
    """How well scores rank the heads that belong to a reference at a larger share of the gap."""

    roc_auc: float | None
    average_precision: float | None
    n_positive: NonNegativeInt


@dataclass(frozen=True)
class Judged(Recovery):
    """How well the run's scores rank a reference's members."""

    # shared_pairs, measured_pairs: of a measured reference, how many of the run's pairs it was measured on, and on how
    # many pairs it was; `None` of a published one
    shared_pairs: int | None
    measured_pairs: int | None
    stricter: dict[str, Stricter]  # share of the gap, such as `5%` -> the same for the heads from there on


class Settings(Strict):
    """What a discovery was asked for beside task, model, method, pairs and seed."""

    candidates: PositiveInt
    threshold: Share
    mlps: bool
    signed: bool  # whether the method's scores say if a head helps
    config: dict[str, Any]  # the method's own options
    codes: dict[str, Any]  # those of the codebook that members' codes were read from
    reference: str | None = None  # the file of a reference of one's own
    task_class: str | None = None  # by what `load_task` finds a class of one's own


class PairsMade(Strict):
    """How the pairs were made: enough to sample them again."""

    task: str
    metric: str
    counterfactual: str
    seed: NonNegativeInt
    n_pairs: PositiveInt
    bos: bool
    dropped: dict[str, NonNegativeInt]
    notes: list[str]
    digest: str


class ModelRun(Strict):
    """The model that was run, see :func:`~interp.models.describe_model`."""

    spec: str | None
    source: str | None
    revision: str | None
    architecture: str | None
    dtype: str
    device: str
    n_layers: PositiveInt
    n_heads: PositiveInt
    n_kv_heads: PositiveInt
    d_model: PositiveInt
    d_head: PositiveInt
    d_vocab: PositiveInt
    attn_only: bool
    parallel_attn_mlp: bool


class Provenance(Strict):
    pairs: PairsMade
    model: ModelRun


class Example(Strict):
    """One pair: tokens as text, roles at positions of the prompts."""

    clean: Annotated[list[str], Field(min_length=1)]
    corrupt: Annotated[list[str], Field(min_length=1)]
    answers: list[str]
    wrong_answers: list[str]
    positions: dict[str, NonNegativeInt]
    metric: Metric

    @model_validator(mode="after")
    def _positions_are_tokens(self) -> "Example":
        for role, position in self.positions.items():
            if position >= min(len(self.clean), len(self.corrupt)):
                raise ValueError(f"position {position} of {role} is beyond the prompt's last token")
        return self


class Run(Strict):
    """One discovery's outcome.

    >>> folder = run.save("runs/induction")
    >>> Run.load(folder).circuit.heads == run.circuit.heads
    True

    Attributes:
        universe: ``heads``, or ``heads+mlps`` where MLPs could be members.
        seconds: wall time by stage.
        cost: forward passes of one prompt by stage; a backward pass is two.
        heads: every head, in reading order; ``circuit.heads`` are the members.
        mlps: every MLP; empty where the method scores none.
        edges: those scored, among members, largest score first.
        edges_are_counts: their scores are numbers of pairs of codes, without sign and direction.
        left_out: why parts of the run are missing, a sentence each.
        proposed: the heads that the method proposes before the check; ``None`` where it gives no probabilities.
        examples: the first pairs; patterns and writings of members are of the first one's clean prompt.
        request: what it was asked for, see :class:`~interp.runs.discover.CircuitSearch`.
        program: what the members write; ``None`` where it was not asked for. In JSON its ``program`` (a list of slots),
            ``transitions`` and ``interchange`` stand beside the run's other keys, all else under ``program_details``.
        arrays: ``heads`` [layer, head], ``heads_per_pair`` [pair, layer, head], ``mlps_per_pair`` [pair, layer],
            ``effects`` [pair, candidate], ``metric_clean`` and ``metric_corrupt`` [pair], ``patterns``
            [member head, query, key]; some are missing of methods and prompts that do not have them.
        own_reference: what ``settings.reference`` names.
        prompts: the task of a discovery just made, where it is a file of prompts: it is kept with the run.
        validity: what ``interp validate`` found, see :mod:`interp.runs.validate`.
    """

    format: Literal[2] = 2
    model: str | None
    task: str
    method: str
    seed: NonNegativeInt
    n_pairs: PositiveInt
    universe: Literal["heads", "heads+mlps"]
    metric: Metric
    seconds: dict[str, float]
    cost: dict[str, float]
    heads: list[Component]
    mlps: list[Component]
    edges: list[Edge]
    edges_are_counts: bool = False
    left_out: list[str]
    proposed: Proposed | None
    recovery: dict[str, Judged]
    settings: Settings
    provenance: Provenance
    versions: dict[str, str]
    examples: list[Example]
    request: dict[str, Any]
    program: Program | None = None
    arrays: dict[str, InstanceOf[np.ndarray]] = Field(default_factory=dict, exclude=True)
    own_reference: InstanceOf[ExactEffects] | None = Field(default=None, exclude=True)
    prompts: InstanceOf[TaskFile] | None = Field(default=None, exclude=True)
    validity: Validity | None = Field(default=None, exclude=True)

    @model_serializer(mode="wrap")
    def _program_apart(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        fields = handler(self)
        if (program := fields.pop("program")) is not None:
            fields |= {"program": program.pop("slots")} | {name: program.pop(name) for name in _PROOF}
            fields["program_details"] = program
        return fields

    @classmethod
    def from_json(cls, text: bytes | str) -> "Run":
        """The run that :meth:`model_dump_json` wrote, without its arrays."""
        fields = from_json(text)
        if isinstance(fields, dict) and isinstance(details := fields.pop("program_details", None), dict):
            details |= {name: fields.pop(name, None) for name in _PROOF}
            fields["program"] = details | {"slots": fields.pop("program", None)}
        return cls.model_validate_json(to_json(fields))

    @model_validator(mode="after")
    def _fits_together(self) -> "Run":
        layers, heads = self.shape
        wanted = [(f"a{layer}.h{head}", layer, head) for layer, head in np.ndindex(layers, heads)]
        wanted_mlps = [(f"m{layer}", layer, None) for layer in range(layers)] if self.mlps else []
        for parts, places in ((self.heads, wanted), (self.mlps, wanted_mlps)):
            if [(part.site, part.layer, part.head) for part in parts] != places:
                raise ValueError(f"heads or MLPs are not those of {layers} layers of {heads} heads, in reading order")
        for part in self.components:
            if part.in_circuit and None in (part.effect, part.low, part.high):
                raise ValueError(f"{part.site} is in the circuit and has no effect with an interval")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Layers, heads a layer."""
        return self.provenance.model.n_layers, self.provenance.model.n_heads

    @property
    def scores(self) -> Float[np.ndarray, "layer head"]:
        """The method's score of every head."""
        return np.array([head.score for head in self.heads]).reshape(self.shape)

    @property
    def components(self) -> tuple[Component, ...]:
        return (*self.heads, *self.mlps)

    @property
    def ranked(self) -> tuple[Component, ...]:
        """Those that could become members."""
        return self.components if self.universe == "heads+mlps" else tuple(self.heads)

    @property
    def checked(self) -> tuple[Component, ...]:
        """Those whose effect was measured."""
        return tuple(part for part in self.components if part.effect is not None)

    @property
    def members(self) -> tuple[Component, ...]:
        """The circuit's heads and MLPs, largest absolute effect first."""
        return self.circuit.members

    @property
    def circuit(self) -> Circuit:
        return Circuit(
            model=self.model or "unknown",
            task=self.task,
            method=self.method,
            universe=self.universe,
            n_layers=self.shape[0],
            n_heads=self.shape[1],
            metric={"clean": self.metric.clean, "corrupt": self.metric.corrupt},
            components=self.components,
            edges=tuple(self.edges),
            provenance=self.provenance.model_dump(),
            signed=self.settings.signed,
        )

    def component(self, site: str) -> Component:
        return next(part for part in self.components if part.site == site)

    def pattern(self, site: str) -> Float[np.ndarray, "query key"] | None:
        """Attention of a member on the first example's clean prompt; ``None`` where it is not kept."""
        members = [head.site for head in self.heads if head.in_circuit]
        kept = "patterns" in self.arrays and site in members
        return self.arrays["patterns"][members.index(site)] if kept else None

    @property
    def proposed_members(self) -> list[str]:
        """Of the heads that the method took for members before the check (``proposed``), those that are."""
        members = {part.site for part in self.members}
        return [site for site in (self.proposed.heads if self.proposed else ()) if site in members]

    def reference(self, name: str) -> Reference | ExactEffects:
        """What ``recovery`` knows by this name: the run's own, or one of the package. No other file is opened."""
        given = self.own_reference if name == self.settings.reference else None
        return given or named_reference(name)

    def __repr__(self) -> str:
        return f"Run({self.task} on {self.model} by {self.method}: {len(self.members)} of {len(self.checked)} checked)"

    def report(self) -> str:
        """The report as one HTML page that opens offline; ``interp report`` writes it beside a run."""
        return interp.render_report(self)

    def save(self, folder: Path | str, *, report: str | None = None, overwrite: bool = False) -> Path:
        """Write the folder. A run of the same request that is there is replaced, with ``overwrite`` any run.

        Raises:
            InputError: ``folder`` is something else, or cannot be written.
            OSError: writing failed half-way, a full disk say; nothing is left of it.
        """
        return interp.save_run(self, folder, report=report, overwrite=overwrite)

    def save_new(self, parent: Path, name: str, *, report: str | None = None) -> Path:
        """Write a folder of this name, or ``NAME-2``, … where that is taken: nothing is replaced. Returns it."""
        return interp.save_new_run(self, parent, name, report=report)

    def save_validity(self, folder: Path | str) -> Path:
        """Write the card beside the run, in place of an earlier one."""
        return interp.save_validity(self, folder)

    @classmethod
    def load(cls, folder: Path | str) -> "Run":
        """Read a run folder, or say in one line what is wrong with it."""
        return interp.load_run(folder)
