"""Tokens with an amount each as bars of HTML: drawn at once, where a plotly figure takes a tenth of a second."""

import html
from collections.abc import Sequence

from interp.report import wording
from interp.report.circuit_plots import tone

_ROW = "display:flex;gap:.5em;align-items:center;font-size:.85em;line-height:1.55"
_NAME = "flex:0 0 7.5em;text-align:right;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
_NUMBER = "flex:0 0 4em;font-variant-numeric:tabular-nums"
_HEAD = "font-size:.8em;opacity:.7;margin-bottom:.2em"


def token_bars(groups: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> str:
    """Groups beside each other where there is room; the largest amount of all has the whole width.

    Args:
        groups: a title, and tokens as text with their amounts.
    """
    every = [abs(value) for _, rows in groups for _, value in rows]
    largest = max(every, default=0.0) or 1.0
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
