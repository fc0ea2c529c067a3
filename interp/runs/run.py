"""A run: what one discovery found, and the folder that holds it.

======================== =====================================================================================
``run.json``             the :class:`Run` as JSON, as ``interp discover --json`` prints it
``scores.safetensors``   scores and exact effects before the mean over pairs, attention patterns of members
``heads.csv``            one row a head
``prompts.json[l]``      the prompts, where they came from a file
``reference.safetensors`` the reference of one's own, where one was given
``validity.json``        the card of ``interp validate``, where that was run
``report.html``          the report
======================== =====================================================================================

The folder is filled under a temporary name and renamed: a reader never meets half a run, and an interrupted or
failed discovery leaves an earlier run at the same place as it was.
"""

import contextlib
import csv
import errno
import io
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import (
    Field,
    InstanceOf,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import from_json, to_json
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from interp.bottlenecks.codebook import CodebookConfig
from interp.bottlenecks.metric_codebook import MetricCodebook
from interp.circuits.circuit import Circuit, Component, Edge, SiteName, Strict
from interp.circuits.references import ExactEffects, Reference, named_reference
from interp.errors import InputError, fault, one_line
from interp.evaluation.recovery import Recovery
from interp.evaluation.validity import Validity
from interp.files import UMASK, atomic_path, check_folder, readable, request_of, write_text
from interp.programs.program import Program
from interp.tasks import PromptFile, PromptPairs, Task, load_task, task_names

RESULT, ARRAYS, TABLE, REPORT = "run.json", "scores.safetensors", "heads.csv", "report.html"
PROMPTS = ("prompts.json", "prompts.jsonl")
REFERENCE = "reference.safetensors"
VALIDITY = "validity.json"
_OWN = {RESULT, ARRAYS, TABLE, REPORT, *PROMPTS, REFERENCE, VALIDITY}

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
    """How well the run's scores rank a reference's members.

    Attributes:
        shared_pairs, measured_pairs: of a measured reference, how many of the run's pairs it was measured on, and on
            how many pairs it was; ``None`` of a published one.
        stricter: share of the gap, such as ``5%`` -> the same for the heads from there on.
    """

    shared_pairs: int | None
    measured_pairs: int | None
    stricter: dict[str, Stricter]


class Settings(Strict):
    """What a discovery was asked for beside task, model, method, pairs and seed.

    Attributes:
        signed: whether the method's scores say if a head helps.
        config: the method's own options.
        codes: those of the codebook that members' codes were read from.
        reference: the file of a reference of one's own.
        task_class: by what :func:`~interp.tasks.load_task` finds a class of one's own.
    """

    candidates: PositiveInt
    threshold: Share
    mlps: bool
    signed: bool
    config: dict[str, Any]
    codes: dict[str, Any]
    reference: str | None = None
    task_class: str | None = None


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
        metric: its mean over pairs.
        seconds: wall time by stage.
        cost: forward passes of one prompt by stage; a backward pass is two.
        heads: every head, in reading order; ``circuit.heads`` are the members.
        mlps: every MLP; empty where the method scores none.
        edges: those scored, among members, largest score first.
        edges_are_counts: their scores are numbers of pairs of codes, without sign and direction.
        left_out: why parts of the run are missing, a sentence each.
        proposed: ``None`` of methods without probabilities.
        recovery: by reference.
        examples: the first pairs; patterns and writings of members are of the first one's clean prompt.
        request: what it was asked for, see :class:`~interp.runs.discover.CircuitSearch`.
        program: what the members say; ``None`` where it was not asked for. In JSON its ``program`` (a list of slots),
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
    prompts: InstanceOf[PromptFile] | None = Field(default=None, exclude=True)
    validity: Validity | None = Field(default=None, exclude=True)

    @model_serializer(mode="wrap")
    def _program_apart(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        found = handler(self)
        if (program := found.pop("program")) is not None:
            found |= {"program": program.pop("slots")} | {name: program.pop(name) for name in _PROOF}
            found["program_details"] = program
        return found

    @classmethod
    def from_json(cls, text: bytes | str) -> "Run":
        """The run that :meth:`model_dump_json` wrote, without its arrays."""
        given = from_json(text)
        if isinstance(given, dict) and isinstance(details := given.pop("program_details", None), dict):
            parts = {name: given.pop(name, None) for name in _PROOF}
            given["program"] = {**details, **parts, "slots": given.pop("program", None)}
        return cls.model_validate_json(to_json(given))

    @model_validator(mode="after")
    def _fits_together(self) -> "Run":
        layers, heads = self.shape
        wanted = [(f"a{layer}.h{head}", layer, head) for layer in range(layers) for head in range(heads)]
        wanted_mlps = [(f"m{layer}", layer, None) for layer in range(layers)] if self.mlps else []
        for parts, places in ((self.heads, wanted), (self.mlps, wanted_mlps)):
            if [(part.site, part.layer, part.head) for part in parts] != places:
                raise ValueError(
                    f"heads or MLPs are not those of {layers} layers of {heads} heads, in reading order"
                )
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
        return (
            self.arrays["patterns"][members.index(site)]
            if "patterns" in self.arrays and site in members
            else None
        )

    @property
    def proposed_members(self) -> list[str]:
        """Of the heads that the method took for members before the check (``proposed``), those that are."""
        members = {part.site for part in self.members}
        return [site for site in (self.proposed.heads if self.proposed else ()) if site in members]

    def reference(self, name: str) -> Reference | ExactEffects:
        """What ``recovery`` knows by this name: the run's own, or one of the package. No other file is opened.

        Raises:
            InputError: neither.
        """
        if self.own_reference is not None and name == self.settings.reference:
            return self.own_reference
        return named_reference(name)

    def report(self) -> str:
        """The report as one HTML page that opens offline; ``interp report`` writes it beside a run."""
        from interp.report.page import render_report

        return render_report(self)

    def __repr__(self) -> str:
        return f"Run({self.task} on {self.model} by {self.method}: {len(self.members)} of {len(self.checked)} checked)"

    def save(self, folder: Path | str, *, report: str | None = None, overwrite: bool = False) -> Path:
        """Write the folder. A run of the same request that is there is replaced, with ``overwrite`` any run.

        Raises:
            InputError: ``folder`` is something else, or cannot be written.
            OSError: writing failed half-way, a full disk say; nothing is left of it.
        """
        folder = Path(folder)
        check_destination(folder, self.request, overwrite=overwrite)
        place = Path(os.path.realpath(folder))  # of a link what it leads to is replaced
        with self._written(place, report) as temporary:
            _replace(temporary, place)
        return folder

    def save_new(self, parent: Path, name: str, *, report: str | None = None) -> Path:
        """Write a folder of this name, or ``NAME-2``, ``NAME-3``, … where that is taken, and return it.

        Nothing that is there is replaced, whoever else is writing.

        Raises:
            OSError: as :meth:`save`.
        """
        with self._written(parent / name, report) as temporary:
            for number in itertools.count(1):
                folder = parent / (name if number == 1 else f"{name}-{number}")
                if folder.exists():  # an empty folder would be replaced without a word
                    continue
                try:
                    temporary.rename(folder)
                    return folder
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                        raise
        raise AssertionError("numbers do not end")

    @contextlib.contextmanager
    def _written(self, folder: Path, report: str | None) -> Iterator[Path]:
        """The run in a temporary folder beside ``folder``, which is deleted unless it is moved away."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            temporary.chmod(0o777 & ~UMASK)
            write_text(temporary / RESULT, self.model_dump_json(indent=1) + "\n")
            with atomic_path(temporary / ARRAYS) as path:
                arrays = self.arrays | _arrays_of_books(self.program)
                save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)
            write_text(temporary / TABLE, self.to_csv())
            if self.own_reference is not None:
                self.own_reference.save(temporary / REFERENCE)
            if self.prompts is not None:
                (temporary / f"prompts{self.prompts.path.suffix.lower()}").write_bytes(self.prompts.data)
            if self.validity is not None:
                self.save_validity(temporary)
            if report is not None:
                write_text(temporary / REPORT, report)
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def save_validity(self, folder: Path | str) -> Path:
        """Write the card beside the run, in place of an earlier one."""
        assert self.validity is not None
        path = Path(folder) / VALIDITY
        write_text(path, self.validity.model_dump_json(indent=1) + "\n")
        return path

    def task_again(self, folder: Path | str | None) -> Task:
        """The run's task.

        Of the tasks that a run may name only those that ship are made, and the prompts that lie in its folder: no
        other file is opened and no class is run because a run names it.

        Raises:
            InputError: another task.
        """
        kept = [Path(folder) / name for name in PROMPTS if folder and (Path(folder) / name).is_file()]
        if self.task in task_names():
            return load_task(self.task)
        if kept or self.prompts is not None:
            return PromptFile(kept[0]) if kept else self.prompts
        raise InputError(
            f"the prompts of this run are not at hand: {self.task!r} is no task of this package, and no prompts lie "
            "in the run's folder (a discovery from a file of prompts keeps them there)"
        )

    def sample_again(self, folder: Path | str | None, tokenizer: Any, most: int) -> PromptPairs:
        """The first ``most`` of the run's pairs, made as they were.

        Raises:
            InputError: as :meth:`task_again`, or prompts that are no longer made in this way.
        """
        task, how = self.task_again(folder), self.provenance.pairs
        pairs = task.sample(tokenizer, min(most, self.n_pairs), self.seed, how.counterfactual, bos=how.bos)
        for example, pair in zip(self.examples, pairs, strict=False):
            both = ((example.clean, pair.clean_tokens), (example.corrupt, pair.corrupt_tokens))
            if any(kept != [tokenizer.decode([token]) for token in sampled] for kept, sampled in both):
                raise InputError(
                    "the prompts of this run come out differently now, so nothing can be read beside its numbers: "
                    "run the discovery again"
                )
        return pairs

    def to_csv(self) -> str:
        """One row a head: layer, head, score, effect and its interval, membership, roles."""
        roles = sorted({role for head in self.heads for role in head.roles})
        columns = ["layer", "head", "score", "effect", "low", "high", "in_circuit"]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*columns, *roles])
        for head in self.heads:
            writer.writerow(
                [getattr(head, c) for c in columns] + [head.roles.get(role, "") for role in roles]
            )
        return text.getvalue()

    @classmethod
    def load(cls, folder: Path | str) -> "Run":
        """Read a run folder, or say in one line what is wrong with it."""
        folder = Path(folder)
        if not (folder / RESULT).is_file():
            raise InputError(
                f"{folder} is not a run folder: it has no {RESULT} (interp discover … --out makes one)"
            )
        try:
            run = _read(folder / RESULT, lambda path: cls.from_json(path.read_bytes()))
            run.arrays = _read(folder / ARRAYS, load_file)
            if run.program is not None:
                run.program.books = _read(folder / ARRAYS, lambda _: _books(run))
            if fault := _fault_of_arrays(run):
                raise InputError(f"{ARRAYS} {fault}")
            if (folder / REFERENCE).exists():
                run.own_reference = ExactEffects.load(folder / REFERENCE)
        except InputError as error:
            if isinstance(error.__cause__, OSError):
                raise InputError(f"run folder {folder} cannot be read ({error})") from None
            raise InputError(
                f"run folder {folder} is damaged or of another version ({error}): run the discovery again"
            ) from None
        if (folder / VALIDITY).exists():
            try:
                run.validity = _read(
                    folder / VALIDITY, lambda path: Validity.model_validate_json(path.read_bytes())
                )
            except InputError as error:
                raise InputError(
                    f"the card in {folder} is damaged or of another version ({error}): delete {folder / VALIDITY} "
                    f"and run interp validate {folder}"
                ) from None
        return run


def check_destination(folder: Path, request: Mapping[str, Any] | None, *, overwrite: bool = False) -> None:
    """Refuse, before the work, a folder with anything but a run of the same request; see :mod:`interp.files`."""
    check_folder(folder, "a run", contents=_OWN)
    if Path(folder).exists() and Path(folder).samefile(os.curdir):
        raise InputError(f"--out {folder} is the current folder: name another, such as runs/mine")
    if not overwrite and not _is_free(Path(folder), request):
        raise InputError(
            f"--out {folder} holds a run of another request: name another folder, or replace it with --overwrite"
        )


def free_folder(folder: Path, request: Mapping[str, Any]) -> Path:
    """``folder``, or ``folder-2``, … where a run of another request lies."""
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(place for place in itertools.chain([folder], numbered) if _is_free(place, request))


def _is_free(folder: Path, request: Mapping[str, Any] | None) -> bool:
    path = folder / RESULT
    return not path.exists() or (request is not None and request_of(path) == request)


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """What a file holds, or in one line why it cannot be read, with its name."""
    try:
        return reader(readable(path))
    except ValidationError as error:
        raise InputError(f"{path.name} {fault(error)}") from None
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{path.name}: {getattr(error, 'strerror', None) or one_line(error)}") from error


def _fault_of_arrays(run: Run) -> str | None:
    """What makes the arrays unreadable for what follows."""
    n_members = sum(head.in_circuit for head in run.heads)
    n_tokens = len(run.examples[0].clean) if run.examples else 0
    shapes = {
        "heads": run.shape,
        "heads_per_pair": (run.n_pairs, *run.shape),
        "mlps_per_pair": (run.n_pairs, len(run.mlps)),
        "effects": (run.n_pairs, len(run.checked)),
        "metric_clean": (run.n_pairs,),
        "metric_corrupt": (run.n_pairs,),
        "patterns": (n_members, n_tokens, n_tokens),
    }
    # not every method has scores per pair; an interval was drawn from them
    drawn = any(judged.interval is not None for judged in run.recovery.values())
    if lacking := {"heads", *["heads_per_pair"] * drawn} - run.arrays.keys():
        return f"lacks {' and '.join(sorted(lacking))}"
    for name in shapes.keys() & run.arrays.keys():
        if run.arrays[name].shape != shapes[name]:
            return f"{name}: of shape {run.arrays[name].shape}, and run.json implies {shapes[name]}"
        known = np.isfinite(run.arrays[name])
        # a candidate that few pairs have settled is patched on no more
        if not (known.any(0).all() if name == "effects" else known.all()):
            return f"{name}: not all finite numbers"
    return None


def _arrays_of_books(program: Program | None) -> dict[str, np.ndarray]:
    """The tensors of every slot's codebook, as :func:`_books` reads them."""
    if program is None:
        return {}
    return {
        f"{name} {slot}": tensor.detach().numpy()
        for slot, book in program.books.items()
        for name, tensor in book.tensors().items()
    }


def _books(run: Run) -> dict[str, MetricCodebook]:
    """The codebooks of the program's slots, whose tensors leave the run's arrays."""
    assert run.program is not None
    books = {}
    for said in run.program.slots:
        names = ("codes", "counts", "metric")
        tensors = {name: torch.from_numpy(run.arrays.pop(f"{name} {said.slot}")) for name in names}
        _, n_codes, d_in = tensors["codes"].shape
        if n_codes != said.codes:
            raise ValueError(f"{n_codes} codes at {said.slot}, and {RESULT} says {said.codes}")
        config = CodebookConfig(d_in, n_codes, selection="matching_pursuit")
        books[str(said.slot)] = MetricCodebook.restored(config, tensors)
    return books


def _replace(temporary: Path, folder: Path) -> None:
    """Swap the finished folder in; the old one is moved aside first and deleted last."""
    if not folder.exists():
        try:
            temporary.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise  # else another process has put one there in between
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    old = aside / folder.name
    try:
        folder.rename(old)
        temporary.rename(folder)
    except BaseException:  # an interrupt between the two as well: the earlier run goes back
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
