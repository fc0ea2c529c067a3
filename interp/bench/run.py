"""The bench itself: target by target and method by method, every cell saved as soon as it is known."""

import time
from collections.abc import Callable
from pathlib import Path

from interp.activations.stream import BATCH_SIZE
from interp.bench.plan import YARDSTICK, Plan, Target
from interp.bench.store import Say
from interp.bench.table import Cell, one_line, tabulate
from interp.bench.target import TargetBench
from interp.models import Model, describe_model, load_model, load_tokenizer
from interp.progress import Stage, silent
from interp.tasks.errors import InputError

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
        out: folder that holds every cell; see :mod:`interp.bench.store`.
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
