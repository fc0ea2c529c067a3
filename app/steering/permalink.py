"""The address of a comparison: opened anywhere, the page *Steering* has the same settings."""

from urllib.parse import urlencode, urlsplit

import streamlit as st

from interp.app.steering.job import Request
from interp.bottlenecks.edits import format_codes


def address(request: Request, books: str) -> str:
    """Codes by name, so that they need not be found again.

    Args:
        books: the name of the codebooks as chosen on the page.
    """
    positions, _, begin = request.positions.partition(":")
    values = {
        "books": books,
        "source": "by name",
        "how": request.how,
        "prompt": request.prompt,
        "codes": format_codes(request.codes),
        "scale": request.scale,
        "slots": request.slots,
        "positions": positions,
        "begin": begin or 1,
        "share": request.share,
        "tokens": request.n_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "control": str(request.control).lower(),
        "chat": str(request.chat).lower(),
    }
    here = urlsplit(st.context.url or "/steering")
    return here._replace(query=urlencode(values), fragment="").geturl()
