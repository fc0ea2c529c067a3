"""One card a member: the codes it uses, where it attends, what it writes, what it looks like."""

from markupsafe import Markup

from interp.circuits.circuit import CodesUsed, Writes
from interp.circuits.roles import ROLE_BAR
from interp.report import wording
from interp.report.components import Scale, effect_text, roles_named
from interp.report.figures import attention_pattern
from interp.runs.run import Run
from interp.scores.result import Evidence

OPEN = 3
"""Cards that are open at first."""
CODES = 8
"""Codes shown of each head, most used first."""


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
                "evidence": _evidence(part.evidence),
                "codes": _codes(part.codes),
                "writes": _writes(part.writes),
            }
        )
    return cards


def _pattern(run: Run, site: str) -> Markup | None:
    pattern = run.pattern(site)
    if pattern is None:
        return None
    example = run.examples[0]
    marked: dict[int, str] = {}
    for role, position in example.positions.items():
        marked[position] = f"{marked[position]}/{role}" if position in marked else role
    return attention_pattern(
        pattern, example.clean, marked, f"Attention pattern of {site} on the example’s clean prompt"
    )


def _evidence(evidence: Evidence | None) -> dict | None:
    """What speaks for the head, as the method ``adaptive-patching`` found it."""
    if not evidence:
        return None
    digits = wording.places(abs(evidence.effect))
    set_codes, whole = evidence.set_codes, evidence.whole
    return {
        "effect": wording.signed(evidence.effect, digits),
        "error": f"{evidence.error:.{digits}f}",
        "probability": f"{evidence.probability:.3f}",
        "p_value": f"{evidence.p_value:.2g}",
        "patched": evidence.patched,
        "set_codes": None if set_codes is None else wording.signed(set_codes, digits),
        "whole": None if whole is None else wording.signed(whole, digits),
        "changes": [
            {
                **vars(change),
                "share": _share_text(change.share),
                "attribution": wording.signed(change.attribution, digits),
            }
            for change in evidence.changes
        ],
    }


def _codes(codes: CodesUsed | None) -> dict | None:
    """Share of prompts with each code on either side, and which codes corrupt prompts never have."""
    if not codes or not codes.clean + codes.corrupt:
        return None
    shares = {"clean": dict(codes.clean), "corrupt": dict(codes.corrupt)}
    used = sorted(
        {*shares["clean"], *shares["corrupt"]},
        key=lambda code: (-shares["clean"].get(code, 0.0) - shares["corrupt"].get(code, 0.0), code),
    )
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
        "unique": len(unique),
        "unique_share": sum(shares["clean"][code] for code in unique),
    }


def _writes(writes: Writes | None) -> list[dict] | None:
    if not writes or not writes.top:
        return None
    digits = wording.places(max(abs(value) for _, value in (*writes.top, *writes.bottom)))
    return [
        {
            "name": name,
            "tokens": [
                (wording.token(text, 18), wording.signed(value, digits))
                for text, value in getattr(writes, side)
            ],
        }
        for side, name in (("top", "raises most"), ("bottom", "lowers most"))
    ]


def _share_text(share: float) -> str:
    if not share:
        return wording.DASH
    return "<1 %" if share < 0.005 else f"{100 * share:.0f} %"
