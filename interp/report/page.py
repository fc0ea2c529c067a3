"""The report of a run: one HTML page, from the finding to how to repeat it."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from interp.circuits.circuit import Edge
from interp.errors import InputError
from interp.evaluation.recovery import roc_curve_points
from interp.files import write_text
from interp.report import wording
from interp.report.circuit_figures import (
    Scale,
    edge_plot,
    edges_explained,
    edges_told,
    grid_plot,
    measures_edges,
    roc_plot,
    strength,
    told,
)
from interp.report.members import member_cards, member_rows
from interp.report.program import program_section
from interp.report.repeat import (
    command_line,
    facts,
    forwards,
    next_commands,
    python_lines,
    reference_command,
    timings,
    warnings,
)
from interp.report.style import embed, environment
from interp.report.validity import COLUMNS, card_rows, card_summary, curves_plot
from interp.runs.folder import REPORT, kept_prompts
from interp.runs.run import Example, Judged, Run
from interp.scores.baselines import layer_prior

TOP_EDGES = 20


def render_report(run: Run, task: str | None = None, reference: str | None = None) -> str:
    """The report as one self-contained page that makes no request; every token and label in it is escaped.

    ``task`` and ``reference`` are those of :func:`~interp.report.repeat.command_line`.
    """
    scale, edges = Scale.of(run), edges_told(run)
    page = environment().get_template("report.html")
    return page.render(
        run=run,
        scale=scale,
        metric_name=wording.METRIC_NAMES.get(run.metric.name, run.metric.name),
        summary=summary(run, scale),
        counts=counts(run),
        examples=[_example(example) for example in run.examples[:1]],
        grid=embed(grid_plot(run, scale, mlps=True), "Score of every head by layer", least=900),
        program=program_section(run, scale, task, reference),
        members=member_rows(run, scale),
        edge_figure=embed(edge_plot(run, scale, edges=edges), "Strongest edges among the members", least=700)
        if edges
        else None,
        edges_explained=edges_explained(run, edges),
        measured_edges=measures_edges(edges),
        edges=_edges(edges[:TOP_EDGES], run, scale),
        cards=member_cards(run, scale),
        recovery=[_panel(name, found, run) for name, found in run.recovery.items()],
        card=_card(run),
        timings=timings(run),
        forwards=forwards(run),
        command=command_line(run, task, reference),
        python=python_lines(run, task, reference),
        reference_command=reference_command(run, task),
        facts=facts(run),
        warnings=warnings(run),
        following=next_commands(run, task, reference),
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
    kept = kept_prompts(folder)
    with contextlib.suppress(OSError):  # a task's name may be too long for a file's
        if task is None and kept is not None and not Path(run.task).is_file():
            task = str(kept)
    write_text(path, render_report(run, task))
    return path


def summary(run: Run, scale: Scale) -> str:
    """What a person reads first."""
    members, found = run.members, counts(run)
    if not members:
        return (
            f"None of the {found['checked']} checked components is in a circuit for {run.task}: "
            "no effect passes the threshold with an interval off zero."
        )
    first = members[0]
    effect = first.effect or 0.0
    verb = "costs" if effect * scale.gap > 0 else "gains"
    size, gap = (wording.number(value, scale.places) for value in (abs(effect), scale.gap))
    share = scale.share(first.effect)
    return (
        f"{found['inside']} are in the circuit for {run.task}. Largest: {first.site} — replacing "
        f"what it writes by its value on the corrupt prompt {verb} {size} of a gap of {gap}"
        + ("." if share is None else f" ({wording.percent(abs(share))}).")
    )


def counts(run: Run) -> dict:
    """How many components there are, were checked, are members."""
    circuit = run.circuit
    text = f"{len(circuit.heads)} of {len(run.heads)} heads"
    if run.universe == "heads+mlps":
        text += f" and {len(circuit.mlps)} of {len(run.mlps)} MLPs"
    return {"proposed": _proposed(run), "checked": len(run.checked), "all": len(run.ranked), "inside": text}


def _proposed(run: Run) -> dict | None:
    """What the method took for members before the check, and what of it was checked."""
    if run.proposed is None:
        return None
    heads = [run.component(site) for site in run.proposed.heads]
    return {
        "rate": run.proposed.false_discovery_rate,
        "all": len(heads),
        "checked": sum(head.effect is not None for head in heads),
        "members": len(run.proposed_members),
    }


def _example(example: Example) -> dict:
    """Tokens of both sides with their roles, and where they differ."""
    roles = wording.roles_at(example.positions)
    sides = {
        side: [
            {
                "text": wording.token(text),
                "roles": roles.get(i, ""),
                "differs": i < len(other) and other[i] != text,
            }
            for i, text in enumerate(getattr(example, side))
        ]
        for side, other in (("clean", example.corrupt), ("corrupt", example.clean))
    }
    metric = example.metric
    digits = wording.places(max(abs(metric.clean), abs(metric.corrupt)))
    return {
        "sides": [
            (side, tokens, wording.signed(getattr(metric, side), digits)) for side, tokens in sides.items()
        ],
        "answers": [wording.token(text) for text in example.answers[:12]],
        "more_answers": max(0, len(example.answers) - 12),
        "wrong": [wording.token(text) for text in example.wrong_answers[:12]],
        "more_wrong": max(0, len(example.wrong_answers) - 12),
    }


def _edges(edges: Sequence[Edge], run: Run, scale: Scale) -> list[dict]:
    largest = abs(strength(edges[0])) if edges else 0.0
    digits, counted = max(scale.places, wording.places(largest)), run.edges_are_counts
    return [
        {
            "from": edge.sender,
            "to": edge.receiver,
            "into": edge.into or wording.DASH,
            "told": told(edge, digits, signed=not counted),
            "bar": 100 * abs(strength(edge)) / largest,
            "tone": "grey" if counted else "neg" if strength(edge) < 0 else "pos",
        }
        for edge in edges
    ]


def _panel(name: str, found: Judged, run: Run) -> dict:
    """Numbers of a reference as the run holds them, and the ROC curve."""
    nulls, interval = found.nulls, found.interval
    random = wording.DASH if nulls.random_mean is None else f"{nulls.random_mean:.3f} ± {nulls.random_sd:.3f}"
    return {
        "name": name,
        "auc": wording.number(found.roc_auc, 3),
        "interval": f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "no scores per pair",
        "precision": wording.number(found.average_precision, 3),
        "spearman": wording.number(found.spearman, 3),
        "positives": f"{found.n_positive} of {found.n_heads}",
        "random": random,
        "layer_index": wording.number(nulls.layer_index, 3),
        "layer_mean": wording.number(nulls.layer_mean, 3),
        "shared": wording.shared_pairs(found, run.n_pairs),
        "curve": _curve(name, run),
    }


def _card(run: Run) -> dict | None:
    """What ``interp validate`` found; ``None`` where it was not run."""
    if run.validity is None:
        return None
    return {
        "summary": card_summary(run.validity),
        "curves": embed(curves_plot(run.validity), "Share of the gap and KL of nested circuits alone"),
        "columns": COLUMNS,
        "rows": card_rows(run.validity),
        "left_out": run.validity.left_out,
    }


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
    figure = roc_plot(own, prior, int(truth.sum()), int((~truth).sum()))
    return embed(figure, f"ROC curve against {name}")
