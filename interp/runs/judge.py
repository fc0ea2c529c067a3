"""The controls of a run's program, on the pairs that judged it: ``interp program RUN --judge``."""

from dataclasses import dataclass
from pathlib import Path

from interp.activations.stream import HUNDREDTHS
from interp.errors import InputError
from interp.executor import SERIAL, Job, Told, Work, Workers, checked, run_work
from interp.models import Model, OneModel, describe_model
from interp.programs.judge import Judge
from interp.programs.program import fit_and_judge
from interp.programs.schema import Interchange, Program
from interp.programs.slots import SlotRunner
from interp.progress import Stage, silent
from interp.runs.folder import pairs_of, task_of
from interp.runs.run import Run


def judge_program(
    run: Run,
    model: Model | None = None,
    *,
    folder: Path | str | None = None,
    device: str | None = None,
    workers: Workers = SERIAL,
    stage: Stage = silent,
) -> Program:
    """The run's program with the controls and accuracies of its interchange; see :mod:`interp.programs.judge`.

    Each entry is a job; what it gives is the same wherever it is done.

    Args:
        model: the run's own; loaded by its name on ``device`` if not given, and by every worker.
        folder: where the run lies, for prompts that it keeps.

    Raises:
        InputError: a run without a program that sets a variable, or a model or prompts that are not at hand.
    """
    program = run.program
    if program is None or not program.interchange:
        raise InputError(f"the program of this run of {run.task} sets no variable: there is nothing to judge")
    spec = run.model if model is None else describe_model(model)["spec"]
    if spec is None and (model is None or not workers.serial):
        raise InputError("this run does not name its model: judge it from Python, with the model")
    held = OneModel(model, device=device, dtype=run.provenance.model.dtype)
    desk = _Desk(run, None if folder is None else Path(folder), held)
    jobs = [
        Job(entry.variable, _judged_entry, (i, spec), (str(spec),), HUNDREDTHS)
        for i, entry in enumerate(program.interchange)
    ]
    entries = checked(
        run_work(desk, Work.all(jobs), stage("controls", HUNDREDTHS * len(jobs)), workers=workers)
    )
    return program.model_copy(update={"interchange": entries})


@dataclass
class _Desk:
    run: Run
    folder: Path | None
    models: OneModel
    judge: Judge | None = None
    """Made by the first job of a process."""

    def __getstate__(self) -> dict:
        return self.__dict__ | {"judge": None}


def _judged_entry(desk: _Desk, i: int, spec: str, told: Told) -> Interchange:
    run = desk.run
    assert run.program is not None
    if desk.judge is None:
        model, task = desk.models(spec), task_of(run, desk.folder)
        parts = fit_and_judge(task, pairs_of(run, desk.folder, model.tokenizer, run.n_pairs), model, run.seed)
        if isinstance(parts, str):
            raise InputError(parts)
        fitted, judged = parts
        mlps, n_read = any(slot.slot.site.kind == "mlp" for slot in run.program.slots), 0

        def reading(n: int) -> None:
            nonlocal n_read
            n_read += n
            told.share(n_read / len(judged) / 2)

        runner = SlotRunner.of(model, judged, mlps=mlps, progress=reading)
        desk.judge = Judge(run.program, task, runner, fitted, run.seed)
    return desk.judge.entry(run.program.interchange[i])
