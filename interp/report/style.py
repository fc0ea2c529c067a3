"""What pages and figures share: colours and margins, templates, and plotly figures in one file that opens offline.

Colours can be told from a light and a dark page's background.

Plotly's script lies in the page packed (2 MB in place of 4.8) and once for all figures. The page's policy names the
script that unpacks it and plotly itself by their hashes: whatever else may have got into the page cannot run.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from interp.report import wording

_FOLDER = files("interp.report")


BLUE, GREY, ORANGE, GREEN = "#3b82c4", "#8a9099", "#e08a3c", "#3f9e74"


def layout(figure: go.Figure, *, height: int, left: int = 50, right: int = 10, legend: bool = False) -> go.Figure:
    """Set the size; colours of text and grid are left to the theme of the page."""
    figure.update_layout(
        height=height,
        margin={"l": left, "r": right, "t": 28 if legend else 10, "b": 44},
        showlegend=legend,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0.0},
        bargap=0.25,
    )
    return figure


def spread(
    heights: Sequence[float] | Float[np.ndarray, " n"], least: int | float, low: int | float, high: int | float
) -> Float[np.ndarray, " n"]:
    """Heights in rising order with at least ``least`` between neighbours, moved as little as a sweep up and one down
    need; evenly from ``low`` to ``high`` where that does not fit."""
    spaced = np.array(heights, dtype=np.float64)
    if len(spaced) > 1 and (len(spaced) - 1) * least >= high - low:
        return np.linspace(low, high, len(spaced))
    for i in range(1, len(spaced)):
        spaced[i] = max(spaced[i], spaced[i - 1] + least)
    last = high
    for i in reversed(range(len(spaced))):
        spaced[i] = min(spaced[i], last)
        last = spaced[i] - least
    return spaced


def whiskers(ends: Sequence[Sequence[int | float]], **look: object) -> dict:
    """Plotly's error bars of values, each with its lower and its upper end; colour, width and thickness as given."""
    array, minus = [high - value for value, _, high in ends], [value - low for value, low, _ in ends]
    return {"type": "data", "symmetric": False, "array": array, "arrayminus": minus, **look}


@cache
def environment() -> Environment:
    """Everything put into a template is escaped, and a name that it lacks is an error."""
    templates = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_text)
    )
    plotly, draw = get_plotlyjs(), _text("figures.js")
    templates.globals |= {
        "style": Markup(_text("report.css")),
        "plotly": base64.b64encode(gzip.compress(plotly.encode(), 6, mtime=0)).decode(),
        "draw": Markup(draw),
        "policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        f"form-action 'none'; script-src {_hash(draw)} {_hash(plotly)}",
    }
    filters = ("percent", "share", "number", "signed", "seconds", "token")
    templates.filters |= {name: getattr(wording, name) for name in filters}
    return templates


def embed(figure: go.Figure, label: str, least: int = 0) -> Markup:
    """A figure in a page, drawn when it comes into view; without scripts its label stands in its place. ``label``: what
    a screen reader says for it. ``least``: pixels of width below which the page scrolls it sideways."""
    drawn = json.loads(figure.to_json())
    drawn["layout"].pop("template", None)  # the page sets its own colours
    data = json.dumps(drawn, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":  # nothing in it can end the element
        data = data.replace(character, f"\\u{ord(character):04x}")
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        '<div class="plot" role="img" aria-label="{label}" style="height:{height}px;min-width:{least}px"></div>'
        '<script type="application/json">{data}</script></div>'
    ).format(label=label, height=int(figure.layout.height), least=least, data=Markup(data))


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
