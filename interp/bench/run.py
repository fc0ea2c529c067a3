"""The bench itself: target by target and method by method, every cell saved as soon as it is known.

One task on one model: its pairs, its judges, and every cell of a method, read where it is kept, else made.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp.activations.stream import BATCH_SIZE
from interp.bench.cells import Outcome, Runner, Tell, part
from interp.bench.judges import Court, convene
from interp.bench.plan import (
    POOL_SEED,
    SMALL,
    YARDSTICK,
    Plan,
    Say,
    Target,
    drawn,
    read_record,
    write_record,
)
from interp.bench.table import Cell, one_line, tabulate
from interp.errors import InputError
from interp.evaluation.ablation import Ablator
from interp.evaluation.faithfulness import faithfulness_curves
from interp.evaluation.stability import best_heads, bootstrap_stability, mean_jaccard
from interp.models import Model, describe_model, load_model, load_tokenizer, weights_checksum
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
        cls, target: Target, plan: Plan, model: Model, out: Path, *, batch_size: int, stage: Stage, say: Say
    ) -> "TargetBench":
        """Sample the pairs, and find or measure the references."""
        task, folder = load_task(target.task), out / target.folder
        pool = pool_of(task, model.tokenizer, plan)
        held_out = held_out_pairs(task, model.tokenizer, plan.held_out, pool)
        n = plan.reference
        court = convene(target, task, model, folder, pool, n=n, batch_size=batch_size, stage=stage, say=say)
        weights = weights_checksum(model)  # which takes a third of a second: once for all cells
        return cls(target, plan, model, weights, folder, pool, held_out, court, batch_size, say)

    def cells_of(self, method: str) -> tuple[tuple[int, int], ...]:
        """(pairs, seed) of every cell that the method is given here."""
        cells = self.plan.cells(method, self._n_heads)
        if method == YARDSTICK:
            return tuple(cell for cell in cells if cell[0] < self.court.measured.n_pairs)
        return cells

    def run(
        self, method: str, cells: Sequence[tuple[int, int]], tell: Tell
    ) -> tuple[list[Cell], dict[int, str]]:
        """Every cell of a method, and why there is none of some numbers of pairs.

        Raises:
            InputError: the method cannot be used on this model or task, whatever the number.
        """
        runner, folder = self._runner(method), self._folder(method)
        common = self._settings(method, runner)
        if runner is not None:
            runner.prepare(cells, lambda share: tell(share / 2))
        kept: dict[tuple[int, int], dict] = {}
        refused: dict[int, str] = {}
        for done, (n, seed) in enumerate(cells):
            path = folder / f"n{n}-seed{seed}.json"
            held_out = self.held_out.digest() if self.plan.runs_alone(n, seed) else None
            settings = {**common, "n": n, "seed": seed, "held_out": held_out}
            if held_out and runner is not None and runner.method.nested_config is not None:
                settings["alone"] = asdict(runner.method.nested_config())
            result = read_record(path, settings, self.say)
            if result is None:
                begin, width = 0.5 + done / len(cells) / 2, 0.5 / len(cells)
                try:
                    result = self._judge(runner, n, seed, part(tell, begin, width))
                except InputError as error:
                    refused.setdefault(n, str(error))
                    continue
                write_record(path, settings, result)
            kept[n, seed] = result
        if refused and not kept:
            raise InputError(next(iter(refused.values())))
        stable: dict[int, dict] = {}
        for n in self._resampled(method, runner, [*kept]):
            path, settings = folder / f"stability-n{n}.json", {**common, "n": n}
            result = read_record(path, settings, self.say)
            if result is None:
                result = self._stability(runner, n)
                write_record(path, settings, result)
            stable[n] = result
        size = self.court.judges[0].size
        return [
            Cell(self.target, method, n, seed, result, size, stable.get(n, {}).get("bootstrap_jaccard"))
            for (n, seed), result in kept.items()
        ], refused

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
        """``None`` for the yardstick, whose effects are measured already."""
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
            outcome = Outcome(scores, n * self.court.yardstick_forwards(), None)
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
            "seconds": outcome.seconds,
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


_STEPS = 100
"""Steps of the progress bar a cell."""
_READ = 1.0
"""A row that took fewer seconds was read, or cost nothing."""


def run_bench(
    plan: Plan,
    out: Path | str,
    *,
    device: str | None = None,
    dtype: str = "float32",
    batch_size: int = BATCH_SIZE,
    stage: Stage = silent,
    say: Say = lambda _line: None,
) -> dict:
    """Run what is not in ``out`` already, and return the table (:func:`interp.bench.table.tabulate`).

    A method that refuses a target (:class:`InputError`) is left out there, a target that refuses everything as a whole,
    and the table says why.

    Args:
        out: folder that holds every cell; see :mod:`interp.bench.plan`.
        say: told one line a method, and about files that had to be made again.

    Raises:
        InputError: a model that cannot be loaded; or no target at all can be run, with the last one's reason.
    """
    targets, out = plan.targets(), Path(out)
    for spec in {target.model for target in targets if not target.planted}:
        load_tokenizer(spec)  # a misspelt model shows now and not after hours
    cells: list[Cell] = []
    skipped: list[dict] = []
    estimate = _Estimate(len(targets) * (1 + len(plan.methods)))
    refused: InputError | None = None
    model: Model | None = None
    for target in targets:
        if model is None or describe_model(model)["spec"] != target.model:
            model = bench = None  # one model at a time in memory
            model = load_model(target.model, device=device, dtype=dtype)
        try:
            bench = TargetBench.prepare(target, plan, model, out, batch_size=batch_size, stage=stage, say=say)
        except InputError as error:
            refused = error
            skipped += [_left_out(target, name, str(error)) for name in (YARDSTICK, *plan.methods)]
            say(f"{target.name}: left out: {error}{estimate.after(1 + len(plan.methods))}")
            continue
        wanted = {name: bench.cells_of(name) for name in (YARDSTICK, *plan.methods)}
        with stage(target.name, _STEPS * sum(map(len, wanted.values()))) as advance:
            for name, its_cells in wanted.items():
                meter = _Meter(advance, _STEPS * len(its_cells))
                why = "" if its_cells else _why_none(name, plan)
                try:
                    found, sizes = bench.run(name, its_cells, meter.to) if its_cells else ([], {})
                except InputError as error:
                    found, sizes, why = [], {}, str(error)
                meter.to(1.0)
                cells += found
                reasons = [why] * bool(why) + [f"with {n} pairs: {reason}" for n, reason in sizes.items()]
                skipped += [_left_out(target, name, reason) for reason in reasons]
                line = "; ".join(([one_line(found)] if found else []) + [f"left out: {r}" for r in reasons])
                say(f"{target.name}, {name}: {line}{estimate.after(1)}")
    if refused is not None and not cells:
        raise refused
    table = tabulate(plan, cells, skipped)
    table["plan"]["dtype"] = dtype
    return table


def _left_out(target: Target, method: str, why: str) -> dict:
    return {"task": target.task, "model": target.model, "method": method, "why": why}


def _why_none(method: str, plan: Plan) -> str:
    if method == YARDSTICK:
        return f"the reference has too few pairs for {min(plan.pairs)} and others to judge by"
    return f"too dear at {min(plan.pairs)} pairs; --methods {method} runs it"


class _Meter:
    """Turns the share of a method's work that is done into whole steps of the bar."""

    def __init__(self, advance: Callable[[int], None], steps: int) -> None:
        self.advance, self.steps, self.told = advance, steps, 0

    def to(self, share: float) -> None:
        reached = round(min(1.0, share) * self.steps)
        if reached > self.told:
            self.advance(reached - self.told)
            self.told = reached


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
