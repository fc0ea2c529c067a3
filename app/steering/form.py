"""What the form of the page *Steering* says, and in one line what made the texts that are shown."""

import streamlit as st

from interp.app.steering.job import Request
from interp.app.widgets.tokens import plain
from interp.report import wording

BY_NAME, OF_TOPIC, OF_TEXTS = SOURCES = ("by name", "of a topic", "of texts")
"""Where codes come from: written out, or found."""
SHORT = 60
"""Characters of a prompt."""
_ALWAYS = (
    "books",
    "source",
    "how",
    "prompt",
    "positions",
    "share",
    "tokens",
    "temperature",
    "seed",
    "control",
    "chat",
)
_OF_SOURCE = {
    BY_NAME: ("codes",),
    OF_TOPIC: ("topic", "dose", "by"),
    OF_TEXTS: ("like", "unlike", "dose", "by"),
}
_OF_HOW = {"added": ("scale",), "set": ("slots",)}
_OF_POSITIONS = {"generated": ("begin",)}


def settings() -> dict:
    """The fields that are drawn, by key: others do nothing, and may hold what was left in them."""
    state = st.session_state
    keys = (
        *_ALWAYS,
        *_OF_SOURCE.get(state.get("source"), ()),
        *_OF_HOW.get(state.get("how"), ()),
        *_OF_POSITIONS.get(state.get("positions"), ()),
    )
    return {key: state.get(key) for key in keys}


def made_by(request: Request, books: str) -> str:
    """What made a comparison, as Markdown.

    Args:
        books: what the codebooks are called.
    """
    n, (positions, _, begin) = len(request.codes), request.positions.partition(":")
    prompt = wording.visible(request.prompt, keep=" ")
    words = [
        f"“{prompt if len(prompt) <= SHORT else prompt[: SHORT - 1] + '…'}”",
        f"{n} {'code' if n == 1 else 'codes'} {_done(request)}",
        f"at {positions} tokens" + (f" from number {begin} on" if begin else ""),
        f"{request.n_tokens} new tokens at temperature {request.temperature:g}",
        f"seed {request.seed}",
        f"codebooks: {books}",
    ]
    if request.share != 1:
        words[2] += f", {wording.percent(request.share)} of them"
    if request.chat:
        words[0] += " as a chat message"
    return plain(" · ".join(words))


def _done(request: Request) -> str:
    if request.how == "added":
        return f"added {request.scale:g} times"
    return "forbidden" if request.how == "forbidden" else f"set in {request.slots} of a vector's slots"
