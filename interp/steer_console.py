"""What ``interp steer`` prints."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from interp.steering.continuations import Continuation
from interp.steering.edits import WeightedCode
from interp.steering.found import FoundCode, FoundCodes
from interp.steering.repeat import program

SHOWN = 12
"""Codes that are listed; the Python below names all of them."""


def print_found(found: FoundCodes, used: Sequence[WeightedCode]) -> None:
    """The first of the codes that are used, with how well they tell the held-out texts apart."""
    console, listed = Console(highlight=False, markup=False, emoji=False), found.listed(used)
    console.print(
        f"{len(listed)} codes by {found.by}, of {len(found)}; "
        f"{found.n_positive} texts with it, {found.n_negative} without; "
        "precision, recall and q: of the half of the texts that judges what the other half chose"
    )
    table = Table(box=None, padding=(0, 1))
    for name in (
        "site",
        "code",
        "weight",
        "effect",
        "prec.",
        "recall",
        "token prec.",
        "recall",
        "q",
    ):
        table.add_column(name, justify="left" if name == "site" else "right", no_wrap=True)
    for code in listed[:SHOWN]:
        table.add_row(*_cells(code))
    console.print(table)
    if len(listed) > SHOWN:
        console.print(f"and {len(listed) - SHOWN} more")


def print_side_by_side(texts: Mapping[str, Sequence[Continuation]]) -> None:
    """Each prompt's texts by name in columns, with the perplexity of what was added."""
    console = Console(highlight=False, markup=False, emoji=False)
    table = Table(expand=True, show_lines=True)
    for name in texts:
        table.add_column(name, ratio=1)
    for row in zip(*texts.values(), strict=True):
        table.add_row(*map(_shown, row))
    console.print()
    console.print(table)
    console.print("perplexity of the new tokens under the model without steering")


def print_repeat(settings: dict) -> None:
    """Python that makes the same texts."""
    print("\n" + program(settings))  # noqa: T201 - no wrapping, so that it can be copied


def _cells(code: FoundCode) -> list[str]:
    verdict = code.verdict
    return [
        code.site,
        str(code.code),
        f"{code.weight:.3g}",
        "–" if code.effect is None else f"{code.effect:+.3f}",
        *(
            ("–",) * 5
            if verdict is None
            else (
                _share(verdict.precision),
                _share(verdict.recall),
                _share(verdict.token_precision),
                _share(verdict.token_recall),
                f"{verdict.q_value:.2g}",
            )
        ),
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _shown(text: Continuation) -> Text:
    surprise = "ended at once" if text.perplexity is None else f"perplexity {text.perplexity:.1f}"
    return Text.assemble((text.prompt, "dim"), text.text, "\n\n", (surprise, "dim"))
