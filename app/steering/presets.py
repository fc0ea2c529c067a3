"""Presets on the page *Steering*: what steers, one click away, and how often it did."""

from collections.abc import Callable

import streamlit as st

from interp.app.steering.form import BY_NAME, settings
from interp.app.widgets.tokens import plain
from interp.bottlenecks.edits import code_name
from interp.codesearch.labels import MIXED, RARE
from interp.errors import InputError
from interp.steering import parse_codes
from interp.steering.topics import Preset

NAMED = 6
"""Codes of a preset that are told by name."""


def fill(preset: Preset) -> None:
    """The form as a preset says."""
    for key, value in _values(preset).items():
        st.session_state[key] = value


def _values(preset: Preset) -> dict:
    """What was measured, by the keys of the form's fields."""
    values = {"source": BY_NAME, "codes": preset.codes, "prompt": preset.prompt, "how": preset.how}
    values |= {"slots": 1, "scale": preset.scale, "positions": "generated", "begin": 1, "fraction": 1.0}
    values |= {"when": ""}
    return values | {"temperature": preset.temperature, "tokens": preset.n_tokens, "chat": False}


def _as_measured(preset: Preset) -> bool:
    """Whether the form steers as the preset was measured; the seed is one of many then."""
    values, form = _values(preset), settings()
    return all(form[key] == values[key] for key in values.keys() & form.keys())


def adds(codes: str, label: Callable[[str, int], str]) -> str:
    """Which named codes are in the form, those with a name first; empty if none has one."""
    try:
        named = [(code_name(site, code), label(site, code)) for site, code, _ in parse_codes(codes)]
    except InputError:
        return ""
    told = [f"{name} {text}" for name, text in named if text not in ("", RARE, MIXED)]
    more = len(named) - len(told[:NAMED])
    return ", ".join(told[:NAMED]) + (f" and {more} more" if told and more else "")


def offer(presets: list[Preset], label: Callable[[str, int], str]) -> None:
    """Presets as buttons, and how often the one whose codes are in the form has worked."""
    if not presets:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("Presets")
        for preset in presets:
            st.button(plain(preset.name), key=f"preset {preset.name}", on_click=fill, args=(preset,))
    for preset in presets:
        if st.session_state.get("codes") == preset.codes:
            measured = preset.measured
            base, steered, control = (f"{hits} of {measured.n}" for hits in measured.hits)
            plain_one, with_codes, random = (f"{value:.0f}" for value in measured.perplexities)
            own = (
                "" if _as_measured(preset) else " Measured at the preset's own settings: those below differ."
            )
            st.caption(
                f"{plain(preset.name)}: of texts with these codes {steered} have one of its words, of those without "
                f"{base}, of those with random codes of the same heads {control}; perplexities {with_codes}, "
                f"{plain_one} and {random}. {plain(preset.found)}{own}"
            )
            if told := adds(preset.codes, label):
                st.caption(f"It adds {plain(told)}.")
