"""What the card of a circuit's member shows: where it attends, its codes and what it writes."""

import html
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from interp.circuits.circuit import CodesUsed, Writes
from interp.report import wording
from interp.report.circuit_figures import pattern_plot, tone
from interp.report.style import embed
from interp.runs.run import Run

CODES = 8
"""Codes shown of each head, most used first."""
MOST_POSITIONS = 64


def attention(run: Run, site: str) -> Markup | None:
    """A head's pattern on the example's clean prompt."""
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
    return {
        "rows": used[:CODES],
        "more": len(used[CODES:]),
        "single": len(rows) - len(used),
        "unique": len(unique),
        "unique_share": sum(unique),
    }


def _positions(shares: Sequence[float], n_pairs: int) -> int:
    """How many token positions of a prompt the shares are pooled over, as few as explain them."""
    for positions in range(1, MOST_POSITIONS):
        counts = np.array(shares) * n_pairs * positions
        if np.allclose(counts, counts.round(), atol=1e-6):
            return positions
    return 1


def tokens_written(writes: Writes | None) -> Markup | None:
    """What a head raises and lowers most."""
    if not writes or not writes.top:
        return None
    return Markup(token_bars([("raises most", writes.top), ("lowers most", writes.bottom)]))


_ROW = "display:flex;gap:.5em;align-items:center;font-size:.85em;line-height:1.55"
_NAME = "flex:0 0 7.5em;text-align:right;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
_NUMBER = "flex:0 0 4em;font-variant-numeric:tabular-nums"
_HEAD = "font-size:.8em;opacity:.7;margin-bottom:.2em"


def token_bars(groups: Sequence[tuple[str, Sequence[Sequence]]]) -> str:
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
