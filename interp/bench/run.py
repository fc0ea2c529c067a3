"""The bench itself: jobs for targets, methods and cells, every cell read where it is kept, else made and saved."""

import hashlib
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from interp.activations.stream import BATCH_SIZE
from interp.bench.cells import CellResult, Runner, Tell, part
from interp.bench.judges import Court, Unmeasured, convene, parts_of_reference
from interp.bench.plan import POOL_SEED, SMALL, YARDSTICK, BenchPlan, BenchTarget, Say, drawn, read_record, write_record
from interp.bench.table import BenchCell, one_line, tabulate
from interp.errors import InputError
from interp.evaluation.faithfulness import faithfulness_curves
from interp.evaluation.stability import best_heads, bootstrap_stability, mean_jaccard
from interp.executor import SERIAL, Job, JobProgress, Shard, Steps, Work, Workers, checked, run_work
from interp.interventions.ablation import Ablator
from interp.models import Model, OneModel, describe_model, load_tokenizer, weights_checksum
from interp.progress import Stage, silent
from interp.prompts.pairs import PromptPairs, Task
from interp.prompts.sampling import as_many_as_there_are, held_out_pairs, sample_pairs
from interp.scores.registry import load_method
from interp.tasks import load_task

RERUNS = 5  # bootstrap resamples of a method that has to run again for each; resampling scores per pair costs nothing


