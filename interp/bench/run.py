"""The bench itself: jobs for targets, methods and cells, every cell read where it is kept, else made and saved."""

import hashlib
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from interp.activations.stream import BATCH_SIZE
from interp.bench.cells import Outcome, Runner, Tell, part
from interp.bench.judges import Court, Unmeasured, convene, parts_of_reference
from interp.bench.plan import POOL_SEED, SMALL, YARDSTICK, Plan, Say, Target, drawn, read_record, write_record
from interp.bench.table import Cell, one_line, tabulate
from interp.errors import InputError
from interp.evaluation.faithfulness import faithfulness_curves
from interp.evaluation.stability import best_heads, bootstrap_stability, mean_jaccard
from interp.executor import SERIAL, Job, Shard, Told, Workers, run
from interp.interventions.ablation import Ablator
from interp.models import Model, OneModel, describe_model, load_tokenizer, weights_checksum
from interp.progress import Stage, silent
from interp.prompts.pairs import PromptPairs, Task
from interp.prompts.sampling import as_many_as_there_are, held_out_pairs, sample_pairs
from interp.scores.registry import load_method
from interp.tasks import load_task

RERUNS = 5
"""Bootstrap resamples of a method that has to run again for each; resampling scores per pair costs nothing."""


def pool_of(task: Task, tokenizer: Any, plan: Plan) -> PromptPairs:
    """The pairs that seeds draw from.

    Of a task that has no more than the plan's pool and reference it is half of what there is, and at least what the
    plan asks for, so that others are left to judge by.

    Raises:
        InputError: no others are left.
    """

    def sample(n: int) -> PromptPairs:
        return sample_pairs(task, tokenizer, n, n, POOL_SEED)

    enough = plan.pool + plan.reference
    there = len(as_many_as_there_are(sample, enough))
    if there == enough:
        return sample(plan.pool)
    if there <= (most := max(plan.pairs)):
        raise InputError(
            f"task {task.name!r} has {there} pairs, and --pairs asks for {most}: others are needed to judge by"
        )
    return sample(min(plan.pool, max(most, there // 2)))


@dataclass
class TargetBench:
    """All that the cells of one target share.

    Attributes:
        weights: the model's :func:`~interp.models.weights_checksum`.
    """

    target: Target
    plan: Plan
    model: Model
    weights: str
    folder: Path
    pool: PromptPairs
    held_out: PromptPairs
    court: Court
    batch_size: int
    say: Say
    _ablator: Ablator | None = None

    @classmethod
    def prepare(
        cls, target: Target, plan: Plan, model: Model, out: Path, *, batch_size: int, say: Say
    ) -> "TargetBench | Unmeasured":
        """Sample the pairs, and find the references, or what has to be measured first."""
        task, folder = load_task(target.task), out / target.folder
        pool = pool_of(task, model.tokenizer, plan)
        held_out = held_out_pairs(task, model.tokenizer, plan.held_out, pool)
        court = convene(target, task, model, folder, pool, n=plan.reference, batch_size=batch_size, say=say)
        if isinstance(court, Unmeasured):
            return court
        weights = weights_checksum(model)  # which takes a third of a second: once for all cells
        return cls(target, plan, model, weights, folder, pool, held_out, court, batch_size, say)

    def cells_of(self, method: str) -> tuple[tuple[int, int], ...]:
        """(pairs, seed) of every cell that the method is given here."""
        cells = self.plan.cells(method, self._n_heads)
        if method == YARDSTICK:
            return tuple(cell for cell in cells if cell[0] < self.court.measured.n_pairs)
        return cells

    def run(self, method: str, cells: Sequence[tuple[int, int]], tell: Tell) -> "Found":
        """Every cell of a method that shares something with the others; of one whose cells do not, the first."""
        runner = self._runner(method)
        todo = list(cells)
        if runner is not None:
            runner.prepare(cells, lambda share: tell(share / 2))
            if runner.cell_by_cell:
                todo = [runner.looked_at(cells) or cells[0]]
        found = self._cells(method, runner, todo, part(tell, 0.5, 0.5))
        if len(todo) == len(cells):
            return replace(found, stable=self._stabilities(method, runner, list(found.kept)))
        return replace(found, left=tuple(cell for cell in cells if cell not in todo))

    def one(self, method: str, cell: tuple[int, int], tell: Tell) -> "Found":
        """A cell of a method whose cells share nothing."""
        return self._cells(method, self._runner(method), [cell], tell)

    def stability(self, method: str, cells: Sequence[tuple[int, int]], _tell: Tell) -> "Found":
        """How stable the choice of heads is, of a method whose cells share nothing and are known."""
        return Found(
            {}, {}, self.court.judges[0].size, self._stabilities(method, self._runner(method), cells)
        )

    def _cells(
        self, method: str, runner: Runner | None, cells: Sequence[tuple[int, int]], tell: Tell
    ) -> "Found":
        common = self._settings(method, runner)
        kept: dict[tuple[int, int], dict] = {}
        refused: dict[int, str] = {}
        for done, (n, seed) in enumerate(cells):
            path = self._folder(method) / f"n{n}-seed{seed}.json"
            held_out = self.held_out.digest() if self.plan.runs_alone(n, seed) else None
            settings = {**common, "n": n, "seed": seed, "held_out": held_out}
            if held_out and runner is not None and runner.method.nested_config is not None:
                settings["alone"] = asdict(runner.method.nested_config())
            result = read_record(path, settings, self.say)
            if result is None:
                try:
                    result = self._judge(runner, n, seed, part(tell, done / len(cells), 1 / len(cells)))
                except InputError as error:
                    refused.setdefault(n, str(error))
                    continue
                write_record(path, settings, result)
            kept[n, seed] = result
        return Found(kept, refused, self.court.judges[0].size)

    def _stabilities(
        self, method: str, runner: Runner | None, cells: Sequence[tuple[int, int]]
    ) -> dict[int, float | None]:
        common, stable = self._settings(method, runner), {}
        for n in self._resampled(method, runner, cells):
            path, settings = self._folder(method) / f"stability-n{n}.json", {**common, "n": n}
            result = read_record(path, settings, self.say)
            if result is None:
                result = self._stability(runner, n)
                write_record(path, settings, result)
            stable[n] = result["bootstrap_jaccard"]
        return stable

    def _folder(self, method: str) -> Path:
        """A method of one's own may be named by its file."""
        return self.folder / method.replace("/", "-").replace(":", "-")

    @property
    def _n_heads(self) -> int:
        return self.model.cfg.n_layers * self.model.cfg.n_heads

    @property
    def ablator(self) -> Ablator:
        """Of the held-out pairs, which are run once for all cells."""
        if self._ablator is None:
            self._ablator = Ablator(self.model, self.held_out, batch_size=self.batch_size)
        return self._ablator

    def _runner(self, method: str) -> Runner | None:
        """``None`` for the baseline, whose effects are measured already."""
        if method == YARDSTICK:
            return None
        return Runner(
            method,
            self.model,
            self.pool,
            self._folder(method),
            weights=self.weights,
            edges_compared=any(judge.edges is not None for judge in self.court.judges),
            batch_size=self.batch_size,
            say=self.say,
        )

    def _settings(self, method: str, runner: Runner | None) -> dict:
        digest = hashlib.sha256(np.ascontiguousarray(self.court.measured.heads).tobytes())
        for judge in self.court.judges:
            digest.update(judge.name.encode() + judge.truth.tobytes())
        # heads' own settings stay as they are where edges are not compared: those cells are kept
        config = runner.method.edges_config if runner is not None and runner.edges_compared else None
        return ({"edges": asdict(config())} if config is not None else {}) | {
            "task": self.target.task,
            "model": self.target.model,
            "dtype": describe_model(self.model)["dtype"],
            "method": method,
            "config": {} if runner is None else runner.settings(),
            "pairs": self.pool.digest(),
            "weights": self.weights,
            "references": digest.hexdigest()[:16],
        }

    def _judge(self, runner: Runner | None, n: int, seed: int, tell: Tell) -> dict:
        judges = self.court.judges
        if runner is None:
            given = self.court.yardstick(n, seed)
            assert given is not None
            scores, judges = given
            outcome = Outcome(scores, n * self.court.yardstick_forwards())
        else:
            outcome = runner.outcome(n, seed, lambda share: tell(share / 2))
        faithful, alone_forwards = None, 0.0
        if self.plan.runs_alone(n, seed):
            order = outcome.heads
            if runner is not None:
                order, alone_forwards = runner.alone(n, seed, outcome, lambda share: tell((1 + share) / 2))
            faithful = faithfulness_curves(self.ablator, order, seed=seed).to_dict()
        return {
            "heads": outcome.heads.tolist(),
            "forwards": outcome.forwards,
            "edge_forwards": outcome.edge_forwards,
            "alone_forwards": alone_forwards,
            "agreement": {
                judge.name: judge.agreement(outcome.heads) | judge.edge_agreement(outcome.edges)
                for judge in judges
            },
            "faithfulness": faithful,
        }

    def _resampled(
        self, method: str, runner: Runner | None, cells: Sequence[tuple[int, int]]
    ) -> Sequence[int]:
        """Numbers of pairs at which the choice of heads is repeated on resamples of seed 0's pairs."""
        sizes = sorted({n for n, _ in cells if n > 1})
        if runner is None or runner.per_pair is not None:
            return sizes
        dear = load_method(method).most_pairs is not None and self._n_heads > SMALL
        return [] if dear else sizes[-1:]

    def _stability(self, runner: Runner | None, n: int) -> dict:
        size = self.court.judges[0].size
        if runner is None:
            measured = self.court.measured
            value = bootstrap_stability(measured.heads[drawn(0, n, measured.n_pairs)], size)
            return {"bootstrap_jaccard": value, "size": size}
        indices = drawn(0, n, len(self.pool))
        if runner.per_pair is not None:
            return {"bootstrap_jaccard": bootstrap_stability(runner.per_pair[indices], size), "size": size}
        circuits = []
        for draw in range(RERUNS):
            again = np.random.default_rng(draw).choice(indices, n).tolist()
            circuits.append(best_heads(runner.heads(again, draw), size, seed=draw))
        return {"bootstrap_jaccard": mean_jaccard(circuits), "size": size}


@dataclass(frozen=True)
class Found:
    """What a job found of a method on a target.

    Attributes:
        kept: results of cells, by pairs and seed.
        refused: why there is none, by pairs.
        size: members of the first reference.
        stable: stability of the choice of heads, by pairs, where it was measured.
        left: cells that are jobs of their own.
    """

    kept: dict[tuple[int, int], dict]
    refused: dict[int, str]
    size: int
    stable: dict[int, float | None] = field(default_factory=dict)
    left: tuple[tuple[int, int], ...] = ()


class Desk:
    """What a process has loaded: one model, and one target on it."""

    def __init__(self, plan: Plan, out: Path, models: OneModel, batch_size: int) -> None:
        self.plan, self.out, self.models, self.batch_size = plan, out, models, batch_size
        self._bench: TargetBench | None = None

    def bench(self, target: Target, say: Say) -> "TargetBench | Unmeasured":
        if self._bench is None or self._bench.target != target:
            self._bench = None  # with its model, if another is needed
            model = self.models(target.model)
            found = TargetBench.prepare(
                target, self.plan, model, self.out, batch_size=self.batch_size, say=say
            )
            if isinstance(found, Unmeasured):
                return found
            self._bench = found
        self._bench.say = say
        return self._bench

    def begin(self, target: Target, told: Told) -> "dict[str, tuple[tuple[int, int], ...]] | Unmeasured":
        """The cells of every method, or what has to be measured before."""
        bench = self.bench(target, told.say)
        if isinstance(bench, Unmeasured):
            return bench
        return {name: bench.cells_of(name) for name in (YARDSTICK, *self.plan.methods)}

    def find(self, target: Target, how: str, method: str, cells: Any, told: Told) -> Found:
        """One of :class:`TargetBench`'s ``run``, ``one`` and ``stability``."""
        bench = self.bench(target, told.say)
        assert isinstance(bench, TargetBench)
        return getattr(bench, how)(method, cells, told.share)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_bench": None}


_STEPS = 100
"""Steps of the progress bar a method on a target, and for the reference of a target."""
_READ = 1.0
"""A row that took fewer seconds was read, or cost nothing."""


def run_bench(
    plan: Plan,
    out: Path | str,
    *,
    device: str | None = None,
    dtype: str = "float32",
    batch_size: int = BATCH_SIZE,
    workers: Workers = SERIAL,
    shard: Shard | None = None,
    stage: Stage = silent,
    say: Say = lambda _line: None,
) -> dict | None:
    """Run what is not in ``out`` already, and return the table (:func:`interp.bench.table.tabulate`).

    A method that refuses a target (:class:`InputError`) is left out there, a target that refuses everything as a whole,
    and the table says why.

    Args:
        out: folder that holds every cell; see :mod:`interp.bench.plan`.
        workers: where jobs run; of a method whose cells share nothing each cell is a job.
        shard: of the parts of references and of the rows of the table, for the tasks of a job array; then there is no
            table. Rows of a target wait until its reference is whole.
        say: told one line a method, and about files that had to be made again.

    Raises:
        InputError: a model that cannot be loaded; or no target at all can be run, with the last one's reason.
        JobsFailedError: some jobs failed on workers; all others are done.
    """
    out = Path(out)
    for spec in {target.model for target in plan.targets() if not target.planted}:
        load_tokenizer(spec)  # a misspelt model shows now and not after hours
    bench = _Bench(plan, shard or Shard(), say)
    desk = Desk(plan, out, OneModel(device=device, dtype=dtype), batch_size)
    log = out / ("log.jsonl" if shard is None else f"log-{shard.number}-of-{shard.of}.jsonl")
    with stage("bench", bench.steps) as bench.advance:
        for job, found in run(desk, bench.jobs, workers=workers, advance=bench.advance, say=say, log=log):
            bench.take(job, found)
    if shard is not None:
        return None
    for target in plan.targets():
        shutil.rmtree(parts_of_reference(out / target.folder, plan.reference), ignore_errors=True)
    cells = [cell for key in bench.keys for cell in bench.cells.get(key, ())]
    if bench.error is not None and not cells:
        raise bench.error
    table = tabulate(plan, cells, bench.skipped)
    table["plan"]["dtype"] = dtype
    return table


class _Bench:
    """The jobs of a bench: which follow from what was found, and what it all comes to.

    A target is looked at; if there is no reference its parts are measured, and it is looked at again. Then each of its
    methods is run; then the cells that are left, and how stable the choice of heads is.
    """

    def __init__(self, plan: Plan, shard: Shard, say: Say) -> None:
        self.plan, self.shard, self.say = plan, shard, say
        self.methods = (YARDSTICK, *plan.methods)
        self.keys = [(target, method) for target in plan.targets() for method in self.methods]
        self.steps = _STEPS * (len(plan.targets()) + len(self.keys))
        self.advance: Callable[[int], None] = lambda _steps: None
        self.jobs = deque(self._look(target) for target in plan.targets())
        self.cells: dict[tuple[Target, str], list[Cell]] = {}
        self.error: InputError | None = None
        """Why a target was left out: the last one's reason."""
        self._reasons: dict[tuple[Target, str], list[str]] = {}
        self._parts: dict[Target, tuple[Unmeasured, int]] = {}
        """Of targets whose reference is being measured, and how many parts are still to come."""
        self._begun: dict[tuple[Target, str], tuple[Found, int]] = {}
        """Of methods whose cells are jobs of their own, and how many are still to come."""
        self._estimate = _Estimate(len(self.keys))

    @property
    def skipped(self) -> list[dict]:
        return [
            {"task": target.task, "model": target.model, "method": method, "why": why}
            for target, method in self.keys
            for why in self._reasons.get((target, method), ())
        ]

    def take(self, job: Job, found: Any) -> None:
        """What a job gave; puts those that follow before all others."""
        if job.do is Desk.find:
            target, how, method, cells = job.args
            if isinstance(found, InputError):
                found = Found({}, {0: str(found)}, 0)
            self._ran(target, method, how, found)
            return
        target = job.args[0] if job.do is Desk.begin else self._measured_by(job)
        if isinstance(found, InputError):
            self._leave_out(target, found)
        elif isinstance(found, Unmeasured):
            self._measure(found)
        elif job.do is Desk.begin:
            self._run(target, found)
        else:
            self._part_is_there(target)

    def _look(self, target: Target) -> Job:
        return Job(f"{target.name}: reference", Desk.begin, (target,), self._place(target), _STEPS // 10)

    @staticmethod
    def _place(target: Target) -> tuple[str, ...]:
        return target.model, target.task

    def _measured_by(self, job: Job) -> Target:
        return next(target for target in self.plan.targets() if self._place(target) == job.place)

    def _leave_out(self, target: Target, error: InputError) -> None:
        """All of its methods, unless another part of its reference said so before."""
        if (target, YARDSTICK) not in self._reasons:
            self.error = error
            self._reasons |= {(target, method): [str(error)] for method in self.methods}
            self.advance(_STEPS * len(self.methods))
            self.say(f"{target.name}: left out: {error}{self._estimate.after(len(self.methods))}")

    def _measure(self, unmeasured: Unmeasured) -> None:
        target, steps = unmeasured.target, _STEPS - 2 * (_STEPS // 10)
        every = unmeasured.measurement.jobs(target.name, self._place(target), steps)
        mine = [job for i, job in enumerate(every) if self.shard.takes(i)]
        self._parts[target] = unmeasured, len(mine) + 1
        self.jobs.extendleft(reversed(mine))
        self._part_is_there(target)  # of a shard there may be none to do

    def _part_is_there(self, target: Target) -> None:
        unmeasured, left = self._parts[target]
        self._parts[target] = unmeasured, left - 1
        if left > 1:
            return
        if unmeasured.keep():
            self.jobs.appendleft(self._look(target))
        else:
            self.say(f"{target.name}: waits for the parts of its reference that other shards measure")

    def _run(self, target: Target, wanted: dict[str, tuple[tuple[int, int], ...]]) -> None:
        if target not in self._parts:
            self.advance(_STEPS - _STEPS // 10)
        jobs = []
        for method, cells in wanted.items():
            if not self.shard.takes(self.keys.index((target, method))):
                continue
            if cells:
                jobs.append(self._find(target, method, "run", cells, _STEPS // 2))
            else:
                self.advance(_STEPS)
                self._done(target, method, Found({}, {}, 0), [_why_none(method, self.plan)])
        self.jobs.extendleft(reversed(jobs))

    def _find(self, target: Target, method: str, how: str, cells: Any, steps: int) -> Job:
        told = "".join(f" n{n}-seed{seed}" for n, seed in [cells]) if how == "one" else f" {how}"
        args = (target, how, method, cells)
        return Job(f"{target.name}, {method}:{told}", Desk.find, args, self._place(target), steps)

    def _ran(self, target: Target, method: str, how: str, found: Found) -> None:
        """One of three kinds of job is done: what shares something, one cell, and the stability of all."""
        steps = _STEPS - _STEPS // 2
        if how == "run":
            self._begun[target, method] = found, len(found.left)
            each = steps // (len(found.left) + 1)
            self.jobs.extendleft(
                self._find(target, method, "one", cell, each) for cell in reversed(found.left)
            )
            if not found.left:
                self.advance(steps)
        known, waiting = self._begun[target, method]
        if how != "run":
            known = replace(
                known,
                kept=known.kept | found.kept,
                refused=found.refused | known.refused,
                size=max(known.size, found.size),
                stable=found.stable,
            )
            waiting -= 1
            self._begun[target, method] = known, waiting
        if waiting > 0:
            return
        if how == "one" and known.kept:
            cells = sorted(known.kept)
            each = steps - steps // (len(known.left) + 1) * len(known.left)
            self.jobs.appendleft(self._find(target, method, "stability", cells, each))
            return
        if known.refused and not known.kept:
            reasons = [next(iter(known.refused.values()))]
        else:
            reasons = [f"with {n} pairs: {why}" for n, why in sorted(known.refused.items())]
        self._done(target, method, known, reasons)

    def _done(self, target: Target, method: str, found: Found, reasons: list[str]) -> None:
        self._reasons[target, method] = reasons
        cells = [
            Cell(target, method, n, seed, result, found.size, found.stable.get(n))
            for (n, seed), result in sorted(found.kept.items())
        ]
        self.cells[target, method] = cells
        line = "; ".join(([one_line(cells)] if cells else []) + [f"left out: {why}" for why in reasons])
        self.say(f"{target.name}, {method}: {line}{self._estimate.after(1)}")


def _why_none(method: str, plan: Plan) -> str:
    if method == YARDSTICK:
        return f"the reference has too few pairs for {min(plan.pairs)} and others to judge by"
    return f"too dear at {min(plan.pairs)} pairs; --methods {method} runs it"


class _Estimate:
    """How long the rest may take, if each row takes what those took that were run; rough, since methods differ.

    Rows that were read from earlier runs, or cost nothing, say nothing about the others.
    """

    def __init__(self, rows: int) -> None:
        self.rows, self.done, self.told = rows, 0, time.perf_counter()
        self.run_rows, self.run_seconds = 0, 0.0

    def after(self, rows: int) -> str:
        now = time.perf_counter()
        seconds, self.told = now - self.told, now
        self.done += rows
        if seconds > _READ * rows:
            self.run_rows, self.run_seconds = self.run_rows + rows, self.run_seconds + seconds
        if self.done == self.rows:
            return ""
        left = self.run_seconds / max(1, self.run_rows) * (self.rows - self.done)
        guess = f", about {left / 60:.0f} min left" if self.run_rows else ""
        return f"  ({self.done} of {self.rows}{guess})"
