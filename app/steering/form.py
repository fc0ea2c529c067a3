"""What the form of the page *Steering* says, what its codes are called, and what made the texts that are shown."""

from collections.abc import Sequence
from urllib.parse import urlencode, urlsplit

import streamlit as st

from interp.app import engine
from interp.app.widgets.tokens import plain
from interp.bottlenecks.edits import WeightedCode, code_name, format_codes
from interp.codesearch import Labels
from interp.report import wording
from interp.steering import SteeringRequest
from interp.steering.topics import Preset

OF_TOPIC, OF_TEXTS, BY_NAME = SOURCES = ("of a topic", "of texts", "by name")
"""Where codes come from: found, or written out."""
SHORT = 60  # characters of a prompt
NAMED = 6  # codes that are told by name
_ALWAYS = ("books", "source", "how", "prompt", "beside", "said", "times", "positions", "fraction", "when")
_ALWAYS += ("tokens", "temperature", "seed", "chat")
_OF = {
    "source": {
        BY_NAME: ("codes",),
        OF_TOPIC: ("topic", "top_k", "by"),
        OF_TEXTS: ("positive", "negative", "top_k", "by"),
    },
    "how": {"added": ("scale",), "set": ("slots",)},
    "positions": {"generated": ("begin",)},
}
"""Fields that count where another field has a value."""


def settings() -> dict:
    """The fields that count, by key: others do nothing, and may hold what was left in them."""
    state = st.session_state
    keys = list(_ALWAYS)
    for field, of_value in _OF.items():
        keys += of_value.get(state.get(field), ())
    return {key: state.get(key) for key in keys}


def address(form: dict) -> str:
    """The address of a comparison, by its :func:`settings`: opened anywhere, the page has the same."""
    fields = engine.address_of_model() | {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in form.items()
        if value not in (None, "", [])
    }
    page_url = urlsplit(st.context.url or "/steering")
    return page_url._replace(query=urlencode(fields, doseq=True), fragment="").geturl()


def made_by(request: SteeringRequest, books: str) -> str:
    n, (positions, _, begin) = len(request.codes), request.positions.partition(":")
    prompt = wording.visible(request.prompts[0], keep=" ")
    editing = {
        "added": f"added {request.scale:g} times",
        "set": f"set in {request.slots} of a vector's slots",
        "forbidden": "forbidden",
    }
    positions_text = f"at {positions} tokens" + (f" from number {begin} on" if begin else "")
    if request.fraction != 1:
        positions_text += f", {wording.percent(request.fraction)} of them"
    if request.when is not None:
        positions_text += f", where {wording.visible(request.when, keep=' ')} holds"
    words = [
        f"“{prompt if len(prompt) <= SHORT else prompt[: SHORT - 1] + '…'}”"
        + (" as a chat message" if request.chat else ""),
        f"{n} {'code' if n == 1 else 'codes'} {editing[request.how]}",
        positions_text,
        f"{request.n_tokens} new tokens at temperature {request.temperature:g}",
        f"seed {request.seed}",
        f"codebooks: {books}",
    ]
    return plain(" · ".join(words))


def named(codes: Sequence[WeightedCode], labels: Labels | None) -> str:
    """Codes by what they stand for, the clearest names first; empty if none has one."""
    if labels is None:
        return ""
    labelled = [(code[:2], labels.of(*code[:2])) for code in codes]
    clear = sorted((pair for pair in labelled if pair[1] and pair[1].named), key=lambda pair: -pair[1].f1)[:NAMED]
    names = [f"{code_name(*code)} {wording.code_effect(labels, *code)}" for code, _ in clear]
    more = len(codes) - len(names)
    return ", ".join(names) + (f" and {more} more" if names and more else "")


def worked(preset: Preset, codes: Sequence[WeightedCode]) -> None:
    """How often texts with these codes were of the topic, if they are a preset's."""
    if format_codes(codes) != preset.codes:
        return
    measured = preset.measured
    base, steered, control = (f"{hits} of {measured.n}" for hits in measured.hits)
    plain_one, with_codes, random = (f"{value:.0f}" for value in measured.perplexities)
    note = "" if _as_measured(preset) else " Measured at other settings than those below."
    st.caption(
        f"{plain(preset.name)}: of texts with these codes {steered} have one of its words, of those without {base}, of "
        f"those with random codes of the same heads {control}; perplexities {with_codes}, {plain_one} and {random}. "
        f"{plain(preset.found)}{note}"
    )


def _as_measured(preset: Preset) -> bool:
    """Whether the form steers as the preset was measured; the seed is one of many then."""
    values = {"prompt": preset.prompt, "how": preset.how, "scale": preset.scale, "tokens": preset.n_tokens}
    values |= {"temperature": preset.temperature, "positions": "generated", "begin": 1}
    values |= {"fraction": 1.0, "when": ""}
    form = settings()  # None before it is drawn for the first time, as the preset was measured
    return not form["chat"] and all(form.get(key) in (value, None) for key, value in values.items())
