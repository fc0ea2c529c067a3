"""Discoveries over tasks, models, methods and seeds: one job a discovery, one run folder each, and a table.

A sweep is a JSON file::

    {"tasks": ["ioi", "docstring"], "models": ["smollm2-135m-instruct"], "methods": ["adaptive-patching"],
     "seeds": [0, 1, 2], "options": {"n": 50, "candidates": 20}}

Only ``tasks`` has to be there. Options are those of :func:`~interp.runs.discover.find_circuit`. Planted tasks run on
planted models of their own.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, field_validator

from interp import DEFAULT_MODEL
from interp.bench.plan import BenchTarget, Say
from interp.circuits.circuit import Strict
from interp.errors import InputError, fault
from interp.evaluation.stability import mean_jaccard
from interp.executor import SERIAL, Job, JobProgress, Shard, Steps, Work, Workers, run_work
from interp.files import readable, request_of, write_json
from interp.models import OneModel
from interp.progress import Stage, silent
from interp.runs.discover import CircuitSearch, run_search
from interp.runs.folder import RESULT, check_destination
from interp.runs.run import Run
from interp.scores.registry import DEFAULT_METHOD

_STEPS = 100


@dataclass(frozen=True)
class Discovery:
    """One discovery."""

    task: str
    model: str
    method: str
    seed: int
    options: dict[str, Any]

    def search(self) -> CircuitSearch:
        return CircuitSearch(self.task, method=self.method, seed=self.seed, **self.options)

    @property
    def name(self) -> str:
        parts = [self.task, *([self.model] if self.model != self.task else []), self.method]
        kept = ["".join(c if c.isalnum() or c in "-_." else "-" for c in part) for part in parts]
        return "--".join([*kept, f"seed{self.seed}"])


_Names = Annotated[list[str], Field(min_length=1)]


class Sweep(Strict):
    """What is swept over; options are those of every discovery."""

    tasks: _Names
    models: _Names = [DEFAULT_MODEL]
    methods: _Names = [DEFAULT_METHOD]
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    options: dict[str, Any] = {}

    @field_validator("options")
    @classmethod
    def _are_known(cls, options: dict[str, Any]) -> dict[str, Any]:
        taken = {"task", "method", "seed", "own_reference", "task_spec"}
        allowed = [field.name for field in fields(CircuitSearch) if field.name not in taken]
        if wrong := sorted(set(options) - set(allowed)):
            raise ValueError(f"option {wrong[0]!r}: use {', '.join(allowed)}")
        return options

    @classmethod
    def load(cls, path: Path) -> "Sweep":
        """The sweep in a file. :class:`InputError`: an unknown key or value."""
        try:
            return cls.model_validate_json(readable(path).read_bytes())
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror})") from None
        except ValidationError as error:
            raise InputError(f"{path}: {fault(error)} (a sweep has {', '.join(cls.model_fields)})") from None

    def cells(self) -> list[Discovery]:
        """Every discovery, all of one model together, checked before anything is loaded."""
        pairs = itertools.product(self.models, self.tasks)
        targets = dict.fromkeys(BenchTarget.of(task, model) for model, task in pairs)
        every = itertools.product(targets, dict.fromkeys(self.methods), dict.fromkeys(self.seeds))
        cells = [Discovery(t.task, t.model, method, seed, self.options) for t, method, seed in every]
        for cell in cells:
            cell.search()
        return cells


def run_sweep(
    cells: list[Discovery],
    out: Path,
    *,
    device: str | None = None,
    dtype: str = "float32",
    workers: Workers = SERIAL,
    shard: Shard | None = None,
    stage: Stage = silent,
    say: Say = lambda _line: None,
) -> list[dict] | None:
    """Every run that is not in ``out`` already, and a row of each; ``None`` of a shard.

    A discovery that is refused (:class:`InputError`), as by a model that does not do a task, is a row that says why.

    Raises:
        InputError: all are refused; the last one's reason.
        JobsFailedError: some failed on workers; all others are done.
    """
    share = shard or Shard()
    work = Work.all([Work(_row(cell, out, say), _STEPS) for i, cell in enumerate(cells) if share.takes(i)])
    models, log = OneModel(device=device, dtype=dtype), share.log(out)
    rows = run_work(models, work, stage("sweep", work.steps), workers=workers, say=say, log=log)
    if shard is not None:
        return None
    if all("left_out" in row for row in rows):
        raise InputError(rows[-1]["left_out"])
    write_json(out / "sweep.json", rows)
    return rows


def _row(cell: Discovery, out: Path, say: Say) -> Steps:
    [outcome] = yield [Job(cell.name, discover, (cell, out), (cell.model,), _STEPS)]
    if isinstance(outcome, InputError):
        outcome = {"left_out": str(outcome)}
    heads = ", ".join(outcome.get("heads", [])) or f"left out: {outcome.get('left_out', 'no member')}"
    say(f"{cell.name}: {heads}")
    return {key: value for key, value in asdict(cell).items() if key != "options"} | outcome


def discover(models: OneModel, cell: Discovery, out: Path, progress: JobProgress) -> dict:
    """One discovery into its folder, or what is there of it: gap, members, their effects."""
    search, folder = cell.search(), out / cell.name
    asked = search.request(cell.model, models.dtype)
    if request_of(folder / RESULT) == asked:
        run = Run.load(folder)
    else:
        check_destination(folder, asked)
        run = run_search(search, models(cell.model), stage=_share_of_job(progress))
        run.save(folder, report=run.report())
    heads = run.circuit.heads
    return {
        "folder": cell.name,
        "n_pairs": run.n_pairs,
        "gap": run.metric.gap,
        "heads": [head.site for head in heads],
        "effects": [head.effect for head in heads],
    }


def _share_of_job(progress: JobProgress) -> Stage:
    """The stages of a discovery as shares of a job: how many there will be is not known, so each tells half of the
    rest."""
    done = 0.0

    @contextlib.contextmanager
    def stage(_name: str, total: int) -> Iterator[Callable[..., None]]:
        nonlocal done
        begin, half, steps = done, (1 - done) / 2, 0

        def advance(more: int, _note: str = "") -> None:
            nonlocal done, steps
            steps += more
            done = begin + half * min(1.0, steps / max(1, total))
            progress.share(done)

        yield advance

    return stage


def stability(rows: list[dict]) -> list[dict]:
    """Of each task, model and method: in how many runs each head is a member, and the mean Jaccard index over seeds."""
    names = ("task", "model", "method")
    groups: dict[tuple, list[list[str]]] = {}
    for row in rows:
        if "left_out" not in row:
            groups.setdefault(tuple(row[name] for name in names), []).append(row["heads"])
    table = []
    for key, circuits in groups.items():
        count = Counter(itertools.chain.from_iterable(circuits))
        masks = [np.array([[site in heads for site in count]]) for heads in circuits]
        numbers = {"runs": len(circuits), "jaccard": mean_jaccard(masks), "heads": dict(count.most_common())}
        table.append(dict(zip(names, key, strict=True)) | numbers)
    return table
