"""The members of a circuit: a table, and a card each with its codes, where it attends and what it writes."""

import html
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from interp.circuits.circuit import CodesUsed, Writes
from interp.circuits.roles import ROLE_BAR
from interp.report import wording
from interp.report.circuit_figures import Scale, effect_text, pattern_plot, roles_named, tone
from interp.report.style import embed
from interp.runs.run import Run
from interp.scores.result import Evidence

OPEN = 3
"""Cards that are open at first."""
CODES = 8
"""Codes shown of each head, most used first."""
MOST_POSITIONS = 64


def member_rows(run: Run, scale: Scale) -> list[dict]:
    """The ranked table: one row a member, largest absolute effect first."""
    rows = []
    for part in run.members:
        share, effect = scale.share(part.effect), part.effect or 0.0
        rows.append(
            {
                "site": part.site,
                "roles": [(role, f"{value:.2f}") for role, value in roles_named(part.roles)[:2]],
                "effect": wording.signed(part.effect, scale.places),
                "low": wording.signed(part.low, scale.places),
                "high": wording.signed(part.high, scale.places),
                "share": wording.percent(share),
                "bar": 100 * abs(effect) / scale.largest_effect if scale.largest_effect else 0,
                "tone": "neg" if effect < 0 else "pos",
                "top": [wording.token(text, 16) for text, _ in (part.writes.top[:3] if part.writes else ())],
            }
        )
    return rows


def member_cards(run: Run, scale: Scale) -> list[dict]:
    """What the page shows of every member, largest absolute effect first."""
    cards = []
    for rank, part in enumerate(run.members):
        named = roles_named(part.roles)
        cards.append(
            {
                "site": part.site,
                "open": rank < OPEN,
                "title": ", ".join(role for role, _ in named),
                "effect": effect_text(part, scale),
                "is_mlp": part.is_mlp,
                "roles": [
                    {"name": role, "value": f"{value:.2f}", "bar": 100 * value, "named": value >= ROLE_BAR}
                    for role, value in sorted(part.roles.items(), key=lambda pair: -pair[1])
                ],
                "pattern": _pattern(run, part.site),
                "evidence": _evidence(part.evidence, run.n_pairs),
                "codes": _codes(part.codes, run.n_pairs),
                "writes": _writes(part.writes),
                "direct": None if part.direct is None else wording.signed(part.direct, scale.places),
            }
        )
    return cards


def _pattern(run: Run, site: str) -> Markup | None:
    pattern = run.pattern(site)
    if pattern is None:
        return None
    example = run.examples[0]
    figure = pattern_plot(pattern, example.clean, wording.roles_at(example.positions))
    label = f"Attention pattern of {site} on the example’s clean prompt"
    return embed(figure, label, least=min(520, 200 + 14 * len(example.clean)))


def _evidence(evidence: Evidence | None, n_pairs: int) -> dict | None:
    """What spoke for the head before it was checked; changes of codes that more than one pair has.

    No estimate of its effect: the page has the measured one.
    """
    if not evidence:
        return None
    return {
        "probability": f"{evidence.probability:.3f}",
        "p_value": f"{evidence.p_value:.2g}",
        "patched": evidence.patched,
        "changes": [
            {**vars(change), "pairs": round(change.share * n_pairs)}
            for change in evidence.changes
            if round(change.share * n_pairs) > 1
        ],
    }


def _codes(codes: CodesUsed | None, n_pairs: int) -> dict | None:
    """Share of prompts with each code on either side, and which codes corrupt prompts never have.

    Codes that stand for single prompts are told by their number alone: a token that a prompt has twice, such as a
    name, gives its code two places.
    """
    if not codes or not codes.clean + codes.corrupt:
        return None
    positions = _positions([share for _, share in (*codes.clean, *codes.corrupt)], n_pairs)
    least = (1.5 if positions == 1 else 2.5) / (n_pairs * positions)
    shares = {"clean": dict(codes.clean), "corrupt": dict(codes.corrupt)}
    every = {*shares["clean"], *shares["corrupt"]}
    used = [code for code in every if max(side.get(code, 0.0) for side in shares.values()) > least]
    used.sort(key=lambda code: (-shares["clean"].get(code, 0.0) - shares["corrupt"].get(code, 0.0), code))
    unique = [code for code in used if code not in shares["corrupt"]]
    rows = []
    for code in used[:CODES]:
        clean, corrupt = (shares[side].get(code, 0.0) for side in ("clean", "corrupt"))
        rows.append(
            {
                "code": code,
                "clean": 100 * clean,
                "clean_text": _share_text(clean),
                "corrupt": 100 * corrupt,
                "corrupt_text": _share_text(corrupt),
                "only_clean": not corrupt,
            }
        )
    return {
        "rows": rows,
        "more": len(used) - len(rows),
        "single": len(every) - len(used),
        "unique": len(unique),
        "unique_share": sum(shares["clean"][code] for code in unique),
    }


def _positions(shares: Sequence[float], n_pairs: int) -> int:
    """How many token positions of a prompt the shares are pooled over, as few as explain them."""
    for positions in range(1, MOST_POSITIONS):
        counts = np.array(shares) * n_pairs * positions
        if np.allclose(counts, counts.round(), atol=1e-6):
            return positions
    return 1


def _share_text(share: float) -> str:
    if not share:
        return wording.DASH
    return "<1 %" if share < 0.005 else f"{100 * share:.0f} %"


def _writes(writes: Writes | None) -> Markup | None:
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
