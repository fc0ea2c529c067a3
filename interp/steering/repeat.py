"""A steered text asked for again: in Python, and on the command line."""

import shlex
from collections.abc import Mapping
from typing import Any

from interp.models.embedded import EMBEDDED
from interp.steering.edits import written

_FROM_BOOKS = "from interp.bottlenecks.book_folder import load_codebooks"


def program(settings: Mapping[str, Any]) -> str:
    """Python that continues prompts as ``settings`` say: first without the codes, then with them, then, if asked for,
    with random ones.

    Args:
        settings: ``codes``, ``control`` the same of random ones (or None), ``add`` their factor (None sets them),
            ``forbid`` if they are forbidden, and the arguments of the calls below by their names; ``device`` and
            ``dtype`` may be left out.
    """
    n = len(settings["prompts"])
    folder = None if settings["codebooks"] is None else f"Path({settings['codebooks']!r})"
    begin = f"from pathlib import Path\n\n{_FROM_BOOKS}" if folder else _FROM_BOOKS
    kind = "ForbidCode" if settings["forbid"] else "SetCode" if settings["add"] is None else "AddCode"
    options, weight = "", "_"
    if kind == "SetCode" and settings["slots"] != 1:
        options = f"slots={settings['slots']}, "
    elif kind == "AddCode":
        options, weight = f"scale={settings['add']} * weight, from_mean=True, ", "weight"
    loaded = "".join(f", {key}={value!r}" for key, value in _loaded_as(settings).items())
    lines = []
    arms = [codes for codes in (settings["codes"], settings["control"]) if codes is not None]
    for i, codes in enumerate(arms, 1):
        rows = f"rows={list(range(i * n, (i + 1) * n))}"
        lines.append(
            f"edits {'=' if i == 1 else '+='} [{kind}(site, code, {options}{rows}) "
            f"for site, code, {weight} in parse_codes({written(codes)!r})]"
        )
    return f"""{begin}
from interp.models import load_model
from interp.steering import {kind}, parse_codes, steer
from interp.steering.continuations import continue_prompts

model = load_model({settings["model"]!r}{loaded})
codebooks = load_codebooks({folder}, model, k={settings["k"]})
{chr(10).join(lines)}
within = steer(
    model,
    codebooks,
    edits,
    positions={settings["positions"]!r},
    share={settings["share"]},
    seed={settings["seed"]},
    error_term={settings["error_term"]},
)
texts = continue_prompts(
    model,
    {settings["prompts"]!r} * {len(arms) + 1},
    {settings["tokens"]},
    within=within,
    temperature={settings["temperature"]},
    seed={settings["seed"]},
    chat={settings["chat"]},
)
for text in texts:
    print(text.prompt, text.text, text.perplexity)"""


def command(settings: Mapping[str, Any]) -> str:
    """The ``interp steer`` that makes the same texts; a control's codes are drawn by the seed."""
    words = ["interp", "steer", "--codes", written(settings["codes"])]
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
    words += ["--share", str(settings["share"])] if settings["share"] != 1 else []
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
