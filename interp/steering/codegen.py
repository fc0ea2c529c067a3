"""A steered text asked for again: in Python, and on the command line."""

import shlex
from collections.abc import Mapping
from typing import Any

from interp.bottlenecks.edits import format_codes
from interp.models.embedded import EMBEDDED

_FROM_BOOKS = "from interp.bottlenecks.store import load_codebooks"


def program(settings: Mapping[str, Any]) -> str:
    """Python that continues prompts as ``settings`` say: without the codes, with them, and, if asked for, with random
    ones.

    Args:
        settings: ``codes``, ``control`` the same of random ones (or None), ``add`` their factor (None sets them),
            ``forbid`` if they are forbidden, and the arguments of the calls below by their names; ``device``,
            ``dtype`` and ``samples``, texts of each prompt, may be left out.
    """
    folder = None if settings["codebooks"] is None else f"Path({settings['codebooks']!r})"
    begin = f"from pathlib import Path\n\n{_FROM_BOOKS}" if folder else _FROM_BOOKS
    loaded = "".join(f", {key}={value!r}" for key, value in _loaded_as(settings).items())
    codes = {"steered": settings["codes"], "random codes": settings["control"]}
    arms = "".join(
        f"\n        {name!r}: parse_codes({format_codes(own)!r}),"
        for name, own in codes.items()
        if own is not None
    )
    if settings["forbid"]:
        done = "forbid=True"
    elif settings["add"] is not None:
        done = f"add={settings['add']}"
    else:
        done = f"slots={settings['slots']}"
    times = f" * {settings['samples']}" if settings.get("samples", 1) > 1 else ""
    return f"""{begin}
from interp.models import load_model
from interp.steering import parse_codes
from interp.steering.conditions import continue_arms

model = load_model({settings["model"]!r}{loaded})
codebooks = load_codebooks({folder}, model, k={settings["k"]})
texts = continue_arms(
    model,
    codebooks,
    {{
        'base': [],{arms}
    }},
    {settings["prompts"]!r}{times},
    {settings["tokens"]},
    {done},
    positions={settings["positions"]!r},
    fraction={settings["fraction"]},
    error_term={settings["error_term"]},
    temperature={settings["temperature"]},
    seed={settings["seed"]},
    chat={settings["chat"]},
)
for name, own in texts.items():
    for text in own:
        print(name, text.prompt, text.text, text.perplexity)"""


def command(settings: Mapping[str, Any]) -> str:
    """The ``interp steer`` that makes the same texts; a control's codes are drawn by the seed."""
    words = ["interp", "steer", "--codes", format_codes(settings["codes"])]
    for prompt in settings["prompts"]:
        words += ["--prompt", prompt]
    words += ["--tokens", str(settings["tokens"])]
    if settings["forbid"]:
        words.append("--forbid")
    elif settings["add"] is not None:
        words.append(f"--add={settings['add']}")
    elif settings["slots"] != 1:
        words += ["--slots", str(settings["slots"])]
    words += ["--positions", settings["positions"]]
    words += ["--share", str(settings["fraction"])] if settings["fraction"] != 1 else []
    words += ["--temperature", str(settings["temperature"]), "--seed", str(settings["seed"])]
    words += ["--chat"] if settings["chat"] else []
    words += ["--control"] if settings["control"] is not None else []
    words += [] if settings["error_term"] else ["--splice"]
    fitted_for = 1 if settings["codebooks"] is None else None  # those of the package have one code a vector
    words += ["--k", str(settings["k"])] if settings["k"] not in (None, fitted_for) else []
    words += ["--codebooks", settings["codebooks"]] if settings["codebooks"] is not None else []
    words += ["--model", settings["model"]] if settings["model"] != EMBEDDED else []
    for key, value in _loaded_as(settings).items():
        words += [f"--{key}", value]
    return shlex.join(words)


def _loaded_as(settings: Mapping[str, Any]) -> dict[str, str]:
    """Dtype and device of the model where they were asked for."""
    asked = {"device": settings.get("device"), "dtype": settings.get("dtype", "float32")}
    return {key: value for key, value in asked.items() if value not in (None, "float32")}
