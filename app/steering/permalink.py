"""The address of a comparison: opened anywhere, the page *Steering* has the same settings."""

from urllib.parse import urlencode, urlsplit

import streamlit as st

from interp.bottlenecks.edits import format_codes
from interp.steering import SteeringRequest


def address(request: SteeringRequest, books: str) -> str:
    """Codes by name, so that they need not be found again.

    Args:
        books: the name of the codebooks as chosen on the page.
    """
    positions, _, begin = request.positions.partition(":")
    values = {
        "books": books,
        "source": "by name",
        "how": request.how,
        "prompt": request.prompts[0],
        "codes": format_codes(request.codes),
        "scale": request.scale,
        "slots": request.slots,
        "positions": positions,
        "begin": begin or 1,
        "fraction": request.fraction,
        "when": request.when or "",
        "tokens": request.n_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "random_baseline": str(request.random_baseline).lower(),
        "chat": str(request.chat).lower(),
    }
    here = urlsplit(st.context.url or "/steering")
    return here._replace(query=urlencode(values), fragment="").geturl()
