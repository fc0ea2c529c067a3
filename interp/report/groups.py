"""The groups of a program, as a table and as a picture that the report and the workbench share."""

from collections.abc import Sequence
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from interp.models import parse_site
from interp.programs.schema import LEAST_FALL, Group, Program, heads_at_role
from interp.report.circuit_figures import tone
from interp.report.program import roles_in_order, shown
from interp.report.style import GREY, spread
from interp.report.wording import signed
from interp.runs.run import Run

TABLE_EXPLAINED = (
    "f: share of the difference between clean and corrupt prompts that the program alone restores; it falls where a "
    "group is deleted, or says what it says on another prompt. Codes are written at the input, later groups recompute. "
    f"Groups that change f by less than {100 * LEAST_FALL:.0f} % of it are left out."
)
GRAPH_EXPLAINED = (
    "A click on a box opens its heads. Columns are roles in the order of the prompt, later layers stand higher. Blue "
    "helps the answer, orange hurts it; a thick frame is input. An arrow says that setting codes in one group changes "
    "what the other says, as predicted."
)
_WIDTH, _HEIGHT, _STEP, _MARGIN, _PAGE = 136, 42, 58, 26, 740
"""Pixels: of a box, from box to box in a column, around arrows, and of a narrow page."""
_CUT = "white-space:nowrap;overflow:hidden;text-overflow:ellipsis"


def group_rows(program: Program) -> list[dict[str, str]]:
    """A row for each group that counts."""
    return [
        {
            "looks like": group.name or "head",
            "heads @ role": shown(heads_at_role(group), 80),
            "says": shown(group.says, 40),
            "effect": signed(group.effect, 2),
            "f falls if deleted": signed(None if line is None else line.fall_deleted, 2),
            "if wrong": signed(None if line is None else line.fall_wrong, 2),
            "stage": "input" if group.input else "",
        }
        for group, line in program.lines_that_count()
    ]


def group_graph(run: Run) -> Markup:
    """The same groups as boxes; arrows are known transitions between their slots."""
    program = run.program or Program()
    groups = sorted((group for group, _ in program.lines_that_count()), key=_layer)
    if not groups:
        return Markup("")
    roles = roles_in_order(run, {group.role for group in groups})
    columns = [[i for i, group in enumerate(groups) if group.role == role] for role in roles]
    pitch = min(2 * _WIDTH, max(_WIDTH + _MARGIN, _PAGE // len(roles)))
    bottom = _STEP * (max(min(3, len(groups)), *map(len, columns)) - 1)
    layers = np.array([_layer(group) for group in groups])
    heights = bottom * (layers - layers[0]) / (np.ptp(layers) or 1.0)
    places = {
        i: (_MARGIN + column * pitch, bottom - float(height))
        for column, members in enumerate(columns)
        for i, height in zip(members, spread(heights[members], _STEP, 0, bottom), strict=True)
    }
    group_of = {f"{site} @ {group.role}": i for i, group in enumerate(groups) for site in group.sites}
    ends = [(group_of.get(edge.sender), group_of.get(edge.receiver)) for edge in program.transitions if edge.known]
    pairs = sorted({(i, j) for i, j in ends if i is not None and j is not None and i != j})
    receivers = {i: [groups[end] for begin, end in pairs if begin == i] for i in places}
    arrows = "".join(_arrow(*places[begin], *places[end]) for begin, end in pairs)
    width, height = _MARGIN + len(roles) * pitch, bottom + 2 * _STEP
    # as an image: Streamlit takes SVG out of HTML
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<path fill="none" stroke="{GREY}" stroke-width="1.5" d="{arrows}"/></svg>'
    )
    largest = max(abs(group.effect) for group in groups) or 1.0
    label = '<div style="position:absolute;left:{}px;top:{}px;width:{}px;text-align:center">{}</div>'
    labels = [
        Markup(label).format(_MARGIN + column * pitch, bottom + _HEIGHT + 6, _WIDTH, shown(role, 16))
        for column, role in enumerate(roles)
    ]
    # an open box covers those below it
    upwards = sorted(places, key=lambda i: -places[i][1])
    boxes = [_box(groups[i], *places[i], largest, receivers[i]) for i in upwards]
    return Markup(
        '<div style="overflow-x:auto"><div style="position:relative;width:{}px;height:{}px;font-size:12px;'
        'line-height:17px;background:url(data:image/svg+xml,{})">{}</div></div>'
    ).format(width, height, quote(drawn), Markup("").join([*labels, *boxes]))


def _layer(group: Group) -> float:
    return float(np.mean([parse_site(site).layer for site in group.sites]))


def _arrow(x0: int, y0: float, x1: int, y1: float) -> str:
    """Into a box from its left; out of one that stands before it from its right, else from its left."""
    forward = x1 > x0
    x0, y0, y1 = x0 + _WIDTH * forward, y0 + _HEIGHT / 2, y1 + _HEIGHT / 2
    bend = x0 + (_MARGIN if forward else -_MARGIN)
    return f"M{x0} {y0:.1f}C{bend} {y0:.1f} {x1 - _MARGIN} {y1:.1f} {x1} {y1:.1f}m-7 -4l7 4l-7 4"


def _box(group: Group, x: int, y: float, largest: float, receivers: Sequence[Group]) -> Markup:
    colour, says = tone(group.effect, 0.1 + 0.4 * abs(group.effect) / largest), shown(group.says)
    style = (
        f"position:absolute;left:{x}px;top:{y:.1f}px;width:{_WIDTH}px;box-sizing:border-box;border-radius:6px;"
        f"border:{2 if group.input else 1}px solid;background:linear-gradient({colour},{colour}),Canvas"
    )
    lines = [f"{', '.join(group.sites)}: {signed(group.effect, 2)}"]
    lines += [f"→ {other.name or 'head'} = {shown(other.says)}" for other in receivers]
    return Markup(
        '<details style="{}"><summary style="padding:2px 6px;cursor:pointer;{cut}" title="{says}"><b>{}</b>'
        '<div style="{cut}">= {says}</div></summary><div style="padding:0 6px 4px">{}</div></details>'
    ).format(style, group.name or "head", Markup("<br>").join(lines), cut=_CUT, says=says)
