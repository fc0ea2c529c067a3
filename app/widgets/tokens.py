"""Tokens on a page: whatever they hold, they are shown as text."""

import html
import re
from collections.abc import Callable, Sequence

LEGIBLE = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:2"
STEERED = "border-bottom:2px solid #e8590c;background:rgba(232,89,12,.16)"
"""Half transparent, so that the text keeps the theme's colour."""
_LINKED = re.compile(r"(?:https?|ftp|mailto|xmpp):|www|(?<=\w)@(?=\w)", re.IGNORECASE)
_DRAWN = re.compile(r"(?<!\S)(?:<->|<-|->|--|>=|<=|~=)(?!\S)")
_JOINER = "\u2060"
_GOLDEN = 137.508  # degrees between the hues of neighbouring ids: no two near ids look alike


def plain(text: str) -> str:
    """Text for a place that reads Markdown, so that it shows as it is.

    Addresses become links, and some signs others (``->`` an arrow), whether escaped or not: an invisible character
    keeps them apart.
    """
    text = _LINKED.sub(lambda match: match[0] + _JOINER, text)
    text = _DRAWN.sub(lambda match: _JOINER.join(match[0]), text)
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def pieces(tokenizer, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; a character of several tokens stands at the one that completes it."""
    added: list[str] = []
    known = read = 0
    for end in range(1, len(ids) + 1):
        # the last token whose text is known is decoded once more: what the next one adds may depend on it
        before = _decoded(tokenizer, ids[known:read])
        text = _decoded(tokenizer, ids[known:end])
        if end < len(ids) and text.endswith("\ufffd"):
            added.append("")
        elif text.startswith(before):
            added.append(text[len(before) :])
            known, read = read, end
        else:  # the tokenizer changed its mind about what came before
            added.append(_decoded(tokenizer, ids[end - 1 : end]))
            known = read = end
    return added


def _decoded(tokenizer, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False) if len(ids) else ""


def visible(text: str) -> str:
    """A token by itself; of one that is all white space that is seen, of others what it says."""
    from interp.report import wording  # its libraries would keep the first page waiting

    return wording.visible(text.strip(), keep=" ") if text.strip() else wording.visible(text)


def colour(code: int) -> str:
    """A background by the code's id, readable under dark and light text; none for an empty slot."""
    return "none" if code < 0 else f"hsla({code * _GOLDEN % 360:.0f},75%,50%,.32)"


def code_number(code: int) -> str:
    """What stands below a token with this code."""
    return "–" if code < 0 else str(code)


def code_title(name: str, code: int, label: str) -> str:
    """What such a token says when it is pointed at."""
    return f"{name} = {code_number(code)}" + (f": {label}" if label else "")


def marked(texts: Sequence[str], steered: Sequence[bool], n_prompt: int) -> str:
    """HTML of a prompt and what is being written, steered tokens marked."""
    spans = []
    for i, (text, is_steered) in enumerate(zip(texts, steered, strict=True)):
        style = ("opacity:.65;" if i < n_prompt else "") + (STEERED if is_steered else "")
        label = ' title="codes edited here"' if is_steered else ""
        spans.append(f'<bdi style="{style}"{label}>{html.escape(text)}</bdi>')
    return f'<div style="{LEGIBLE}">{"".join(spans)}▌</div>'


def coloured(
    name: str, texts: Sequence[str], codes: Sequence[int], chosen: int | None, label: Callable[[int], str]
) -> str:
    """HTML of tokens coloured by their codes at one head or site, each code's id beside its token, its label behind."""
    spans = []
    for i, (text, code) in enumerate(zip(texts, codes, strict=True)):
        ring = "outline:2px solid currentColor;" if i == chosen else ""
        spans.append(
            f'<bdi style="background:{colour(code)};border-radius:3px;padding:1px 2px;{ring}" '
            f'title="{html.escape(code_title(name, code, label(code)))}">{html.escape(text)}'
            f'<sub style="font-size:.65em;opacity:.8">{code_number(code)}</sub></bdi>'
        )
    head = f'<b style="font-size:.8em">{html.escape(name)}</b> '
    return f'<div style="{LEGIBLE};margin-bottom:.3em">{head}{"".join(spans)}</div>'
