"""The controls of a run's program, on the pairs that judged it: ``interp program RUN --judge``."""

from dataclasses import dataclass
from pathlib import Path

from interp.activations.stream import HUNDREDTHS
from interp.errors import InputError
from interp.executor import SERIAL, Job, JobProgress, Work, Workers, checked, run_work
from interp.models import Model, OneModel, describe_model
from interp.programs.judge import Judge
from interp.programs.program import fit_and_judge
from interp.programs.schema import Interchange, Program
from interp.programs.slots import SlotRunner
from interp.progress import Stage, counted, silent
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

    Each entry is a job; what it gives is the same wherever it is done. :class:`InputError`: a run without a program
    that sets a variable, or a model or prompts that are not at hand.

    Args:
        model: the run's own; loaded by its name on ``device`` if not given, and by every worker.
        folder: where the run lies, for prompts that it keeps.
    """
    program = run.program
    if program is None or not program.interchange:
        raise InputError(f"the program of this run of {run.task} sets no variable: there is nothing to judge")
    spec = run.model if model is None else describe_model(model)["spec"]
    if spec is None and (model is None or not workers.serial):
        raise InputError("this run does not name its model: judge it from Python, with the model")
    models = OneModel(model, device=device, dtype=run.provenance.model.dtype)
    worker = _JudgeWorker(run, None if folder is None else Path(folder), models)
    jobs = [
        Job(entry.variable, _judged_entry, (i, spec), (str(spec),), HUNDREDTHS)
        for i, entry in enumerate(program.interchange)
    ]
    done = run_work(worker, Work.all(jobs), stage("controls", HUNDREDTHS * len(jobs)), workers=workers)
    return program.model_copy(update={"interchange": checked(done)})


@dataclass
class _JudgeWorker:
    run: Run
    folder: Path | None
    models: OneModel
    judge: Judge | None = None  # made by the first job of a process

    def __getstate__(self) -> dict:
        return self.__dict__ | {"judge": None}


def _judged_entry(worker: _JudgeWorker, i: int, spec: str, progress: JobProgress) -> Interchange:
    run = worker.run
    assert run.program is not None
    if worker.judge is None:
        model, task = worker.models(spec), task_of(run, worker.folder)
        pairs = pairs_of(run, worker.folder, model.tokenizer, run.n_pairs)
        parts = fit_and_judge(task, pairs, model, run.seed)
        if isinstance(parts, str):
            raise InputError(parts)
        fitted, judged = parts
        mlps = any(coded.slot.site.kind == "mlp" for coded in run.program.slots)
        runner = SlotRunner.of(model, judged, mlps=mlps, progress=counted(progress.share, 2 * len(judged)))
        worker.judge = Judge(run.program, task, runner, fitted, run.seed)
    return worker.judge.entry(run.program.interchange[i])
