"""Discoveries over tasks, models, methods and seeds: one job a discovery, one run folder each, and a table.

A sweep is a JSON file::

    {"tasks": ["ioi", "docstring"], "models": ["smollm2-135m-instruct"], "methods": ["adaptive-patching"],
     "seeds": [0, 1, 2], "options": {"n": 50, "candidates": 20}}

Only ``tasks`` has to be there. Options are those of :func:`~interp.runs.discover.find_circuit`. Planted tasks run on
planted models of their own.
"""

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, field_validator

from interp import DEFAULT_MODEL
from interp.circuits.circuit import Strict
from interp.errors import InputError, fault
from interp.evaluation.stability import mean_jaccard
from interp.executor import SERIAL, Job, Shard, Told, Workers, run
from interp.files import readable, request_of, write_json
from interp.models import OneModel
from interp.planted.tasks import planted_task_names
from interp.progress import Stage, silent
from interp.runs.discover import CircuitSearch, run_search
from interp.runs.folder import RESULT, check_destination
from interp.runs.run import Run
from interp.scores.registry import DEFAULT_METHOD

_STEPS = 100


@dataclass(frozen=True)
class Cell:
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
        """Of its folder."""
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
        taken = {"task", "method", "seed", "own", "named"}
        allowed = [field.name for field in fields(CircuitSearch) if field.name not in taken]
        if wrong := sorted(set(options) - set(allowed)):
            raise ValueError(f"option {wrong[0]!r}: use {', '.join(allowed)}")
        return options

    @classmethod
    def load(cls, path: Path) -> "Sweep":
        """The sweep in a file.

        Raises:
            InputError: an unknown key or value.
        """
        try:
            return cls.model_validate_json(readable(path).read_bytes())
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror})") from None
        except ValidationError as error:
            raise InputError(f"{path}: {fault(error)} (a sweep has {', '.join(cls.model_fields)})") from None

    def cells(self) -> list[Cell]:
        """Every discovery, all of one model together, checked before anything is loaded."""
        cells: dict[tuple, Cell] = {}
        for model, task, method, seed in itertools.product(self.models, self.tasks, self.methods, self.seeds):
            own = task if task in planted_task_names() else model
            cells.setdefault((own, task, method, seed), Cell(task, own, method, seed, self.options))
        for cell in cells.values():
            cell.search()
        return list(cells.values())


def run_sweep(
    cells: list[Cell],
    out: Path,
    *,
    device: str | None = None,
    dtype: str = "float32",
    workers: Workers = SERIAL,
    shard: Shard | None = None,
    stage: Stage = silent,
    say: Callable[[str], None] = lambda _line: None,
) -> list[dict] | None:
    """Every run that is not in ``out`` already, and a row of each; ``None`` of a shard.

    A discovery that is refused (:class:`InputError`), as by a model that does not do a task, is a row that says why.

    Raises:
        InputError: all are refused; the last one's reason.
        JobsFailedError: some failed on workers; all others are done.
    """
    mine = [cell for i, cell in enumerate(cells) if shard is None or shard.takes(i)]
    rows: dict[str, dict] = {}
    error: InputError | None = None
    jobs = deque(Job(cell.name, discover, (cell, out), (cell.model,), _STEPS) for cell in mine)
    log = out / ("log.jsonl" if shard is None else f"log-{shard.number}-of-{shard.of}.jsonl")
    models = OneModel(device=device, dtype=dtype)
    with stage("sweep", _STEPS * len(jobs)) as advance:
        for job, found in run(models, jobs, workers=workers, advance=advance, say=say, log=log):
            cell = job.args[0]
            if isinstance(found, InputError):
                error, found = found, {"left_out": str(found)}
            rows[job.name] = {**{k: v for k, v in asdict(cell).items() if k != "options"}, **found}
            heads = ", ".join(found.get("heads", [])) or f"left out: {found.get('left_out', 'no member')}"
            say(f"{cell.name}: {heads}")
    if shard is not None:
        return None
    table = [rows[cell.name] for cell in cells]
    if error is not None and all("left_out" in row for row in table):
        raise error
    write_json(out / "sweep.json", table)
    return table


def discover(models: OneModel, cell: Cell, out: Path, told: Told) -> dict:
    """One discovery into its folder, or what is there of it: gap, members, their effects."""
    search, folder = cell.search(), out / cell.name
    asked = search.request(cell.model, models.dtype)
    if request_of(folder / RESULT) == asked:
        found = Run.load(folder)
    else:
        check_destination(folder, asked)
        found = run_search(search, models(cell.model), stage=_told(told))
        found.save(folder, report=found.report())
    heads = found.circuit.heads
    return {
        "folder": cell.name,
        "n_pairs": found.n_pairs,
        "gap": found.metric.gap,
        "heads": [head.site for head in heads],
        "effects": [head.effect for head in heads],
    }


def _told(told: Told) -> Stage:
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
            told.share(done)

        yield advance

    return stage


def stability(rows: list[dict]) -> list[dict]:
    """Of each task, model and method: in how many runs each head is a member, and the mean Jaccard index over seeds."""
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for row in rows:
        if "left_out" not in row:
            groups.setdefault((row["task"], row["model"], row["method"]), []).append(row)
    found = []
    for (task, model, method), some in groups.items():
        count = {site: sum(site in row["heads"] for row in some) for row in some for site in row["heads"]}
        masks = [np.array([[site in row["heads"] for site in count]]) for row in some]
        found.append(
            {
                "task": task,
                "model": model,
                "method": method,
                "runs": len(some),
                "jaccard": mean_jaccard(masks),
                "heads": dict(sorted(count.items(), key=lambda pair: -pair[1])),
            }
        )
    return found
