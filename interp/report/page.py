"""The report of a run: one HTML page, from the finding to how to repeat it."""

import contextlib
from functools import partial
from pathlib import Path

from markupsafe import Markup

from interp.circuits.roles import ROLE_BAR
from interp.errors import InputError
from interp.evaluation.recovery import roc_curve_points
from interp.files import write_text
from interp.report import circuit_figures as figures
from interp.report import repeat, validity, wording
from interp.report.members import attention, codes_used, tokens_written
from interp.report.program import program_section
from interp.report.style import embed, environment
from interp.runs.run import PROMPTS, REPORT, Run
from interp.scores.baselines import layer_prior

TOP_EDGES = 20
WRITTEN = (
    *(validity.card_rows, validity.card_summary, figures.effect_text, figures.roles_named),
    *(wording.places, wording.roles_at, wording.shared_pairs),
)
"""What the template writes by itself."""


def render_report(run: Run, task: str | None = None, reference: str | None = None) -> str:
    """The report as one self-contained page that makes no request; every token and label in it is escaped.

    ``task`` and ``reference`` are those of :func:`~interp.report.repeat.command_line`.
    """
    scale, edges, members = figures.Scale.of(run), figures.edges_told(run), run.members
    strongest = abs(figures.strength(edges[0])) if edges else 0.0
    edge_text = partial(
        figures.told, digits=max(scale.places, wording.places(strongest)), signed=not run.edges_are_counts
    )
    page = environment().get_template("report.html")
    return page.render(
        run=run,
        scale=scale,
        members=members,
        details={
            part.site: (
                attention(run, part.site),
                codes_used(part.codes, run.n_pairs),
                tokens_written(part.writes),
            )
            for part in members
        },
        metric_name=wording.METRIC_NAMES.get(run.metric.name, run.metric.name),
        summary=summary(run, scale),
        proposed_checked=sum(run.component(site).effect is not None for site in run.proposed.heads)
        if run.proposed
        else None,
        grid=embed(figures.grid_plot(run, scale, mlps=True), "Score of every head by layer", least=900),
        program=program_section(run, task, reference),
        edge_figure=embed(
            figures.edge_plot(run, scale, edges=edges), "Strongest edges among the members", least=700
        )
        if edges
        else None,
        edges_explained=figures.edges_explained(run, edges),
        measured_edges=figures.measures_edges(edges),
        edges=edges[:TOP_EDGES],
        edge_text=edge_text,
        strength=figures.strength,
        strongest=strongest,
        curves={name: _curve(name, run) for name in run.recovery},
        card_figure=run.validity
        and embed(validity.curves_plot(run.validity), "Share of the gap and KL of nested circuits alone"),
        card_columns=validity.COLUMNS,
        stages=repeat.STAGES,
        command=repeat.command_line(run, task, reference),
        python=repeat.python_lines(run, task, reference),
        reference_command=repeat.reference_command(run, task),
        facts=repeat.facts(run),
        warnings=repeat.warnings(run),
        following=repeat.next_commands(run, task, reference),
        role_bar=ROLE_BAR,
        **{written.__name__: written for written in WRITTEN},
    )


def write_report(folder: Path | str, task: str | None = None) -> Path:
    """Write the report of the run in ``folder`` beside it, replacing an earlier one.

    Args:
        task: what its commands say for the task; if not given what the run was asked for, or the prompts that it keeps
            where that is a file that is not there.

    Raises:
        InputError: the folder holds no run, or a damaged one.
    """
    path, run = Path(folder) / REPORT, Run.load(folder)
    kept = next((path.with_name(name) for name in PROMPTS if path.with_name(name).is_file()), None)
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
