"""What an address may say: values that no field takes are left out, and names that are not there are told."""

import math
from collections.abc import Sequence

import streamlit as st

from interp.app.tokens import plain

WHOLE = ("tokens", "begin", "seed", "slots", "dose", "rows", "hits_least", "each", "contexts")
"""Parameters of fields for whole numbers."""
CHOSEN = ("search", "order", "side", "show", "bench_pairs", "heldout", "along", "bench_metric")
"""Parameters of choices of which one always is made."""


def mend() -> None:
    """Take out what Streamlit's fields would end at: infinite whole numbers, and choices of nothing."""
    given = st.query_params.to_dict()
    empty = [name for name in CHOSEN if given.get(name) == ""]
    if bad := empty + [name for name in WHOLE if _is_infinite(given.get(name, ""))]:
        for name in bad:
            del st.query_params[name]
        st.rerun()  # fields are filled from the address as it was when the run began


def tell_missing(name: str, there: Sequence[str], what: str) -> None:
    """Say so if the address names something that is not among those that can be chosen, before another is shown.

    Args:
        name: of the parameter; the field's key is the same.
        what: it would be, such as ``codebooks``.
    """
    given = st.query_params.get(name)
    if given is not None and given not in there and name not in st.session_state:
        st.session_state[f"missing {name}"] = given
    if (missing := st.session_state.get(f"missing {name}")) is not None:
        if st.session_state.get(name) in (None, there[0] if there else None):
            st.warning(f"There are no {what} {plain(missing)} here: these are others.")
        else:  # somebody has chosen
            del st.session_state[f"missing {name}"]


def _is_infinite(text: str) -> bool:
    try:
        return not math.isfinite(float(text))
    except ValueError:
        return False
