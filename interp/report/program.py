"""What the heads of a circuit say: the graph of its program, the codes of each slot, and the proof by interchange."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

from interp.programs.schema import Program, SlotCodes, Transition
from interp.report import wording
from interp.report.circuit_figures import CHOSEN, SMALL, finished
from interp.report.repeat import command_line
from interp.report.style import BLUE, ORANGE, embed
from interp.report.wording import in_plot, number, signed
from interp.runs.run import Run

CODES = 24  # codes told of each slot, most used first
EXPLAINED = (
    "A dot is a head at a token: its size is the effect of what it says there, blue helps, orange hurts. A line says "
    "that setting the code on its left changes the code on its right; the wider, the more prompts. Layers go from left "
    "to right; rows are the tokens in the order of the prompt. A line is drawn "
    "where the code comes out as predicted in 5 % of the prompts or more, three a dot at most."
)
_ACROSS, _DOWN = 80, 62  # pixels from layer to layer at least, and from row to row


def command(run: Run, task: str | None, reference: str | None) -> str:
    """What makes a program of a run that has none."""
    return command_line(run.model_copy(update={"program": Program()}), task, reference)


def program_section(run: Run, task: str | None, reference: str | None) -> dict[str, Any]:
    """What ``program.html`` is made of."""
    program = run.program
    if program is None:
        return {"command": command(run, task, reference)}
    least = _ACROSS * (1 + len({slot.slot.layer for slot in program.slots}))
    return {
        "command": None,
        "explained": EXPLAINED,
        "figure": embed(program_plot(run), "Which head says what to which", least) if program.slots else None,
        "cards": [(slot_id(i), slot, code_rows(slot)[:CODES]) for i, slot in enumerate(program.slots)],
        "shown": shown,
        "whole": whole,
    }


def code_rows(slot: SlotCodes) -> list[dict[str, Any]]:
    """Every code of a slot, most used first: what it stands for, its share of either side, examples."""
    shares = sorted(slot.shares.items(), key=lambda entry: (-sum(entry[1]), int(entry[0])))
    return [
        {"code": int(code), "stands for": code_value(slot, code), "clean": whole(clean), "corrupt": whole(corrupt)}
        | {"examples": "\n".join(shown(text, 120) for text in slot.examples.get(code, []))}
        for code, (clean, corrupt) in shares
    ]


def code_value(slot: SlotCodes, code: int | str) -> str:
    """What a code stands for; a dash where its prompts do not agree."""
    value = slot.values.get(str(code), wording.DASH)
    return "nothing" if value is None else shown(str(value), 40)


def slot_id(index: int) -> str:
    """A slot's name in ``customdata`` and in the page: its role may hold anything."""
    return f"slot-{index}"


def whole(share: float | None) -> str:
    """``27 %``."""
    return wording.DASH if share is None else f"{number(100 * share, 0)} %"


def shown(text: str, limit: int = 60) -> str:
    """With spaces as they are."""
    text = wording.visible(text, keep=" ")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def roles_in_order(run: Run, roles: Iterable[str]) -> list[str]:
    """As they stand in the example's prompt."""
    order = run.examples[0].positions if run.examples else {}
    return sorted(roles, key=lambda role: (order.get(role, len(order)), role))


