"""One prompt, and no other to compare it with: prompts B are proposed, each with one word of A exchanged.

A name becomes another of the prompt, of the list of names that the tasks have, or one that the model finds likely
there; a number one of as many digits; a content word one that the model finds likely. Only what leaves the number of
tokens as it is is proposed, and of each word the exchange that changes the next token most.
"""

import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from interp.activations.metric import kl_divergence
from interp.activations.stream import end_logits
from interp.contrast.prompts import Tokens, prompt_tokens, read_prompt, token_text
from interp.models import Model, model_device
from interp.models.limits import check_tokens
from interp.prompts.encoding import PromptEncoder
from interp.prompts.sampling import read_data
from interp.text.special import in_chat_template

WORD = re.compile(r"[^\W\d_]+|\d+")
SHORTEST = 3  # letters of a word that is exchanged
LIKELY, OF_EACH, MOST = 50, 4, 128
"""So many tokens are asked for what else could stand there, so many are tried of each kind; and prompts in all."""


@dataclass(frozen=True)
class Proposal:
    prompt: str  # B
    # was, becomes: the word of A, and what stands there in B
    was: str
    becomes: str
    p: float  # the probability of A's likeliest token after B
    top: str  # the likeliest token after B
    kl: float  # KL(A ‖ B) of the next token, in nats


@dataclass(frozen=True)
class Proposals:
    """Of prompt ``a``: ``top``, the likeliest next token, and ``p`` its probability."""

    a: str
    top: str
    p: float
    proposals: list[Proposal]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        first = f"A {self.a!r:.90} → {self.top!r} {self.p:z.0%}"
        if not self.proposals:
            return f"{first}\nno word of it has an exchange of as many tokens: write B yourself"
        lines = [first, "", f"{'exchange':<32}{f'p({self.top!r})':>14}{'then':>14}{'KL':>8}"]
        for proposal in self.proposals:
            change = f"{proposal.was!r} → {proposal.becomes!r}"
            lines.append(f"  {change:<30}{proposal.p:>z14.0%}{proposal.top!r:>14.14}{proposal.kl:>8.2f}")
        return "\n".join(lines)


@torch.no_grad()
def propose(model: Model, a: str, *, chat: bool = False, most: int = 8) -> Proposals:
    """Prompts to compare ``a`` with, the largest change of the next token first. :class:`InputError`: the prompt is
    empty or too long."""
    encoder = PromptEncoder(model.tokenizer, bos=True)
    ids = read_prompt(model, encoder, a, "prompt A", chat=chat)
    others = exchanges(model, encoder, a, ids, chat=chat)
    rows = torch.tensor([ids, *(tokens for _, _, _, tokens in others)], device=model_device(model))
    log_p = torch.cat([end_logits(model, part).float().log_softmax(-1) for part in rows.split(32)])
    kl = kl_divergence(log_p[0].expand_as(log_p[1:]), log_p[1:]).nan_to_num(0.0).tolist()
    top, tops = int(log_p[0].argmax()), log_p.argmax(-1).tolist()
    p = log_p[:, top].exp().tolist()
    best: dict[int, Proposal] = {}
    for row in sorted(range(len(others)), key=lambda row: -kl[row]):
        place, becomes, prompt, _ = others[row]
        was = WORD.match(a, place)
        assert was is not None
        then = token_text(model, tops[row + 1])
        best.setdefault(place, Proposal(prompt, was.group(), becomes, p[row + 1], then, kl[row]))
    return Proposals(a, token_text(model, top), p[0], list(best.values())[:most])


def exchanges(
    model: Model, encoder: PromptEncoder, a: str, ids: Tokens, *, chat: bool
) -> list[tuple[int, str, str, Tokens]]:
    """Where a word begins, what it becomes, and the prompt in text and in tokens."""
    words, names = list(WORD.finditer(a)), read_data("ioi")["names"]
    likely = likely_words(model, encoder, a, ids, chat=chat)
    rng, made = np.random.default_rng(0), list[tuple[int, str, str, Tokens]]()
    for word in words:
        text = word.group()
        if text.isdigit():
            low = 10 ** (len(text) - 1) if len(text) > 1 else 0
            candidates = [str(low + int(x)) for x in rng.integers(0, 10 ** len(text) - low, 4 * OF_EACH)]
        elif text[0].isupper() and (word.start() or text in names):
            of_prompt = [other.group() for other in words if other.group()[0].isupper() and other.start()]
            listed = rng.permutation(names).tolist()[:OF_EACH] if text in names else []
            candidates = [*of_prompt, *listed, *likely.get(word.start(), [])]
        elif is_content(text):
            number = text[:-1] if text.endswith("s") else f"{text}s"
            candidates = [number, *likely.get(word.start(), [])]
        else:
            continue
        n_before = len(made)
        for other in dict.fromkeys(candidates):
            prompt = a[: word.start()] + other + a[word.end() :]
            tokens = prompt_tokens(encoder, prompt, chat=chat)
            fits = other != text and len(tokens) == len(ids) and tokens != ids
            if fits and len(made) - n_before < OF_EACH:
                check_tokens(model, tokens, "a proposed prompt")
                made.append((word.start(), other, prompt, tokens))
    if len(made) > MOST:
        made = [made[i] for i in sorted(rng.permutation(len(made))[:MOST].tolist())]
    return made


def exchanged_word(a: str, b: str) -> tuple[re.Match[str], str] | None:
    """The word of A that is another one in B, and that one, if the prompts differ in one word alone."""
    words_a, words_b = list(WORD.finditer(a)), list(WORD.finditer(b))
    words = zip(words_a, words_b, strict=False)
    differ = [(word, other.group()) for word, other in words if word.group() != other.group()]
    return differ[0] if len(words_a) == len(words_b) and len(differ) == 1 else None


def is_content(word: str) -> bool:
    """Whether it is a word of some length and no function word."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return len(word) >= SHORTEST and word.isalpha() and word.lower() not in ENGLISH_STOP_WORDS


@torch.no_grad()
def likely_words(
    model: Model, encoder: PromptEncoder, a: str, ids: Tokens, *, chat: bool = False
) -> dict[int, list[str]]:
    """By where a word begins: content words in the same case that the model finds likely there, the likeliest first."""
    row = torch.tensor([ids], device=model_device(model))
    top = model(row)[0].float().nan_to_num(-torch.inf).topk(min(LIKELY, model.cfg.d_vocab)).indices.tolist()
    likely: dict[int, list[str]] = {}
    front = in_chat_template(model.tokenizer, a).partition(a)[0] if chat else ""
    for word in WORD.finditer(a):
        before = (() if chat else encoder.bos) + encoder.encode((front + a[: word.start()]).rstrip(" "))
        if not before or before != ids[: len(before)] or len(before) == len(ids):
            continue
        spaced = a[word.start() - 1 : word.start()] == " "
        texts = [token_text(model, token) for token in top[len(before) - 1]]
        words = [text.strip() for text in texts if text.startswith(" ") == spaced]
        likely[word.start()] = [
            text
            for text in words
            if is_content(text) and text != word.group() and text[0].isupper() == word.group()[0].isupper()
        ]
    return likely
