"""The templates of the pages, and what all of them may use."""

from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from interp.report import wording


def environment() -> Environment:
    """Everything put into a template is escaped, and a name that it lacks is an error."""
    folder = files("interp.report")
    found = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
    )
    found.globals["style"] = Markup((folder / "report.css").read_text(encoding="utf-8"))
    found.filters["percent"] = wording.percent
    found.filters["number"] = wording.number
    found.filters["signed"] = wording.signed
    found.filters["seconds"] = wording.seconds
    return found
