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
"""In logits: a smaller difference between the prompts is rounding, and no node could be told."""


@dataclass(frozen=True)
class Contrast:
    """
    Attributes:
        a, b: token ids, BOS included.
        first: of A's positions, the first from which on the prompts are aligned: token by token for equal lengths, else
            by their common end.
        answer, instead: the token that A makes likelier, and that which B does.
        probabilities: of the two, after A and after B.
        uncovered: share of KL(A ‖ B) that is lost when all other tokens count as one.
        notes: what a reader must know, one sentence each.
    """

    a: tuple[int, ...]
    b: tuple[int, ...]
    first: int
    answer: int = -1
    instead: int = -1
    probabilities: tuple[tuple[float, float], tuple[float, float]] = ((0, 0), (0, 0))
    uncovered: float = 0.0
    notes: tuple[str, ...] = ()


def read_contrast(model: Model, a: str, b: str, answer: str | None, instead: str | None) -> Contrast:
    """Tokens, alignment and answers of two prompts.

    Raises:
        InputError: prompts or answers that are empty, too long, equal, or have no difference to explain.
    """
    encoder = PromptEncoder(model.tokenizer, bos=True)
    sides = _tokens(encoder, "A", a), _tokens(encoder, "B", b)
    contrast = align(*sides)
    given = [None if x is None else _continuation(encoder, a, x) for x in (answer, instead)]
    if given[0] is not None and given[1] is not None:
        contrast, given = _apart(contrast, *given)
    for name, ids in (("A", contrast.a), ("B", contrast.b)):
        if len(ids) > model.cfg.n_ctx:
            raise InputError(
                f"prompt {name} has {len(ids)} tokens: the model reads at most {model.cfg.n_ctx}"
            )
        check_tokens(model, ids, f"prompt {name}")
    for several, name in zip(given, ("--answer", "--instead"), strict=True):
        check_tokens(model, several or (), name)
        if several is not None and len(several) > 1:
            note = f"{name} has {len(several)} tokens: it is measured by {_text(model, several[0])}"
            contrast = replace(contrast, notes=(*contrast.notes, note))
    return _with_answers(model, contrast, *(None if several is None else several[0] for several in given))


def align(a: tuple[int, ...], b: tuple[int, ...]) -> Contrast:
    """Where the prompts are aligned.

    Raises:
        InputError: they are the same, or of different lengths and end in different tokens.
    """
    if a == b:
        raise InputError("both prompts are the same tokens: change the word that you want to ask about")
    begin = _equal(a, b)
    if len(a) == len(b):
        return Contrast(a, b, min(begin, len(a) - 1))
    end = min(_equal(a[::-1], b[::-1]), min(len(a), len(b)) - begin)
    if not end:
        raise InputError(
            f"the prompts have {len(a)} and {len(b)} tokens and no common end, so no token of one belongs to one of the "
            "other: give prompts of equal length, or with the same last words"
        )
    middle = len(a) - begin - end
    notes = (
        f"the prompts have {len(a)} and {len(b)} tokens: what heads do at the {middle} tokens of A without a partner in B "
        "stays in every arm, and is explained by no node",
    )
    return Contrast(a, b, len(a) - end, notes=notes if middle else ())


def _equal(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _tokens(encoder: PromptEncoder, name: str, text: Any) -> tuple[int, ...]:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"prompt {name} {text!r:.40}: give a text that is not empty")
    check_unicode(text, f"prompt {name}")
    return encoder.bos + encoder.encode(text)


def _continuation(encoder: PromptEncoder, prompt: str, answer: Any) -> tuple[int, ...]:
    if not isinstance(answer, str) or not answer:
        raise InputError(f"answer {answer!r:.40}: give a text, mostly with its space in front")
    check_unicode(answer, "answer")
    tokens = encoder.continuation(prompt, answer)
    if not tokens:
        raise InputError(f"answer {answer!r:.40} has no token of its own behind the prompt")
    return tokens


def _apart(
    contrast: Contrast, answer: tuple[int, ...], instead: tuple[int, ...]
) -> tuple[Contrast, list[tuple[int, ...] | None]]:
    """Both answers from their first different token on; what they share before it is put behind both prompts."""
    shared = _equal(answer, instead)
    if shared == min(len(answer), len(instead)):
        same = "are the same" if answer == instead else "differ only in that one goes on"
        raise InputError(f"the two answers {same}: give answers that differ in a token")
    if shared:
        note = f"the answers begin with the same {shared} tokens, which stand behind both prompts"
        contrast = replace(
            contrast,
            a=contrast.a + answer[:shared],
            b=contrast.b + answer[:shared],
            notes=(*contrast.notes, note),
        )
    return contrast, [answer[shared:], instead[shared:]]


def _with_answers(model: Model, contrast: Contrast, answer: int | None, instead: int | None) -> Contrast:
    logits = torch.stack([patched_logits(model, side, []) for side in (contrast.a, contrast.b)])
    if not bool(torch.isfinite(logits.amax(-1)).all()):
        raise InputError("the model gives NaN or infinite logits on these prompts: try --dtype float32")
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    if answer is None:
        answer = _largest(p[0], log_p[0] - log_p[1], instead)
    if instead is None:
        instead = _largest(p[1], log_p[1] - log_p[0], answer)
    difference = (log_p[0] - log_p[1])[answer] - (log_p[0] - log_p[1])[instead]
    two = [answer, instead]
    if answer == instead or abs(float(difference)) < LEAST_DIFFERENCE:
        raise InputError(
            f"{_text(model, answer)} against {_text(model, instead)} is the same after both prompts, within "
            f"{LEAST_DIFFERENCE} logits: there is no difference to explain"
        )
    few = torch.cat([p[:, two], (1 - p[:, two].sum(-1, keepdim=True)).clamp_min(1e-9)], 1).log()
    covered = float(kl_divergence(few[0], few[1]) / kl_divergence(log_p[0], log_p[1]))
    (a, b), (other_a, other_b) = p[:, two].T.tolist()
    probabilities = (a, b), (other_a, other_b)
    return replace(
        contrast,
        answer=answer,
        instead=instead,
        probabilities=probabilities,
        uncovered=min(max(1 - covered, 0.0), 1.0),
    )


def _largest(p: Float[Tensor, " d_vocab"], ratio: Float[Tensor, " d_vocab"], other: int | None) -> int:
    """The token with the largest term of KL."""
    terms = torch.where(p > 0, p * ratio, 0)  # some families' padding has probability 0
    if other is not None:
        terms[other] = -torch.inf
    return int(terms.argmax())


def _text(model: Model, token: int) -> str:
    return repr(token_text(model, token))


def token_text(model: Model, token: int) -> str:
    """A token as it stands in a text; a part of a character shows as U+FFFD."""
    return str(model.tokenizer.decode([token], clean_up_tokenization_spaces=False))
