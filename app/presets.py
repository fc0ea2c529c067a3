"""Presets on the page *Steering*: what steers, one click away, and how often it did."""

import streamlit as st

from interp.app.tokens import plain
from interp.steering.presets import Preset

BY_NAME = "by name"
"""How the page calls codes that are written out."""


def fill(preset: Preset) -> None:
    """The form as a preset says."""
    values = {"source": BY_NAME, "codes": preset.codes, "prompt": preset.prompt, "how": preset.how}
    values |= {"slots": 1, "scale": preset.scale, "positions": "generated", "begin": 1, "share": 1.0}
    values |= {"temperature": preset.temperature, "tokens": preset.n_tokens, "chat": False}
    for key, value in values.items():
        st.session_state[key] = value


def offer(presets: list[Preset]) -> None:
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
            st.caption(
                f"{plain(preset.name)}: of texts with these codes {steered} have one of its words, of those without "
                f"{base}, of those with random codes of the same heads {control}; perplexities {with_codes}, "
                f"{plain_one} and {random}. {plain(preset.found)}"
            )
