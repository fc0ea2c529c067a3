"""What ``interp steer`` prints."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from interp.steering.continuations import Continuation
from interp.steering.find import FoundCode, FoundCodes

SHOWN = 12
"""Codes that are listed; the Python below names all of them."""


def print_found(found: FoundCodes, n: int) -> None:
    """The first of the codes that are set, with how well they tell the held-out texts apart."""
    console = Console(highlight=False)
    console.print(
        f"{n} codes by {found.by}, of one site each, of {len(found)}; "
        f"{found.n_positive} texts with it, {found.n_negative} without; half of them choose, half judge"
    )
    table = Table(box=None, padding=(0, 1))
    for name in ("site", "code", "effect", "precision", "recall", "of tokens: precision", "recall", "q"):
        table.add_column(name, justify="left" if name == "site" else "right", no_wrap=True)
    for code in found.codes[: min(n, SHOWN)]:
        table.add_row(*_cells(code))
    console.print(table)
    if n > SHOWN:
        console.print(f"and {n - SHOWN} more")


def print_side_by_side(base: Sequence[Continuation], steered: Sequence[Continuation]) -> None:
    """Each prompt's two texts, with the perplexity of what was added."""
    console = Console(highlight=False)
    table = Table(expand=True, show_lines=True)
    table.add_column("base", ratio=1)
    table.add_column("steered", ratio=1)
    for pair in zip(base, steered, strict=True):
        # brackets in a text are no markup
        table.add_row(*(_escaped(text) for text in pair))
    console.print()
    console.print(table)
    console.print("perplexity of the new tokens under the model without steering")


def print_repeat(settings: dict) -> None:
    """Python that makes the same two texts."""
    print("\n" + program(settings))  # noqa: T201 - no wrapping, so that it can be copied


def program(settings: dict) -> str:
    """Python that continues prompts as ``settings`` say, first without and then with the codes.

    Args:
        settings: ``codes`` as pairs of site and id, ``add`` their factor (None sets them), ``forbid`` if they are
            forbidden, and the arguments of the calls below by their names.
    """
    codes = ",".join(f"{site}={code}" for site, code in settings["codes"])
    n = len(settings["prompts"])
    folder = None if settings["codebooks"] is None else f"Path({settings['codebooks']!r})"
    rows = f"rows={list(range(n, 2 * n))}"
    if settings.get("forbid"):
        kind, edit = "ForbidCode", f"ForbidCode(site, code, {rows})"
    elif settings["add"] is None:
        slots = "" if settings["slots"] == 1 else f"slots={settings['slots']}, "
        kind, edit = "SetCode", f"SetCode(site, code, {slots}{rows})"
    else:
        kind, edit = "AddCode", f"AddCode(site, code, {settings['add']}, {rows}, from_mean=True)"
    return (
        f"""from pathlib import Path

from interp.bottlenecks.book_folder import load_codebooks
from interp.models import load_model
from interp.steering import {kind}, parse_codes, steer
from interp.steering.continuations import continue_prompts

model = load_model({settings["model"]!r})
codebooks = load_codebooks({folder}, model, k={settings["k"]})
codes = parse_codes({codes!r})
edits = [{edit} for site, code in codes]
within = steer(model, codebooks, edits, positions={settings["positions"]!r}, share={settings["share"]}, """
        f"""seed={settings["seed"]}, error_term={settings["error_term"]})
for text in continue_prompts(model, {settings["prompts"]!r} * 2, {settings["tokens"]}, within=within, """
        f"""temperature={settings["temperature"]}, seed={settings["seed"]}, chat={settings["chat"]}):
    print(text.prompt, text.text, text.perplexity)"""
    )


def _cells(code: FoundCode) -> list[str]:
    return [
        code.site,
        str(code.code),
        f"{code.effect:+.3f}",
        _share(code.precision),
        _share(code.recall),
        _share(code.token_precision),
        _share(code.token_recall),
        f"{code.q_value:.2g}",
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _escaped(text: Continuation) -> str:
    from rich.markup import escape

    surprise = "ended at once" if text.perplexity is None else f"perplexity {text.perplexity:.1f}"
    return f"[dim]{escape(text.prompt)}[/dim]{escape(text.text)}\n\n[dim]{surprise}[/dim]"
