"""What an address may say: values that no field takes are left out, and names that are not there are told."""

import math
from collections.abc import Sequence
from typing import Any

import streamlit as st

from interp.app.widgets.tokens import plain

IN_URL = "query-params"  # what binds a widget's value to the page's address
WHOLE = ("tokens", "begin", "seed", "slots", "top_k", "rows", "hits_least", "each", "contexts")
"""Parameters of fields for whole numbers."""
CHOSEN = ("search", "order", "side", "show", "bench_pairs", "heldout", "along")
"""Parameters of choices of which one always is made."""


def choice(label: str, options: Sequence, key: str, *, place: Any = st, **more) -> Any:
    """One of a few options side by side, of which one always is chosen; it stands in the address."""
    always = {"default": options[0], "required": True, "bind": IN_URL}
    return place.segmented_control(label, options, key=key, **always, **more)


def mend() -> None:
    """Take out what Streamlit's fields would end at: infinite whole numbers, and choices of nothing."""
    fields = st.query_params.to_dict()
    empty = [name for name in CHOSEN if fields.get(name) == ""]
    if bad := empty + [name for name in WHOLE if _is_infinite(fields.get(name, ""))]:
        for name in bad:
            del st.query_params[name]
        st.rerun()  # fields are filled from the address as it was when the run began


def whole_number(name: str, otherwise: int) -> int:
    """What the address says, if it is a number of at most four digits: Python refuses to read thousands of them."""
    text = st.query_params.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 5 else otherwise


def from_address(name: str, choices: Sequence[str], otherwise: str | None = None) -> None:
    """Put what the address says into the field of its key, unless the reader has chosen something that is there."""
    if name not in st.session_state or st.session_state[name] not in (*choices, None):
        value = st.query_params.get(name)
        st.session_state[name] = value if value in choices else otherwise


def tell_missing(name: str, choices: Sequence[str], kind: str) -> None:
    """Say so if what the address names, or what was shown until now, is not there, before another is shown. ``name``:
    of the parameter; the field's key is the same. ``kind``: of what is named, such as ``index``."""
    value, noted = st.query_params.get(name), f"missing {name}"
    if name not in st.session_state:  # the page was opened
        st.session_state.pop(noted, None)
        if value is not None and value not in choices:
            st.session_state[noted] = value
    elif (current := st.session_state[name]) and current not in choices:  # its folder went while the page was open
        st.session_state[noted] = current
    elif not choices or current != choices[0]:  # somebody has chosen: the first is what stands in
        st.session_state.pop(noted, None)
    if noted in st.session_state:
        shown = ": another is shown" if choices else ""
        st.warning(f"Here is no {kind} called {plain(str(st.session_state[noted]))}{shown}.")


def _is_infinite(text: str) -> bool:
    try:
        return not math.isfinite(float(text))
    except ValueError:
        return False
