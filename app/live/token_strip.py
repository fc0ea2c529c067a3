"""A text whose tokens can be clicked: a small component, in which whatever a token holds is only ever text.

The arrow keys move along the tokens of a row, Enter or the space bar chooses one. The page keeps a select box beside
it, which does the same where the component cannot run.
"""

import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from interp.app.widgets.tokens import colour
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
    line.setAttribute("aria-label", `Tokens coloured by ${row.name}`);
    line.setAttribute("aria-orientation", "horizontal");
    line.append(element("span", "name", row.name));
    data.pieces.forEach((piece, i) => {
      const number = row.codes[i] < 0 ? "–" : String(row.codes[i]);
      const token = element("span", "token", data.shown[i]);
      token.append(element("span", "code", number), piece.includes("\\n") ? "\\n" : "");
      token.dataset.token = i;
      token.style.background = row.colours[i];
      token.setAttribute("role", "option");
      const label = row.labels[i] ? `: ${row.labels[i]}` : "";
      token.setAttribute("aria-label", `${data.shown[i]}, code ${number}${label}`);
      token.title = `${row.name} = ${number}${label}`;
      line.append(token);
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
        choose(here);
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
      token.setAttribute("aria-selected", String(i === chosen));
      token.tabIndex = i === chosen ? 0 : -1;
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


def token_strip(
    pieces: Sequence[str],
    codes: Mapping[str, Sequence[int]],
    chosen: int,
    key: str,
    on_pick: Callable[[], None],
    label: Callable[[str, int], str],
) -> None:
    """Draw the text once for each site, coloured by its codes.

    Args:
        codes: by site, an id for each token, −1 for none.
        chosen: the token with a ring.
        label: of a code, by site and id.
        on_pick: called before the page is drawn anew for a token that was picked, when ``picked(key)`` tells it.
    """
    rows = [
        {
            "name": name,
            "codes": list(ids),
            "colours": [colour(code) for code in ids],
            "labels": [label(name, code) for code in ids],
        }
        for name, ids in codes.items()
    ]
    _strip(
        key=key,
        data={
            "pieces": list(pieces),
            "shown": [wording.visible(piece, keep=" ") for piece in pieces],
            "rows": rows,
            "chosen": chosen,
        },
        on_picked_change=on_pick,
    )


def legend(codes: Mapping[str, Sequence[int]], label: Callable[[str, int], str], most: int = 12) -> str:
    """HTML that says what the colours stand for: the codes with a name, those at most tokens first, of one site.

    Without names, or of several sites at once, it is empty.
    """
    if len(codes) > 1:
        return ""
    ((site, ids),) = codes.items()
    shown = {code: label(site, code) for code, _ in Counter(i for i in ids if i >= 0).most_common()}
    named = {code: text for code, text in shown.items() if text not in ("", RARE, MIXED)}
    entries = [
        f'<span><span style="background:{colour(code)};'
        f'border-radius:3px;padding:0 .35em;font-variant-numeric:tabular-nums">{code}</span> {html.escape(text)}</span>'
        for code, text in list(named.items())[:most]
    ]
    others = len(shown) - len(entries)
    if entries and others:
        entries.append(f'<span style="opacity:.7">{others} more without a clear name</span>')
    return (
        f'<div style="display:flex;flex-wrap:wrap;gap:0 1.2em;font-size:.85em;line-height:1.9">{"".join(entries)}</div>'
        if entries
        else ""
    )


def picked(key: str) -> int | None:
    """The token that was picked just now."""
    value = st.session_state[key].get("picked")
    return value if isinstance(value, int) else None
