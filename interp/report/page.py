"""The report of a run: one HTML page without scripts, from the finding to how to repeat it."""

from interp.report import wording
from interp.report.components import (
    Scale,
    counts_code_pairs,
    edge_figure,
    edges_told,
    grid_figures,
    member_rows,
)
from interp.report.members import member_cards
from interp.report.recovery import recovery_panels
from interp.report.repeat import (
    command_line,
    facts,
    forwards,
    python_lines,
    reference_command,
    timings,
    warnings,
)
from interp.report.templates import environment
from interp.runs.run import Example, Run

TOP_EDGES = 20


def render_report(run: Run, task: str | None = None, reference: str | None = None) -> str:
    """The report as one self-contained page: no script, no request, every token and label escaped.

    Args:
        task, reference: as of :func:`~interp.report.repeat.command_line`.
    """
    scale = Scale.of(run)
    page = environment().get_template("report.html")
    return page.render(
        run=run,
        scale=scale,
        metric_name=wording.METRIC_NAMES.get(run.metric.name, run.metric.name),
        summary=summary(run, scale),
        counts=counts(run),
        examples=[_example(example) for example in run.examples[:1]],
        grids=grid_figures(run, scale),
        members=member_rows(run, scale),
        edge_figure=edge_figure(run, scale),
        counted_edges=counts_code_pairs(run),
        edges=_edges(run),
        cards=member_cards(run, scale),
        recovery=recovery_panels(run),
        timings=timings(run),
        forwards=forwards(run),
        command=command_line(run, task, reference),
        python=python_lines(run, task, reference),
        reference_command=reference_command(run, task),
        facts=facts(run),
        warnings=warnings(run),
    )


def summary(run: Run, scale: Scale) -> str:
    """What a person reads first."""
    members, found = run.members, counts(run)
    if not members:
        return (
            f"None of the {found['checked']} checked components is in a circuit for {run.task}: "
            "no effect passes the threshold with an interval off zero."
        )
    first = members[0]
    verb = "costs" if first.effect * scale.gap > 0 else "gains"
    size, gap = (wording.number(value, scale.places) for value in (abs(first.effect), scale.gap))
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
    return {
        "proposed": run.proposed,
        "proposed_members": len(run.proposed_members),
        "checked": len(run.checked),
        "all": len(run.ranked),
        "inside": text,
    }


def _example(example: Example) -> dict:
    """Tokens of both sides with their roles, and where they differ."""
    roles: dict[int, list[str]] = {}
    for role, position in example.positions.items():
        roles.setdefault(position, []).append(role)
    sides = {
        side: [
            {
                "text": wording.token(text),
                "roles": "/".join(roles.get(i, [])),
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


def _edges(run: Run) -> list[dict]:
    ranked = edges_told(run)[:TOP_EDGES]
    largest = abs(ranked[0].score) if ranked else 0.0
    digits, counted = wording.places(largest), counts_code_pairs(run)
    return [
        {
            "from": edge.sender,
            "to": edge.receiver,
            "into": edge.into or wording.DASH,
            "score": wording.number(edge.score, 0) if counted else wording.signed(edge.score, digits),
            "bar": 100 * abs(edge.score) / largest if largest else 0,
            "tone": "grey" if counted else "neg" if edge.score < 0 else "pos",
        }
        for edge in ranked
    ]
