"""What the pages share: their templates, and plotly figures in one file that opens offline.

Plotly's script lies in the page packed (2 MB in place of 4.8) and once for all figures. The page's policy names the
script that unpacks it and plotly itself by their hashes: whatever else may have got into the page cannot run.
"""

import base64
import gzip
import hashlib
import json
from functools import cache
from importlib.resources import files

import plotly.graph_objects as go
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from interp.report import wording

_FOLDER = files("interp.report")


@cache
def environment() -> Environment:
    """Everything put into a template is escaped, and a name that it lacks is an error."""
    found = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_text),
    )
    plotly, draw = get_plotlyjs(), _text("figures.js")
    found.globals |= {
        "style": Markup(_text("report.css")),
        "plotly": base64.b64encode(gzip.compress(plotly.encode(), 6, mtime=0)).decode(),
        "draw": Markup(draw),
        "policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        f"form-action 'none'; script-src {_hash(draw)} {_hash(plotly)}",
    }
    for written in (wording.percent, wording.number, wording.signed, wording.seconds):
        found.filters[written.__name__] = written
    return found


def embed(figure: go.Figure, label: str, least: int = 0) -> Markup:
    """A figure in a page, drawn when it comes into view; without scripts its label stands in its place.

    Args:
        label: what a screen reader says for it.
        least: pixels of width below which the page scrolls it sideways.
    """
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
