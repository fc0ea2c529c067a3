"""The tokens of a text, and which special ones stand around it."""

import itertools
from typing import Any

from transformers import PreTrainedTokenizerBase

from interp.errors import InputError


def first_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """What a block begins with: BOS, or EOS where there is no BOS (as TransformerLens has it)."""
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def between(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """What stands between two documents: EOS, or BOS where there is no EOS."""
    return tokenizer.bos_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id


def opened(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text behind what a block begins with."""
    begin = first_token(tokenizer)
    head = [] if begin is None else [begin]
    return head + token_ids(tokenizer, text)


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    check_unicode(text)
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def in_chat_template(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A user's message up to where the model answers; the template brings BOS, where there is one."""
    if not tokenizer.chat_template:
        raise InputError("this model's tokenizer has no chat template: give the prompt as plain text")
    check_unicode(text)
    message = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))


def check_unicode(text: str, name: str = "text") -> None:
    """Raise :class:`InputError` for half of a surrogate pair: a cut emoji, or bytes of a terminal that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 20) : error.start + 1]
        raise InputError(
            f"{name}: character {error.start} (behind {near[:-1]!r}) is {near[-1]!r}, half of a surrogate pair and no "
            "Unicode text"
        ) from None


def ends(model: Any) -> set[int]:
    """Token ids that end a text: the tokenizer's, and those that the model's generation stops at."""
    stops = getattr(model.cfg, "eos_token_id", None)
    stops = stops if isinstance(stops, list | tuple) else [stops]
    return {int(end) for end in (model.tokenizer.eos_token_id, *stops) if end is not None}


def until_end(row: list[int], ends: set[int]) -> list[int]:
    """Tokens up to the first that ends a text, and without it."""
    return list(itertools.takewhile(lambda token: token not in ends, row))