def pool_of(task: Task, tokenizer: Any, plan: BenchPlan) -> PromptPairs:
    """The pairs that seeds draw from.

    Of a task that has no more than the plan's pool and reference it is half of what there is, and at least what the
    plan asks for, so that others are left to judge by. :class:`InputError`: no others are left.
    """

    def sample(n: int) -> PromptPairs:
        return sample_pairs(task, tokenizer, n, n, POOL_SEED)

    n_pairs, most = len(as_many_as_there_are(sample, plan.pool + plan.reference)), max(plan.pairs)
    if n_pairs == plan.pool + plan.reference:
        return sample(plan.pool)
    if n_pairs <= most:
        raise InputError(
            f"task {task.name!r} has {n_pairs} pairs, and --pairs asks for {most}: others are needed to judge by"
        )
    return sample(min(plan.pool, max(most, n_pairs // 2)))


@dataclass
class TargetBench:
    """All that the cells of one target share."""

    target: BenchTarget
    plan: BenchPlan
    model: Model
    weights: str
    folder: Path
    pool: PromptPairs
    held_out: PromptPairs
    court: Court
    batch_size: int
    say: Say

    @classmethod
    def prepare(
        cls, target: BenchTarget, plan: BenchPlan, model: Model, out: Path, *, batch_size: int, say: Say
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

    def run(self, method: str, cells: Sequence[tuple[int, int]], tell: Tell) -> "MethodCells":
        """Every cell of a method that shares something with the others; of one whose cells do not, the first."""
        runner, todo = self._runner(method), list(cells)
        if runner is not None:
            runner.prepare(cells, part(tell, 0.0, 0.5))
            if runner.cell_by_cell:
                todo = [runner.looked_at(cells) or cells[0]]
        measured = self._cells(method, runner, todo, part(tell, 0.5, 0.5))
        if len(todo) == len(cells):
            return replace(measured, stable=self._stabilities(method, runner, list(measured.kept)))
        return replace(measured, left=tuple(cell for cell in cells if cell not in todo))

    def run_cell(self, method: str, cell: tuple[int, int], tell: Tell) -> "MethodCells":
        """A cell of a method whose cells share nothing."""
        return self._cells(method, self._runner(method), [cell], tell)

    def stability(self, method: str, cells: Sequence[tuple[int, int]], _tell: Tell) -> "MethodCells":
        """How stable the choice of heads is, of a method whose cells share nothing and are known."""
        return MethodCells(stable=self._stabilities(method, self._runner(method), cells))

    def _cells(self, method: str, runner: Runner | None, cells: Sequence[tuple[int, int]], tell: Tell) -> "MethodCells":
        common = self._settings(method, runner)
        kept, refused = dict[tuple[int, int], dict](), dict[int, str]()
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
        return MethodCells(kept, refused, self.court.judges[0].size)

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

    @cached_property
    def ablator(self) -> Ablator:
        """Of the held-out pairs, which are run once for all cells."""
        return Ablator(self.model, self.held_out, batch_size=self.batch_size)

    def _runner(self, method: str) -> Runner | None:
        """``None`` for the baseline, whose effects are measured already."""
        if method == YARDSTICK:
            return None
        compared = any(judge.edges is not None for judge in self.court.judges)
        options: dict[str, Any] = {"weights": self.weights, "edges_compared": compared, "batch_size": self.batch_size}
        return Runner(method, self.model, self.pool, self._folder(method), **options, say=self.say)

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
            outcome = CellResult(scores, n * self.court.yardstick_forwards())
        else:
            outcome = runner.outcome(n, seed, part(tell, 0.0, 0.5))
        faithful, alone_forwards = None, 0.0
        if self.plan.runs_alone(n, seed):
            order = outcome.heads
            if runner is not None:
                order, alone_forwards = runner.alone(n, seed, outcome, part(tell, 0.5, 0.5))
            faithful = faithfulness_curves(self.ablator, order, seed=seed).to_dict()
        return {
            "heads": outcome.heads.tolist(),
            "forwards": outcome.forwards,
            "edge_forwards": outcome.edge_forwards,
            "alone_forwards": alone_forwards,
            "agreement": {
                judge.name: judge.agreement(outcome.heads) | judge.edge_agreement(outcome.edges) for judge in judges
            },
            "faithfulness": faithful,
        }

    def _resampled(self, method: str, runner: Runner | None, cells: Sequence[tuple[int, int]]) -> Sequence[int]:
        """Numbers of pairs at which the choice of heads is repeated on resamples of seed 0's pairs."""
        sizes = sorted({n for n, _ in cells if n > 1})
        if runner is None or runner.per_pair is not None:
            return sizes
        dear = load_method(method).most_pairs is not None and self._n_heads > SMALL
        return [] if dear else sizes[-1:]

    def _stability(self, runner: Runner | None, n: int) -> dict:
        size = self.court.judges[0].size
        per_pair = self.court.measured.heads if runner is None else runner.per_pair
        if per_pair is not None:
            value = bootstrap_stability(per_pair[drawn(0, n, len(per_pair))], size)
        else:
            assert runner is not None
            indices, circuits = drawn(0, n, len(self.pool)), []
            for draw in range(RERUNS):
                resampled = np.random.default_rng(draw).choice(indices, n).tolist()
                circuits.append(best_heads(runner.heads(resampled, draw), size, seed=draw))
            value = mean_jaccard(circuits)
        return {"bootstrap_jaccard": value, "size": size}


@dataclass(frozen=True)
class MethodCells:
    """What a job found of a method on a target."""

    # results of cells, by pairs and seed; `refused` says why there is none, by pairs
    kept: dict[tuple[int, int], dict] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    size: int = 0  # members of the first reference
    # stability of the choice of heads, by pairs, where it was measured
    stable: dict[int, float | None] = field(default_factory=dict)
    left: tuple[tuple[int, int], ...] = ()  # cells that are jobs of their own

    def __or__(self, later: "MethodCells | InputError") -> "MethodCells":
        """With what a later job found, or why it was refused."""
        if isinstance(later, InputError):
            return replace(self, refused={0: str(later)} | self.refused)
        return replace(
            self,
            kept=self.kept | later.kept,
            refused=later.refused | self.refused,
            size=max(self.size, later.size),
            stable=later.stable,
            left=self.left or later.left,
        )

    @property
    def reasons(self) -> tuple[str, ...]:
        if self.refused and not self.kept:
            return (next(iter(self.refused.values())),)
        return tuple(f"with {n} pairs: {why}" for n, why in sorted(self.refused.items()))


class BenchWorker:
    """What a process has loaded: one model, and one target on it."""

    def __init__(self, plan: BenchPlan, out: Path, models: OneModel, batch_size: int) -> None:
        self.plan, self.out, self.models, self.batch_size = plan, out, models, batch_size
        self._bench: TargetBench | None = None

    def bench(self, target: BenchTarget, say: Say) -> "TargetBench | Unmeasured":
        if self._bench is None or self._bench.target != target:
            self._bench = None  # with its model, if another is needed
            model = self.models(target.model)
            prepared = TargetBench.prepare(target, self.plan, model, self.out, batch_size=self.batch_size, say=say)
            if isinstance(prepared, Unmeasured):
                return prepared
            self._bench = prepared
        self._bench.say = say
        return self._bench

    def begin(
        self, target: BenchTarget, progress: JobProgress
    ) -> "dict[str, tuple[tuple[int, int], ...]] | Unmeasured":
        """The cells of every method, or what has to be measured before."""
        bench = self.bench(target, progress.say)
        if isinstance(bench, Unmeasured):
            return bench
        return {name: bench.cells_of(name) for name in (YARDSTICK, *self.plan.methods)}

    def find(self, target: BenchTarget, step: str, method: str, cells: Any, progress: JobProgress) -> MethodCells:
        bench = self.bench(target, progress.say)
        assert isinstance(bench, TargetBench)
        return getattr(bench, step)(method, cells, progress.share)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_bench": None}


_STEPS = 100  # steps of the progress bar a method on a target, and for the reference of a target


def run_bench(
    plan: BenchPlan,
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
    """Run what is not in ``out`` already (:mod:`interp.bench.plan`), and return the table
    (:func:`~interp.bench.table.tabulate`).

    A method that refuses a target (:class:`InputError`) is left out there, a target that refuses everything as a whole,
    and the table says why. ``shard``: of the parts of references and of the rows of the table, for the tasks of a job
    array; then there is no table. Rows of a target wait until its reference is whole.

    Raises:
        InputError: a model that cannot be loaded; or no target at all can be run, with the last one's reason.
        JobsFailedError: some jobs failed on workers; all others are done.
    """
    out = Path(out)
    for spec in {target.model for target in plan.targets() if not target.planted}:
        load_tokenizer(spec)  # a misspelt model shows now and not after hours
    bench = _Bench(plan, shard or Shard(), say)
    worker = BenchWorker(plan, out, OneModel(device=device, dtype=dtype), batch_size)
    work, log = bench.work(), bench.shard.log(out)
    by_target = run_work(worker, work, stage("bench", work.steps), workers=workers, say=say, log=log)
    if shard is not None:
        return None
    for target in plan.targets():
        shutil.rmtree(parts_of_reference(out / target.folder, plan.reference), ignore_errors=True)
    rows: list[_Row] = list(itertools.chain.from_iterable(by_target))
    cells = [cell for row in rows for cell in row.cells]
    if bench.error is not None and not cells:
        raise bench.error
    skipped = [{**asdict(row.target), "method": row.method, "why": why} for row in rows for why in row.reasons]
    table = tabulate(plan, cells, skipped)
    table["plan"]["dtype"] = dtype
    return table


class _Row(NamedTuple):
    """A method on a target: its cells, and why some are left out."""

    target: BenchTarget
    method: str
    cells: tuple[BenchCell, ...]
    reasons: tuple[str, ...]


class _Bench:
    """Which jobs follow from what was found: of a target the reference, its parts first where there is none; of each of
    its methods those cells that share something, the others, and how stable the choice of heads is."""

    def __init__(self, plan: BenchPlan, shard: Shard, say: Say) -> None:
        self.plan, self.shard, self.say = plan, shard, say
        self.methods = (YARDSTICK, *plan.methods)
        self.keys = [(target, method) for target in plan.targets() for method in self.methods]
        self.done = 0
        self.error: InputError | None = None  # why a target was left out: the last one's reason

    def work(self) -> Work:
        steps = _STEPS * (1 + len(self.methods))
        return Work.all([Work(self._target(target), steps) for target in self.plan.targets()])

    def _target(self, target: BenchTarget) -> Steps:
        [wanted] = yield [Work(self._reference(target), _STEPS)]
        if isinstance(wanted, InputError):
            self.error = wanted
            self.say(f"{target.name}: left out: {wanted}{self._count(len(self.methods))}")
            return [_Row(target, method, (), (str(wanted),)) for method in self.methods]
        of_shard = [name for name in wanted if self.shard.takes(self.keys.index((target, name)))]
        return (yield [Work(self._method(target, name, wanted[name]), _STEPS) for name in of_shard])

    def _reference(self, target: BenchTarget) -> Steps:
        """The cells of every method; nothing while other shards measure."""
        name, place, looking = target.name, (target.model, target.task), _STEPS // 10
        look = Job(f"{name}: reference", BenchWorker.begin, (target,), place, looking)
        [cells] = checked((yield [look]))
        while isinstance(cells, Unmeasured):
            checked((yield self.shard.share(cells.measurement.jobs(name, place, _STEPS - 2 * looking))))
            if not cells.keep():
                self.say(f"{name}: waits for the parts of its reference that other shards measure")
                return {}
            [cells] = checked((yield [look]))
        return cells

    def _method(self, target: BenchTarget, method: str, cells: Sequence[tuple[int, int]]) -> Steps:
        def job(how: str, label: str, wanted: Any, steps: int) -> Job:
            args, place = (target, how, method, wanted), (target.model, target.task)
            return Job(f"{target.name}, {method}: {label}", BenchWorker.find, args, place, steps)

        fewest = min(self.plan.pairs)
        why = f"too dear at {fewest} pairs; --methods {method} runs it"
        if method == YARDSTICK:
            why = f"the reference has too few pairs for {fewest} and others to judge by"
        measured = MethodCells(refused={} if cells else {0: why})
        if cells:
            [first] = yield [job("run", "run", cells, _STEPS // 2)]
            measured |= first
        if measured.left:
            steps = _STEPS // 2 // (len(measured.left) + 1)
            apart = [job("run_cell", f"n{n}-seed{seed}", (n, seed), steps) for n, seed in measured.left]
            for later in (yield apart):
                measured |= later
            if measured.kept:
                [later] = yield [job("stability", "stability", sorted(measured.kept), steps)]
                measured |= later
        rows = tuple(
            BenchCell(target, method, n, seed, result, measured.size, measured.stable.get(n))
            for (n, seed), result in sorted(measured.kept.items())
        )
        words = [*([one_line(rows)] if rows else []), *(f"left out: {why}" for why in measured.reasons)]
        self.say(f"{target.name}, {method}: {'; '.join(words)}{self._count(1)}")
        return _Row(target, method, rows, measured.reasons)

    def _count(self, rows: int) -> str:
        self.done += rows
        return "" if self.done == len(self.keys) else f"  ({self.done} of {len(self.keys)})"
