"""What the codes of the form are called, and how often those of a topic have worked."""

from collections.abc import Sequence

import streamlit as st

from interp.app.steering.form import settings
from interp.app.widgets.tokens import plain
from interp.bottlenecks.edits import WeightedCode, code_name, format_codes
from interp.codesearch import Labels
from interp.report.wording import code_label
from interp.steering.topics import Preset

NAMED = 6
"""Codes that are told by name."""


def named(codes: Sequence[WeightedCode], labels: Labels | None) -> str:
    """Codes by what they stand for, the clearest names first; empty if none has one."""
    if labels is None:
        return ""
    every = [(code, labels.of(code.site, code.code)) for code in codes]
    clear = sorted((one for one in every if one[1] and one[1].named), key=lambda one: -one[1].f1)[:NAMED]
    told = [f"{code_name(*code[:2])} {code_label(labels, *code[:2])}" for code, _ in clear]
    more = len(every) - len(told)
    return ", ".join(told) + (f" and {more} more" if told and more else "")


def worked(preset: Preset, codes: Sequence[WeightedCode]) -> None:
    """How often texts with these codes were of the topic, if they are a preset's."""
    if format_codes(codes) != preset.codes:
        return
    measured = preset.measured
    base, steered, control = (f"{hits} of {measured.n}" for hits in measured.hits)
    plain_one, with_codes, random = (f"{value:.0f}" for value in measured.perplexities)
    own = "" if _as_measured(preset) else " Measured at other settings than those below."
    st.caption(
        f"{plain(preset.name)}: of texts with these codes {steered} have one of its words, of those without {base}, of "
        f"those with random codes of the same heads {control}; perplexities {with_codes}, {plain_one} and {random}. "
        f"{plain(preset.found)}{own}"
    )


def _as_measured(preset: Preset) -> bool:
    """Whether the form steers as the preset was measured; the seed is one of many then."""
    values = {"prompt": preset.prompt, "how": preset.how, "scale": preset.scale, "tokens": preset.n_tokens}
    values |= {"positions": "generated", "begin": 1, "fraction": 1.0, "when": ""}
    values["temperature"] = preset.temperature
    form = settings()  # None before it is drawn for the first time, as the preset was measured
    return not form["chat"] and all(form.get(key) in (value, None) for key, value in values.items())
