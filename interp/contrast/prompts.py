"""Two prompts as a question: their tokens, how they are aligned, and the two answers that are told apart."""

from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.metric import kl_divergence
from interp.errors import InputError
from interp.interventions.patch import patched_logits
from interp.models import Model
from interp.models.vocabulary import check_tokens
from interp.prompts.encoding import PromptEncoder
from interp.text.special import check_unicode

LEAST_DIFFERENCE = 1e-2
"""In logits: a smaller one is rounding."""


@dataclass(frozen=True)
class Contrast:
    """
    Attributes:
        a, b: token ids, BOS included.
        first: of A's positions, the first from which on the prompts are aligned: token by token for equal lengths, else
            by their common end.
        answer, instead: the token that A makes likelier, and that which B does.
        probabilities: of the two [side, answer].
        uncovered: share of KL(A ‖ B) that is lost when all other tokens count as one.
        notes: what a reader must know, one sentence each.
    """

    a: tuple[int, ...]
    b: tuple[int, ...]
    first: int
    answer: int = -1
    instead: int = -1
    probabilities: tuple[tuple[float, ...], ...] = ()
    uncovered: float = 0.0
    notes: tuple[str, ...] = ()

    def answers(self, model: Model) -> dict[str, Any]:
        """As JSON: both tokens with their probabilities, and what they do not cover."""
        told = {"answer": self.answer, "instead": self.instead}
        return {
            name: {"token": token_text(model, token), "id": token, "a": p_a, "b": p_b}
            for (name, token), p_a, p_b in zip(told.items(), *self.probabilities, strict=True)
        } | {"uncovered": self.uncovered}


def read_contrast(model: Model, a: str, b: str, answer: str | None, instead: str | None) -> Contrast:
    """Tokens, alignment and answers of two prompts.

    Raises:
        InputError: prompts or answers that are empty, too long, the same, or without a difference to explain.
    """
    encoder = PromptEncoder(model.tokenizer, bos=True)
    for name, text in (("prompt A", a), ("prompt B", b), ("answer", answer), ("instead", instead)):
        if text is None and "prompt" not in name:
            continue
        if not isinstance(text, str) or not (text.strip() or ("prompt" not in name and text)):
            raise InputError(f"{name} {text!r:.40}: give a text that is not empty")
        check_unicode(text, name)
    contrast = align(encoder.bos + encoder.encode(a), encoder.bos + encoder.encode(b))
    given = [None if text is None else encoder.continuation(a, text) for text in (answer, instead)]
    contrast, given = _apart(contrast, given)
    for name, ids in {
        "prompt A": contrast.a,
        "prompt B": contrast.b,
        "an answer": sum(filter(None, given), ()),
    }.items():
        if len(ids) > model.cfg.n_ctx:
            raise InputError(f"{name} has {len(ids)} tokens: the model reads at most {model.cfg.n_ctx}")
        check_tokens(model, ids, name)
    notes = [
        f"{text!r} has {len(ids)} tokens, {token_text(model, ids[0])!r} counts"
        for text, ids in zip((answer, instead), given, strict=True)
        if ids and len(ids) > 1
    ]
    contrast = replace(contrast, notes=(*contrast.notes, *notes))
    return _with_answers(model, contrast, *(ids[0] if ids else None for ids in given))


def align(a: tuple[int, ...], b: tuple[int, ...]) -> Contrast:
    """Where the prompts are aligned.

    Raises:
        InputError: they are the same, or of different lengths and end in different tokens.
    """
    if a == b:
        raise InputError("both prompts are the same tokens: change the word that you want to ask about")
    begin = _equal(a, b)
    if len(a) == len(b):
        return Contrast(a, b, begin)
    end = min(_equal(a[::-1], b[::-1]), min(len(a), len(b)) - begin)
    if not end:
        raise InputError(
            f"the prompts have {len(a)} and {len(b)} tokens and no common end: give prompts of equal length in tokens, "
            "or with the same last words"
        )
    middle = len(a) - begin - end
    note = f"{middle} tokens of A have no partner in B: what heads do there stays in every arm, and no node explains it"
    return Contrast(a, b, len(a) - end, notes=(note,) if middle else ())


def _equal(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens are the same from the beginning on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _apart(
    contrast: Contrast, given: list[tuple[int, ...] | None]
) -> tuple[Contrast, list[tuple[int, ...] | None]]:
    """Answers from their first different token on; what they share before it is put behind both prompts."""
    answer, instead = given
    if answer is None or instead is None:
        return contrast, given
    shared = _equal(answer, instead)
    if shared == min(len(answer), len(instead)):
        raise InputError(
            "the two answers are the same, or one begins the other: give answers that differ in a token"
        )
    if shared:
        note = f"the answers begin with the same {shared} tokens, which stand behind both prompts"
        a, b = contrast.a + answer[:shared], contrast.b + answer[:shared]
        contrast = replace(contrast, a=a, b=b, notes=(*contrast.notes, note))
    return contrast, [answer[shared:], instead[shared:]]


def _with_answers(model: Model, contrast: Contrast, answer: int | None, instead: int | None) -> Contrast:
    logits = torch.stack([patched_logits(model, side, []) for side in (contrast.a, contrast.b)])
    if not bool(torch.isfinite(logits.amax(-1)).all()):
        raise InputError("the model gives NaN or infinite logits on these prompts: try --dtype float32")
    log_p = logits.log_softmax(-1)
    p, ratio = log_p.exp(), log_p[0] - log_p[1]
    answer = _largest(p[0] * ratio, instead) if answer is None else answer
    instead = _largest(p[1] * -ratio, answer) if instead is None else instead
    if answer == instead or abs(float(ratio[answer] - ratio[instead])) < LEAST_DIFFERENCE:
        raise InputError(
            f"{token_text(model, answer)!r} against {token_text(model, instead)!r} is the same after both prompts: there "
            "is no difference to explain"
        )
    two = p[:, [answer, instead]]
    few = torch.cat([two, (1 - two.sum(-1, keepdim=True)).clamp_min(1e-9)], 1).log()
    covered = float(kl_divergence(few[0], few[1]) / kl_divergence(log_p[0], log_p[1]))
    return replace(
        contrast,
        answer=answer,
        instead=instead,
        probabilities=tuple(map(tuple, two.tolist())),
        uncovered=min(max(1 - covered, 0.0), 1.0),
    )


def _largest(terms: Float[Tensor, " d_vocab"], other: int | None) -> int:
    """The token with the largest term of KL, but not the other answer."""
    terms = terms.nan_to_num(0.0)  # some families' padding never comes
    if other is not None:
        terms[other] = -torch.inf
    return int(terms.argmax())


def token_text(model: Model, token: int) -> str:
    """A token as it stands in a text; a part of a character shows as U+FFFD."""
    return str(model.tokenizer.decode([token], clean_up_tokenization_spaces=False))
