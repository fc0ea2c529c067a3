"""Two prompts as a question: their tokens, how they are aligned, and the two answers that are told apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.metric import kl_divergence
from interp.activations.stream import end_logits
from interp.errors import InputError
from interp.models import Model, model_device
from interp.models.limits import check_tokens
from interp.prompts.encoding import PromptEncoder
from interp.text.special import check_unicode, in_chat_template

Tokens = tuple[int, ...]
LEAST_DIFFERENCE = 1e-2  # in logits: a smaller one is rounding


@dataclass(frozen=True)
class Contrast:
    # a, b: with BOS
    a: Tokens
    b: Tokens
    first: int  # of A's positions, the first from which on the prompts are aligned by their ends
    answers: tuple[int, int]  # the token that A makes likelier, and that which B does
    # of both after A and B, and `uncovered`, the share of KL(A ‖ B) that is lost when all other tokens count as one
    probabilities: dict[str, Any]
    notes: list[str]  # what a reader must know, one sentence each


def read_contrast(
    model: Model, a: str, b: str, answer: str | None, instead: str | None, *, chat: bool = False
) -> Contrast:
    """Tokens, alignment and answers of two prompts. :class:`InputError`: prompts or answers that are empty, too long,
    the same, or without a difference to explain."""
    encoder = PromptEncoder(model.tokenizer, bos=True)
    in_a, in_b = (read_prompt(model, encoder, text, f"prompt {name}", chat=chat) for name, text in (("A", a), ("B", b)))
    before = in_chat_template(model.tokenizer, a) if chat else a
    for name, text in (("answer", answer), ("instead", instead)):
        if text is not None:
            check_text(text, name)
    first, notes = align(in_a, in_b)
    given = [() if text is None else encoder.continuation(before, text) for text in (answer, instead)]
    if all(given):
        shared = common_length(*given)
        if shared == min(map(len, given)):
            raise InputError("the two answers are the same, or one begins the other: give two that differ")
        if shared:
            notes.append(f"{shared} tokens that both answers begin with stand behind both prompts")
            in_a, in_b = (side + given[0][:shared] for side in (in_a, in_b))
            given = [ids[shared:] for ids in given]
    for name, ids in zip(("prompt A", "prompt B", "answer", "instead"), (in_a, in_b, *given), strict=True):
        check_length(model, ids, name)
    for text, ids in zip((answer, instead), given, strict=True):
        if len(ids) > 1:
            notes.append(f"{text!r} has several tokens: {token_text(model, ids[0])!r} counts")
    answers, probabilities = _answers(model, in_a, in_b, *(ids[0] if ids else None for ids in given))
    return Contrast(in_a, in_b, first, answers, probabilities, notes)


def check_text(text: object, name: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{name} {text!r:.40}: give a text that is not empty")
    check_unicode(text, name)


def read_prompt(model: Model, encoder: PromptEncoder, text: str, name: str, *, chat: bool = False) -> Tokens:
    """Its tokens, BOS included; with ``chat`` as a user's message in the model's chat template. :class:`InputError`: it
    is empty, or more than the model reads."""
    check_text(text, name)
    ids = prompt_tokens(encoder, text, chat=chat)
    check_length(model, ids, name)
    return ids


def prompt_tokens(encoder: PromptEncoder, text: str, *, chat: bool) -> Tokens:
    if chat:
        return encoder.encode(in_chat_template(encoder.tokenizer, text))
    return encoder.bos + encoder.encode(text)


def check_length(model: Model, ids: Tokens, name: str) -> None:
    if len(ids) > model.cfg.n_ctx:
        raise InputError(f"{name} has {len(ids)} tokens: the model reads at most {model.cfg.n_ctx}")
    check_tokens(model, ids, name)


def align(a: Tokens, b: Tokens) -> tuple[int, list[str]]:
    """From which position of A on the prompts are aligned: for equal lengths token by token, else by their common end.
    :class:`InputError`: they are the same, or of different lengths and end in different tokens."""
    if a == b:
        raise InputError("both prompts are the same tokens: change the word that you want to ask about")
    begin = common_length(a, b)
    if len(a) == len(b):
        return begin, []
    end = min(common_length(a[::-1], b[::-1]), min(len(a), len(b)) - begin)
    if not end:
        raise InputError(
            f"the prompts have {len(a)} and {len(b)} tokens and no common end: give prompts of equal length, or with "
            "the same last words"
        )
    alone = len(a) - begin - end
    note = f"{alone} tokens of A have no partner in B: what heads do there stays in every arm, no node explains it"
    return len(a) - end, [note] if alone else []


def common_length(a: Sequence, b: Sequence) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _answers(
    model: Model, a: Tokens, b: Tokens, answer: int | None, instead: int | None
) -> tuple[tuple[int, int], dict[str, Any]]:
    """The tokens with the largest terms of KL(A ‖ B) and KL(B ‖ A), where none are given; and their probabilities."""
    sides = [[a, b]] if len(a) == len(b) else [[a], [b]]
    rows = [torch.tensor(side, device=model_device(model)) for side in sides]
    with torch.no_grad():
        log_p = torch.cat([end_logits(model, row) for row in rows]).float().cpu().log_softmax(-1)
    p, ratio = log_p.exp(), log_p[0] - log_p[1]
    if bool(p.isnan().any()):
        raise InputError("the model gives NaN or infinite logits on these prompts: try --dtype float32")
    answer = _largest(p[0] * ratio, instead) if answer is None else answer
    instead = _largest(p[1] * -ratio, answer) if instead is None else instead
    texts = [token_text(model, token) for token in (answer, instead)]
    if answer == instead or not abs(float(ratio[answer] - ratio[instead])) >= LEAST_DIFFERENCE:
        raise InputError(f"{texts[0]!r} against {texts[1]!r} is the same after both prompts: nothing to explain")
    p_answers = p[:, [answer, instead]]
    merged = torch.cat([p_answers, (1 - p_answers.sum(-1, keepdim=True)).clamp_min(1e-9)], 1).log()
    covered = float(kl_divergence(*merged) / kl_divergence(*log_p))
    probabilities: dict[str, Any] = {
        name: {"token": text, "id": token, "a": after_a, "b": after_b}
        for name, text, token, after_a, after_b in zip(
            ("answer", "instead"), texts, (answer, instead), *p_answers.tolist(), strict=True
        )
    }
    return (answer, instead), probabilities | {"uncovered": min(max(1 - covered, 0.0), 1.0)}


def _largest(terms: Float[Tensor, " d_vocab"], other: int | None) -> int:
    terms = terms.nan_to_num(0.0)  # some families' padding never comes
    if other is not None:
        terms[other] = -torch.inf
    return int(terms.argmax())


def token_text(model: Model, token: int) -> str:
    """A token as it stands in a text; a part of a character shows as U+FFFD."""
    return str(model.tokenizer.decode([token], clean_up_tokenization_spaces=False))
