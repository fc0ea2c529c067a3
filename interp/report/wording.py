"""How numbers, metrics and tokens are written in a report."""

import html
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

METRIC_NAMES = {
    "logit_diff": "logit difference",
    "logit_diff_max": "logit difference to the best wrong answer",
    "prob_diff": "probability difference",
}

EXACT = "exact patching"  # what the baseline of a bench is called
MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
_SPACES = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}


def method_name(method: str) -> str:
    """A method of a bench, whose files have an older word for the baseline."""
    return EXACT if method == "yardstick" else method


def in_plot(text: str) -> str:
    """A text as plotly shows it; it knows few entities, and a quotation mark is none of them."""
    return html.escape(text, quote=False)


def places(scale: int | float) -> int:
    """Decimals that show about three digits of numbers up to ``scale``."""
    return min(6, max(0, 2 - math.floor(math.log10(scale)))) if scale > 0 else 2


def number(value: int | float | None, decimals: int) -> str:
    """``1.25``, ``−0.30``; a dash for nothing."""
    return DASH if value is None else f"{value:z.{decimals}f}".replace("-", MINUS)


def signed(value: int | float | None, decimals: int) -> str:
    """``+1.25``, ``−0.30``; a dash for nothing."""
    return DASH if value is None else f"{value:+z.{decimals}f}".replace("-", MINUS)


def percent(share: int | float | None) -> str:
    """``71 %``, ``2.4 %``, with a sign where negative."""
    if share is None:
        return DASH
    return number(100 * share, 0 if abs(share) >= 0.0995 else 1) + " %"


def share(of_prompts: float) -> str:
    """``<1 %``, ``27 %``; a dash for none."""
    if not of_prompts:
        return DASH
    return "<1 %" if of_prompts < 0.005 else f"{100 * of_prompts:.0f} %"


def seconds(value: int | float) -> str:
    """``0.42 s``, ``12 s``, ``3 min 5 s``."""
    if value >= 120:
        return f"{int(value // 60)} min {int(value % 60)} s"
    return f"{value:.0f} s" if value >= 10 else f"{value:.2f} s"


def shared_pairs(judged: Any, n_pairs: int) -> str:
    """A sentence where scores are judged by exact effects of their own pairs, or of some, else an empty string."""
    shared, measured = judged.shared_pairs, judged.measured_pairs
    if not shared:
        return ""
    if shared == n_pairs == measured:
        return (
            "It was measured on the run’s own pairs, so it says how near the scores come to exact effects of these, "
            "not of others."
        )
    are = "are" if shared > 1 else "is"
    return f"Of the run’s {n_pairs} pairs {shared} {are} among the {measured} that it was measured on."


def roles_at(positions: Mapping[str, int]) -> dict[int, str]:
    """The role at each position; several at one stand beside each other."""
    roles: dict[int, str] = {}
    for role, position in positions.items():
        roles[position] = f"{roles[position]}/{role}" if position in roles else role
    return roles


def token(text: str, limit: int | None = None) -> str:
    """A token as :func:`visible` shows it, also one that is empty."""
    shown = visible(text) or "∅"
    return shown if limit is None or len(shown) <= limit else shown[: limit - 1] + "…"


def code_label(labels: Any, book: str, code: int) -> str:
    """What stands beside a code's number, of :class:`~interp.codesearch.labels.Labels`; empty without a label. The name
    of the coarse code that it belongs to comes first."""
    return "" if labels is None else visible(labels.both_texts(book, code), keep=" ")


_NO_NAMES = "rare", "mixed", ""


def code_title(labels: Any, book: str, code: int) -> str:
    """A code's name, ``a20.h0=3.17`` where its labels have a coarse level."""
    return f"{book}={code}" if labels is None else labels.name(book, code)


def code_sides(labels: Any, book: str, code: int) -> list[str]:
    """What is known of a code beside its name: the sides that did not give it, and what it writes."""
    label = None if labels is None else labels.of(book, code)
    if label is None:
        return []
    sides = [(label.looks, label.looks_f1), (label.stands, label.stands_f1)]
    lines = [f"{text} (F1 {f1:.2f})" for text, f1 in sides if text not in (*_NO_NAMES, label.text)]
    if label.writes:
        lines.append(f"{label.writes} ({label.writes_gain:+.2f} sd at what comes next)")
    if (coarse := labels.coarse_of(book, code)) is not None:
        name = labels.coarse.name(book, int(labels.groups[book][code]))
        lines.append(f"{name} {coarse.text} (F1 {coarse.f1:.2f})")
    return [visible(line, keep=" ") for line in lines]


WRITES = 0.2  # standard deviations from which on what a code writes is its name in steering


def code_effect(labels: Any, book: str, code: int) -> str:
    """What a code writes, where the text that follows bears it out; else its name."""
    label = None if labels is None else labels.of(book, code)
    if label is None or not label.writes or label.writes_gain < WRITES:
        return code_label(labels, book, code)
    return visible(label.writes, keep=" ")


def explanation(spoken: Any) -> str:
    """What a model said of a code (:class:`~interp.codesearch.explain.Explanation`), and how well that holds."""
    null = "" if spoken.null is None else f", {spoken.null:.2f} with another code's words"
    score = "" if spoken.f1 is None else f"   (detection F1 {spoken.f1:.2f} at {spoken.n} tokens of other text{null})"
    return f"“{visible(spoken.text, keep=' ')}”{score}"


def visible(text: str, keep: str = "") -> str:
    """White space made visible; control, direction and rarer space characters as escapes.

    Direction overrides would otherwise reorder what stands beside them, and a terminal would obey control characters.
    Characters in ``keep`` stay as they are.
    """

    def shown(character: str) -> str:
        if character in keep:
            return character
        hidden = unicodedata.category(character)[0] in "CZ"
        return _SPACES.get(character) or (f"\\u{ord(character):04x}" if hidden else character)

    return "".join(map(shown, text))
