"""The controls of a run's program, on the pairs that judged it: ``interp program RUN --judge``."""

from pathlib import Path

from interp.errors import InputError
from interp.models import Model, load_model
from interp.programs.judge import judge
from interp.programs.program import fit_and_judge
from interp.programs.schema import Program
from interp.programs.slots import SlotRunner
from interp.progress import Stage, silent
from interp.runs.folder import pairs_of, task_of
from interp.runs.run import Run


def judge_program(
    run: Run, model: Model | None = None, *, folder: Path | str | None = None, stage: Stage = silent
) -> Program:
    """The run's program with the controls and accuracies of its interchange; see :mod:`interp.programs.judge`.

    Args:
        model: the run's own; loaded by its name if not given.
        folder: where the run lies, for prompts that it keeps.

    Raises:
        InputError: a run without a program that sets a variable, or a model or prompts that are not at hand.
    """
    program = run.program
    if program is None or not program.interchange:
        raise InputError(f"the program of this run of {run.task} sets no variable: there is nothing to judge")
    if model is None:
        if run.model is None:
            raise InputError("this run does not name its model: judge it from Python, with the model")
        model = load_model(run.model, dtype=run.provenance.model.dtype)
    task = task_of(run, folder)
    pairs = pairs_of(run, folder, model.tokenizer, run.n_pairs)
    parts = fit_and_judge(task, pairs, model, run.seed)
    if isinstance(parts, str):
        raise InputError(parts)
    fitted, judged = parts
    mlps = any(said.slot.site.kind == "mlp" for said in program.slots)
    with stage("prompts that judge", len(judged)) as advance:
        runner = SlotRunner.of(model, judged, mlps=mlps, progress=advance)
    with stage("controls", len(program.interchange)) as advance:
        return judge(program, task, runner, fitted, run.seed, advance)
