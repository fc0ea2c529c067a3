"""What ``interp steer`` prints."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from interp.evaluation.steering import distinct_2, perplexity
from interp.intervals import wilson
from interp.steering.continuations import Continuation
from interp.steering.edits import WeightedCode, written
from interp.steering.found import FoundCode, FoundCodes
from interp.steering.repeat import program
from interp.steering.topics import holds_word
from interp.terminal import plain_console

FLUENCY = {"perplexity": ".1f", "distinct_2": ".2f"}
SHOWN = 12
"""Codes that are listed; the Python below names all of them."""


def print_found(found: FoundCodes, used: Sequence[WeightedCode]) -> None:
    """The first of the codes that are used, with how well they tell the held-out texts apart."""
    console, listed = plain_console(), found.listed(used)
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
    console = plain_console()
    table = Table(expand=True, show_lines=True)
    for name in texts:
        table.add_column(name, ratio=1)
    for row in zip(*texts.values(), strict=True):
        table.add_row(*map(_shown, row))
    console.print()
    console.print(table)
    console.print("perplexity of the new tokens under the model without steering")


def print_rates(texts: Mapping[str, Sequence[Continuation]], words: Sequence[str]) -> None:
    """Of each arm the share of texts with one of the words, and what that costs in fluency."""
    table = Table(box=None, padding=(0, 1))
    for name in ("", "texts", *(["with a word [95 %]"] if words else []), "perplexity", "distinct-2"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, rates in rates_of(texts, words).items():
        held = [f"{rates['rate']:.0%} [{rates['low']:.0%}, {rates['high']:.0%}]"] if words else []
        fluent = ["–" if rates[key] is None else f"{rates[key]:{form}}" for key, form in FLUENCY.items()]
        table.add_row(name, str(rates["n"]), *held, *fluent)
    console = plain_console()
    console.print()
    console.print(table)
    if words:
        console.print(f"words: {', '.join(words)}; a rate says nothing without its perplexity and distinct-2")


def rates_of(texts: Mapping[str, Sequence[Continuation]], words: Sequence[str]) -> dict[str, dict]:
    """Number of texts, perplexity and distinct-2 of each arm, and with words the rate with Wilson's 95 % interval."""
    found: dict[str, dict] = {}
    for name, own in texts.items():
        found[name] = {
            "n": len(own),
            "perplexity": perplexity(own) if any(text.tokens for text in own) else None,
            "distinct_2": distinct_2([text.text for text in own]),
        }
        if words:
            held = sum(holds_word(text.text, words) for text in own)
            low, high = wilson(held, len(own))
            found[name] |= {"rate": held / len(own), "low": low, "high": high}
    return found


def as_json(
    texts: Mapping[str, Sequence[Continuation]],
    codes: Mapping[str, Sequence[WeightedCode]],
    words: Sequence[str],
    settings: Mapping,
) -> dict:
    """What ``--json`` writes; texts and codes are by arm."""
    return {
        "settings": dict(settings),
        "codes": {name: written(own) for name, own in codes.items()},
        "words": list(words),
        "rates": rates_of(texts, words),
        "texts": {
            name: [{"prompt": one.prompt, "text": one.text, "perplexity": one.perplexity} for one in own]
            for name, own in texts.items()
        },
    }


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
