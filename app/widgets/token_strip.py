"""A text whose tokens can be clicked: a small component, in which whatever a token holds is only ever text.

The arrow keys move along the tokens of a row, Enter or the space bar chooses one. The page keeps a select box beside
it, which does the same where the component cannot run.
"""

import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import streamlit as st

from interp.app.widgets.tokens import code_number, code_title, colour
from interp.codesearch.labels import MIXED, RARE
from interp.report import wording

_CSS = """
.row { margin-bottom: .35em; color: var(--st-text-color); font-family: var(--st-font);
       font-size: var(--st-base-font-size); line-height: 2; white-space: pre-wrap; overflow-wrap: anywhere }
.name { font-size: .8em; font-weight: 600; margin-right: .6em }
.token { unicode-bidi: isolate; border-radius: 3px; padding: 1px 2px; cursor: pointer }
.token:hover { box-shadow: inset 0 0 0 1px var(--st-text-color) }
.token:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 1px }
.token[aria-selected="true"] { box-shadow: inset 0 0 0 2px var(--st-text-color) }
.code { font-size: .65em; vertical-align: sub; line-height: 0; opacity: .8; margin-left: 1px }
"""
_JS = """
function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function draw(root, data, choose) {
  root.replaceChildren(...data.rows.map((row) => {
    const line = element("div", "row", "");
    line.setAttribute("role", "listbox");
    line.setAttribute("aria-label", row.about);
    line.setAttribute("aria-orientation", "horizontal");
    if (row.name) line.append(element("span", "name", row.name));
    data.pieces.forEach((piece, i) => {
      // part of a character: nothing to see, but something to click
      const shown = data.shown[i] || (i < data.first || row.numbers[i] ? "" : "◌");
      const token = element("span", i < data.first ? "" : "token", shown);
      if (row.numbers[i]) token.append(element("span", "code", row.numbers[i]));
      if (piece.includes("\\n")) token.append("\\n");
      token.style.cssText = row.styles[i];
      if (row.titles[i]) token.title = row.titles[i];
      line.append(token);
      if (i < data.first) return;
      token.dataset.token = i;
      token.setAttribute("role", "option");
      token.setAttribute("aria-label", [data.shown[i], row.titles[i]].filter(Boolean).join(", "));
    });
    line.onclick = (event) => {
      const token = event.target.closest(".token");
      if (token) choose(Number(token.dataset.token));
    };
    line.onkeydown = (event) => {
      const tokens = [...line.querySelectorAll(".token")];
      const here = tokens.indexOf(event.target);
      const last = tokens.length - 1;
      const to = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1,
                   Home: 0, End: last }[event.key];
      if (to !== undefined) {
        const next = tokens[Math.max(0, Math.min(last, to))];
        tokens.forEach((token) => { token.tabIndex = token === next ? 0 : -1; });
        next.focus();
      } else if (event.key === "Enter" || event.key === " ") {
        choose(Number(event.target.dataset.token));
      } else {
        return;
      }
      event.preventDefault();
    };
    return line;
  }));
}

function mark(root, chosen) {
  for (const line of root.children) {
    line.querySelectorAll(".token").forEach((token, i) => {
      const here = Number(token.dataset.token) === chosen;
      token.setAttribute("aria-selected", String(here));
      token.tabIndex = here || (chosen === null && i === 0) ? 0 : -1;
    });
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".strip");
  const shown = JSON.stringify([data.pieces, data.rows]);
  if (root.shown !== shown) {  // a click alone must not draw everything anew, nor lose the focus
    root.shown = shown;
    draw(root, data, (i) => root.choose(i));
  }
  root.choose = (i) => { mark(root, i); setTriggerValue("picked", i); };
  mark(root, data.chosen);
}
"""
_strip = st.components.v2.component("interp_token_strip", html='<div class="strip"></div>', css=_CSS, js=_JS)


@dataclass(frozen=True)
class Row:
    """The text once, as it is shown.

    Attributes:
        about: what is to be seen, for those who hear it.
        name: stands before the text.
        styles, numbers, titles: CSS of each token, what stands below it, and what it says when pointed at.
    """

    about: str
    name: str
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
    """Draw the text once for each row.

    Args:
        chosen: the token with a ring.
        on_pick: is told which token was picked, before the page is drawn anew.
        first: tokens before this one are not picked.
    """

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
