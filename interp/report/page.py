"""The report of a run: one HTML page, from the finding to how to repeat it."""

import contextlib
from functools import partial
from pathlib import Path

from markupsafe import Markup

from interp.errors import InputError
from interp.evaluation.recovery import roc_curve_points
from interp.files import write_text
from interp.report import circuit_figures as figures
from interp.report import repeat, validity, wording
from interp.report.members import attention, codes_used, tokens_written
from interp.report.program import program_section
from interp.report.style import embed, environment
from interp.runs.folder import REPORT, kept_prompts
from interp.runs.run import Run
from interp.scores.result import layer_prior

TOP_EDGES = 20
MODULES = {"figures": figures, "repeat": repeat, "validity": validity, "wording": wording}
"""What the template asks for what needs no more than the run."""


def render_report(run: Run, task: str | None = None, reference: str | None = None) -> str:
    """The report as one self-contained page that makes no request; every token and label in it is escaped.

    ``task`` and ``reference`` are those of :func:`~interp.report.repeat.command_line`.
    """
    scale, edges = figures.Scale.of(run), figures.edges_told(run)
    strongest = abs(figures.strength(edges[0])) if edges else 0.0
    digits = max(scale.places, wording.places(strongest))
    graph = edges and figures.edge_plot(run, scale, edges=edges)
    curves = run.validity and validity.curves_plot(run.validity)
    details = {
        part.site: (
            attention(run, part.site),
            codes_used(part.codes, run.n_pairs),
            tokens_written(part.writes),
        )
        for part in run.members
    }
    page = environment().get_template("report.html")
    return page.render(
        run=run,
        task=task,
        reference=reference,
        scale=scale,
        details=details,
        summary=summary(run, scale),
        grid=embed(figures.grid_plot(run, scale, mlps=True), "Score of every head by layer", least=900),
        program=program_section(run, task, reference),
        edges=edges[:TOP_EDGES],
        edge_figure=graph and embed(graph, "Strongest edges among the members", least=700),
        edge_text=partial(figures.told, digits=digits, signed=not run.edges_are_counts),
        strongest=strongest,
        curves={name: _curve(name, run) for name in run.recovery},
        card_curves=curves and embed(curves, "Share of the gap and KL of nested circuits alone"),
        **MODULES,
    )


def write_report(folder: Path | str, task: str | None = None) -> Path:
    """Write the report of the run in ``folder`` beside it, replacing an earlier one.

    ``task`` is what its commands say for the task; if not given what the run was asked for, or the prompts that it
    keeps where that is a file that is not there.
    """
    path, run = Path(folder) / REPORT, Run.load(folder)
    kept = kept_prompts(folder)
    with contextlib.suppress(OSError):  # a task's name may be too long for a file's
        if task is None and kept is not None and not Path(run.task).is_file():
            task = str(kept)
    write_text(path, render_report(run, task))
    return path


def summary(run: Run, scale: figures.Scale) -> str:
    """What a person reads first."""
    if not run.members:
        return (
            f"None of the {len(run.checked)} checked components is in a circuit for {run.task}: "
            "no effect passes the threshold with an interval off zero."
        )
    first, circuit = run.members[0], run.circuit
    inside = f"{len(circuit.heads)} of {len(run.heads)} heads"
    if run.universe == "heads+mlps":
        inside += f" and {len(circuit.mlps)} of {len(run.mlps)} MLPs"
    effect = first.effect or 0.0
    verb = "costs" if effect * scale.gap > 0 else "gains"
    size, gap = (wording.number(value, scale.places) for value in (abs(effect), scale.gap))
    share = scale.share(first.effect)
    return (
        f"{inside} are in the circuit for {run.task}. Largest: {first.site} — replacing "
        f"what it writes by its value on the corrupt prompt {verb} {size} of a gap of {gap}"
        + ("." if share is None else f" ({wording.percent(abs(share))}).")
    )


def _curve(name: str, run: Run) -> Markup | None:
    """``None`` where the reference is not at hand, or its curve is undefined."""
    try:
        truth = run.reference(name).members()
    except InputError:
        return None
    scores = run.scores
    if truth.shape != scores.shape or not truth.any() or truth.all():
        return None
    own, prior = (roc_curve_points(values, truth) for values in (scores, layer_prior(*truth.shape)))
    figure = figures.roc_plot(own, prior, int(truth.sum()), int((~truth).sum()))
    return embed(figure, f"ROC curve against {name}")
