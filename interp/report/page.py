"""The report of a run: one HTML page, from the finding to how to repeat it."""

import contextlib
import html
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from markupsafe import Markup

from interp.circuits.circuit import CodesUsed, Writes
from interp.errors import InputError
from interp.evaluation.recovery import roc_curve_points
from interp.files import write_text
from interp.report import circuit_figures as figures
from interp.report import groups, repeat, wording
from interp.report.circuit_figures import pattern_plot, tone
from interp.report.program import program_section
from interp.report.style import embed, environment
from interp.runs.folder import REPORT, kept_prompts
from interp.runs.run import Run
from interp.scores.result import layer_prior

TOP_EDGES = 20
MODULES = {"figures": figures, "groups": groups, "repeat": repeat, "wording": wording}
"""What the template asks for what needs no more than the run."""


def render_report(run: Run, task: str | None = None, reference: str | None = None) -> str:
    """The report as one self-contained page that makes no request; every token and label in it is escaped.

    ``task`` and ``reference`` are those of :func:`~interp.report.repeat.command_line`.
    """
    scale, edges = figures.Scale.of(run), figures.strongest_edges(run)
    strongest = abs(figures.strength(edges[0])) if edges else 0.0
    digits = max(scale.places, wording.places(strongest))
    graph = edges and figures.edge_plot(run, scale, edges=edges)
    modules, curves = MODULES, None
    if run.validity is not None:
        from interp.report import validity

        modules, curves = MODULES | {"validity": validity}, validity.curves_plot(run.validity)
    details = {
        part.site: (attention(run, part.site), codes_used(part.codes, run.n_pairs), tokens_written(part.writes))
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
        edge_text=partial(figures.strength_text, digits=digits, signed=not run.edges_are_counts),
        strongest=strongest,
        curves={name: _curve(name, run) for name in run.recovery},
        card_curves=curves and embed(curves, "Share of the gap and KL of nested circuits alone"),
        **modules,
    )


def write_report(folder: Path | str, task: str | None = None) -> Path:
    """Write the report of the run in ``folder`` beside it, replacing an earlier one.

    ``task`` is what its commands say for the task; if not given what the run was asked for, or the prompts that it
    keeps where that is a file that is not there.
    """
    path, run = Path(folder) / REPORT, Run.load(folder)
    prompt_file = kept_prompts(folder)
    with contextlib.suppress(OSError):  # a task's name may be too long for a file's
        if task is None and prompt_file is not None and not Path(run.task).is_file():
            task = str(prompt_file)
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
    counts = f"{len(circuit.heads)} of {len(run.heads)} heads"
    if run.universe == "heads+mlps":
        counts += f" and {len(circuit.mlps)} of {len(run.mlps)} MLPs"
    effect, share = first.effect or 0.0, scale.share(first.effect)
    verb = "costs" if effect * scale.gap > 0 else "gains"
    size, gap = (wording.number(value, scale.places) for value in (abs(effect), scale.gap))
    of_gap = "" if share is None else f" ({wording.percent(abs(share))})"
    return (
        f"{counts} are in the circuit for {run.task}. Largest: {first.site} — replacing what it writes by its value "
        f"on the corrupt prompt {verb} {size} of a gap of {gap}{of_gap}."
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
    points, prior = (roc_curve_points(values, truth) for values in (scores, layer_prior(*truth.shape)))
    figure = figures.roc_plot(points, prior, int(truth.sum()), int((~truth).sum()))
    return embed(figure, f"ROC curve against {name}")


CODES = 8  # codes shown of each head, most used first
MOST_POSITIONS = 64


def attention(run: Run, site: str) -> Markup | None:
    pattern = run.pattern(site)
    if pattern is None:
        return None
    example = run.examples[0]
    figure = pattern_plot(pattern, example.clean, wording.roles_at(example.positions))
    label = f"Attention pattern of {site} on the example’s clean prompt"
    return embed(figure, label, least=min(520, 200 + 14 * len(example.clean)))


def codes_used(codes: CodesUsed | None, n_pairs: int) -> dict | None:
    """Each code with its share of prompts on either side, and which codes corrupt prompts never have.

    Codes that stand for single prompts are told by their number alone: a token that a prompt has twice, such as a
    name, gives its code two places.
    """
    if not codes or not codes.clean + codes.corrupt:
        return None
    positions = _positions([share for _, share in (*codes.clean, *codes.corrupt)], n_pairs)
    least = (1.5 if positions == 1 else 2.5) / (n_pairs * positions)
    clean, corrupt = dict(codes.clean), dict(codes.corrupt)
    rows = [(code, clean.get(code, 0.0), corrupt.get(code, 0.0)) for code in {*clean, *corrupt}]
    used = [row for row in rows if max(row[1:]) > least]
    used.sort(key=lambda row: (-row[1] - row[2], row[0]))
    unique = [row[1] for row in used if row[0] not in corrupt]
    counts = {"more": len(used[CODES:]), "single": len(rows) - len(used), "unique": len(unique)}
    return {"rows": used[:CODES], **counts, "unique_share": sum(unique)}


def _positions(shares: Sequence[float], n_pairs: int) -> int:
    """How many token positions of a prompt the shares are pooled over, as few as explain them."""
    for positions in range(1, MOST_POSITIONS):
        counts = np.array(shares) * n_pairs * positions
        if np.allclose(counts, counts.round(), atol=1e-6):
            return positions
    return 1


def tokens_written(writes: Writes | None) -> Markup | None:
    if not writes or not writes.top:
        return None
    return Markup(token_bars([("raises most", writes.top), ("lowers most", writes.bottom)]))


_ROW = "display:flex;gap:.5em;align-items:center;font-size:.85em;line-height:1.55"
_NAME = "flex:0 0 7.5em;text-align:right;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
_NUMBER = "flex:0 0 4em;font-variant-numeric:tabular-nums"
_HEAD = "font-size:.8em;opacity:.7;margin-bottom:.2em"


def token_bars(groups: Sequence[tuple[str, Sequence[Sequence]]]) -> str:
    """Groups beside each other where there is room; the largest amount of all has the whole width. ``groups``: a title,
    and tokens as text with their amounts."""
    sizes = [abs(value) for _, rows in groups for _, value in rows]
    largest = max(sizes, default=0.0) or 1.0
    digits = wording.places(largest)
    columns = []
    for title, rows in groups:
        lines = "".join(_row(text, value, largest, digits) for text, value in rows)
        columns.append(f'<div><div style="{_HEAD}">{html.escape(title)}</div>{lines}</div>')
    grid = "display:grid;grid-template-columns:repeat(auto-fit,minmax(15em,1fr));gap:.6em 1.2em"
    return f'<div style="{grid}">{"".join(columns)}</div>'


def _row(text: str, value: float, largest: float, digits: int) -> str:
    shown = html.escape(wording.token(text, 18))
    bar = f"width:{100 * abs(value) / largest:.1f}%;height:.75em;border-radius:2px;background:{tone(value, 0.75)}"
    return (
        f'<div style="{_ROW}"><span style="{_NAME}" title="{shown}">{shown}</span>'
        f'<span style="flex:1 1 auto"><span style="display:block;{bar}"></span></span>'
        f'<span style="{_NUMBER}">{wording.signed(value, digits)}</span></div>'
    )