def program_plot(run: Run, ink: str | None = None, chosen: str | None = None) -> go.Figure:
    """Slots by layer, from left to right, and by role, in the order of the prompt from top to bottom.

    The chosen one has a ring.
    """
    program = run.program or Program()
    slots, names = program.slots, [str(slot.slot) for slot in program.slots]
    layers = sorted({slot.slot.layer for slot in slots})
    roles = roles_in_order(run, {slot.role for slot in slots})
    met: Counter[tuple[int, str]] = Counter()
    places = []  # layer, and role with its row
    for slot in slots:
        places.append((slot.slot.layer, (roles.index(slot.role), met[slot.slot.layer, slot.role])))
        met[slot.slot.layer, slot.role] += 1
    rows = sorted({row for _, row in places})
    xy = [(layers.index(layer) * _ACROSS, rows.index(row) * _DOWN) for layer, row in places]
    place_of = dict(zip(names, xy, strict=True))
    edges = sorted((edge for name in names for edge in program.passed_on(name)), key=lambda edge: -edge.changes)
    figure = go.Figure([_line(edge, *place_of[edge.sender], *place_of[edge.receiver]) for edge in reversed(edges)])
    largest = max((abs(slot.effect) for slot in slots), default=0.0) or 1.0
    variables = [shown(slot.variable or wording.DASH, 14) for slot in slots]
    figure.add_scatter(
        x=[x for x, _ in xy],
        y=[y for _, y in xy],
        customdata=[[slot_id(i)] for i in range(len(slots))],
        mode="markers+text",
        marker={
            "size": [8 + 18 * (abs(slot.effect) / largest) ** 0.5 for slot in slots],
            "color": [ORANGE if slot.effect < 0 else BLUE for slot in slots],
            "opacity": 1,
            "line": {"color": CHOSEN, "width": [4 if name == chosen else 0 for name in names]},
        },
        text=[
            in_plot(f"{slot.site}\n{variable}").replace("\n", "<br>")
            for slot, variable in zip(slots, variables, strict=True)
        ],
        textposition="bottom center",
        textfont={"size": SMALL, "color": ink},
        hovertext=[
            in_plot(f"{shown(name)} says {variable}: {slot.codes} codes, effect {signed(slot.effect, 2)}")
            for name, variable, slot in zip(names, variables, slots, strict=True)
        ],
        hoverinfo="text",
        cliponaxis=False,
    )
    for i, (_, nth) in enumerate(rows):
        if i and not nth:
            line = {"color": "rgba(128,128,128,.25)", "width": 1, "dash": "dot"}
            figure.add_hline((i - 0.3) * _DOWN, line=line)
    axis = {"showgrid": False, "zeroline": False, "tickfont": {"size": SMALL}}
    across, ends = [i * _ACROSS for i in range(len(layers))], [-0.6 * _ACROSS, (len(layers) - 0.4) * _ACROSS]
    figure.update_xaxes(title="layer", tickvals=across, ticktext=list(map(str, layers)), range=ends, **axis)
    figure.update_yaxes(
        tickvals=[i * _DOWN for i, (_, nth) in enumerate(rows) if not nth],
        ticktext=[in_plot(shown(role, 8)) for role in roles],
        range=[(len(rows) - 0.15) * _DOWN, -0.6 * _DOWN],
        **axis,
    )
    figure.update_layout(hovermode="closest", showlegend=False)
    return finished(figure, (len(rows) + 0.45) * _DOWN + 44)


def _line(edge: Transition, x0: int, y0: int, x1: int, y1: int) -> go.Scatter:
    """Within a row it bows over the slots that lie between; its ends lie beside the dots, where a click is theirs."""
    bow = min(0.8 * _DOWN, 14 * (x1 - x0) / _ACROSS) if y0 == y1 and x1 - x0 > _ACROSS else 0
    x0, x1, steps = x0 + 13, x1 - 13, [t / 12 for t in range(13)]
    text = (
        f"{shown(edge.sender)} → {shown(edge.receiver)}: changes {whole(edge.changes)} of prompts, "
        f"{whole(edge.as_predicted)} of these as predicted, null {whole(edge.null)}"
    )
    return go.Scatter(
        x=[x0 + (x1 - x0) * t for t in steps],
        y=[y0 + (y1 - y0) * t * t * (3 - 2 * t) - 4 * bow * t * (1 - t) for t in steps],
        mode="lines",
        line={"width": 1 + 6 * edge.changes, "color": "rgba(138,144,153,.6)"},
        hoverinfo="text",
        hovertext=in_plot(text),
    )
