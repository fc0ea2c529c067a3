"""A text whose tokens can be clicked: a small component, in which whatever a token holds is only ever text.

The arrow keys move along the tokens of a row, Enter or the space bar chooses one. The page keeps a select box beside
it, which does the same where the component cannot run.
"""

import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import streamlit as st

from interp.app.widgets.tokens import code_number, code_title, colour
from interp.codesearch.labels import MIXED, RARE
from interp.report import wording

_JS, _CSS = (Path(__file__).with_suffix(end).read_text(encoding="utf-8") for end in (".js", ".css"))
_strip = st.components.v2.component("interp_token_strip", html='<div class="strip"></div>', css=_CSS, js=_JS)


@dataclass(frozen=True)
class Row:
    """The text once, as it is shown."""

    about: str  # what is to be seen, for those who hear it
    name: str  # stands before the text
    # styles, numbers, titles: CSS of each token, what stands below it, and what it says when pointed at
    styles: list[str]
    numbers: list[str]
    titles: list[str]


def by_codes(codes: Mapping[str, Sequence[int]], label: Callable[[str, int], str]) -> list[Row]:
    """A row for each site, its tokens coloured by their codes there; −1 is none."""
    rows = []
    for name, ids in codes.items():
        numbers = [code_number(code) for code in ids]
        titles = [code_title(name, code, label(name, code)) for code in ids]
        styles = [f"background:{colour(code)}" for code in ids]
        rows.append(Row(f"Tokens coloured by {name}", name, styles, numbers, titles))
    return rows


def token_strip(
    pieces: Sequence[str],
    rows: Sequence[Row],
    chosen: int | None,
    key: str,
    on_pick: Callable[[int], None],
    first: int = 0,
) -> None:
    """Draw the text once for each row. ``chosen``: the token with a ring. ``on_pick``: is told which token was picked,
    before the page is drawn anew. ``first``: tokens before this one are not picked."""

    def take() -> None:
        token = st.session_state[key].get("picked")
        if isinstance(token, int) and first <= token < len(pieces):
            on_pick(token)

    _strip(
        key=key,
        data={
            "pieces": list(pieces),
            "shown": [wording.visible(piece, keep=" ") for piece in pieces],
            "rows": [asdict(row) for row in rows],
            "chosen": chosen,
            "first": first,
        },
        on_picked_change=take,
    )


def legend(codes: Mapping[str, Sequence[int]], label: Callable[[str, int], str], most: int = 12) -> str:
    """HTML that says what the colours stand for: the codes with a name, those at most tokens first, of one site.

    Without names, or of several sites at once, it is empty.
    """
    if len(codes) > 1:
        return ""
    ((site, ids),) = codes.items()
    shown = [(code, label(site, code)) for code, _ in Counter(i for i in ids if i >= 0).most_common()]
    entries = [
        f'<span><span style="background:{colour(code)};'
        f'border-radius:3px;padding:0 .35em;font-variant-numeric:tabular-nums">{code}</span> {html.escape(text)}</span>'
        for code, text in shown
        if text not in ("", RARE, MIXED)
    ][:most]
    if not entries:
        return ""
    if others := len(shown) - len(entries):
        entries.append(f'<span style="opacity:.7">{others} more without a clear name</span>')
    style = "display:flex;flex-wrap:wrap;gap:0 1.2em;font-size:.85em;line-height:1.9"
    return f'<div style="{style}">{"".join(entries)}</div>'
