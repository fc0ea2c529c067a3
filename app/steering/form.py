"""What the form of the page *Steering* says, and in one line what made the texts that are shown."""

from urllib.parse import urlencode, urlsplit

import streamlit as st

from interp.app import engine
from interp.app.widgets.tokens import plain
from interp.report import wording
from interp.steering import SteeringRequest

OF_TOPIC, OF_TEXTS, BY_NAME = SOURCES = ("of a topic", "of texts", "by name")
"""Where codes come from: found, or written out."""
SHORT = 60
"""Characters of a prompt."""
_ALWAYS = ("books", "source", "how", "prompt", "beside", "said", "times", "positions", "fraction", "when")
_OF_TEXT = ("tokens", "temperature", "seed", "chat")
_OF_SOURCE = {
    BY_NAME: ("codes",),
    OF_TOPIC: ("topic", "top_k", "by"),
    OF_TEXTS: ("positive", "negative", "top_k", "by"),
}
_OF_HOW = {"added": ("scale",), "set": ("slots",)}
_OF_POSITIONS = {"generated": ("begin",)}


def settings() -> dict:
    """The fields that count, by key: others do nothing, and may hold what was left in them."""
    state = st.session_state
    keys = (
        *_ALWAYS,
        *_OF_TEXT,
        *_OF_SOURCE.get(state.get("source"), ()),
        *_OF_HOW.get(state.get("how"), ()),
        *_OF_POSITIONS.get(state.get("positions"), ()),
    )
    return {key: state.get(key) for key in keys}


def address(made: dict) -> str:
    """The address of a comparison, by its :func:`settings`: opened anywhere, the page has the same."""
    given = engine.address_of_model() | {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in made.items()
        if value not in (None, "", [])
    }
    here = urlsplit(st.context.url or "/steering")
    return here._replace(query=urlencode(given, doseq=True), fragment="").geturl()


def made_by(request: SteeringRequest, books: str) -> str:
    """What made a comparison, as Markdown."""
    n, (positions, _, begin) = len(request.codes), request.positions.partition(":")
    prompt = wording.visible(request.prompts[0], keep=" ")
    words = [
        f"“{prompt if len(prompt) <= SHORT else prompt[: SHORT - 1] + '…'}”",
        f"{n} {'code' if n == 1 else 'codes'} {_done(request)}",
        f"at {positions} tokens" + (f" from number {begin} on" if begin else ""),
        f"{request.n_tokens} new tokens at temperature {request.temperature:g}",
        f"seed {request.seed}",
        f"codebooks: {books}",
    ]
    if request.fraction != 1:
        words[2] += f", {wording.percent(request.fraction)} of them"
    if request.when is not None:
        words[2] += f", where {wording.visible(request.when, keep=' ')} holds"
    if request.chat:
        words[0] += " as a chat message"
    return plain(" · ".join(words))


def _done(request: SteeringRequest) -> str:
    if request.how == "added":
        return f"added {request.scale:g} times"
    return "forbidden" if request.how == "forbidden" else f"set in {request.slots} of a vector's slots"
