"""Prompts continued by sampling, how likely the plain model finds the texts, and how far steering moved each step.

Both are read off the whole text once it is written (teacher forcing), so that every step is compared after the same
words, at temperature 1, whatever the text was sampled at.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.metric import kl_divergence
from interp.bottlenecks.attach import attach
from interp.bottlenecks.base import Bottleneck
from interp.bottlenecks.edits import CodeEdit, EditScope, Positions
from interp.errors import InputError
from interp.models import Model, model_device
from interp.models.generate import generate, pad_left
from interp.models.hooks import as_it_is
from interp.models.limits import check_texts
from interp.text.special import ends, in_chat_template, opened, token_ids, until_end

BATCH_SIZE = 32  # texts per forward pass when they are judged
LOGITS = 2**27  # at most so many logits are made at a time, 0.5 GiB of them in float32
WITHIN = "leave that context before, or give it as within"  # what to do about a context that is open already


@torch.no_grad()
def step_divergences(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    edits: Sequence[CodeEdit],
    prompt: Sequence[int],
    new: Sequence[Sequence[int]],
    *,
    positions: Positions = "generated",
    fraction: float | int = 1.0,
    seed: int = 0,
    when: str | None = None,
    error_term: bool = True,
) -> list[Float[np.ndarray, " token"]]:
    """KL(steered ‖ plain) in nats at the step that made each new token; one list for each text.

    Two forward passes over all texts. The arguments are those of :func:`~interp.steering.steer`, for which the texts
    are the rows of one batch: rows that no edit names come out as 0, but for ``error_term=False``, where all rows pass
    through the codebooks.

    Args:
        prompt: token ids that every text begins with.
        new: of each text, the token ids that were added.
    """
    if not any(new):
        return [np.zeros(0) for _ in new]
    tokens = _padded(model, [[*prompt, *row] for row in new])[:, :-1]  # the last makes no new one
    columns = EditScope(positions).columns(len(prompt))
    begin = len(prompt) - 1
    attached = attach(model, codebooks, error_term=error_term, read=False)
    with attached.edit(*edits, positions=columns, fraction=fraction, seed=seed, when=when):
        steered = model(tokens)[:, begin:]
    divergences = []
    # a text at a time: vocabularies are large
    for *logit_pair, row in zip(steered, model(tokens)[:, begin:], new, strict=True):
        kl = kl_divergence(*(logits.float().log_softmax(-1) for logits in logit_pair))
        divergences.append(kl[: len(row)].cpu().numpy().astype(np.float64))
    return divergences


@dataclass(frozen=True)
class Continuation:
    prompt: str
    text: str  # what was added to the prompt
    tokens: tuple[int, ...]  # ids of the same, up to the end token and without it
    surprise: Float[np.ndarray, " token"]  # −log p of each new token under the model without steering, in nats

    @property
    def perplexity(self) -> float | None:
        """Under the model without steering; None for a text that ended at once."""
        return float(np.exp(self.surprise.mean())) if len(self.surprise) else None


def encode_prompts(model: Model, prompts: Sequence[str], *, chat: bool = False) -> list[list[int]]:
    """Token ids, BOS included; with ``chat`` as a user's message in the model's chat template."""
    if not prompts:
        raise InputError("no prompts")
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError("this model has no tokenizer: it cannot read text")
    rows = [
        token_ids(tokenizer, in_chat_template(tokenizer, prompt)) if chat else opened(tokenizer, prompt)
        for prompt in prompts
    ]
    if [] in rows:
        raise InputError(f"prompt {prompts[rows.index([])]!r} is empty")
    check_texts(model, prompts, rows)
    return rows


def continue_prompts(
    model: Model,
    prompts: Sequence[str],
    n_tokens: int,
    *,
    within: contextlib.AbstractContextManager | None = None,
    temperature: float | int = 0.7,
    seed: int = 0,
    chat: bool = False,
    watch: Callable[[Tensor], None] | None = None,
) -> list[Continuation]:
    """Sample one continuation a prompt, all in one batch, inside a context such as ``attach(…)``.

    The context is left before the texts are judged; nothing else may be attached to the model. ``watch`` is as of
    :func:`~interp.models.generate.generate`; prompts are padded on the left.
    """
    if isinstance(prompts, str):
        raise InputError(f"prompts {prompts[:40]!r}: give a list of texts, [prompt] for one")
    with as_it_is(model, "perplexity", WITHIN):
        pass  # told before the texts are written, which takes longer
    ids = encode_prompts(model, prompts, chat=chat)
    longest = max(map(len, ids))
    if longest + n_tokens > model.cfg.n_ctx:
        raise InputError(f"{longest} tokens of prompt and {n_tokens} new ones: the model reads {model.cfg.n_ctx}")
    tokens, mask = pad_left(ids, model_device(model))
    with within or contextlib.nullcontext():
        out = generate(model, tokens, n_tokens, attention_mask=mask, seed=seed, temperature=temperature, watch=watch)
    new = [until_end(row[longest:].tolist(), ends(model)) for row in out]
    texts = model.tokenizer.batch_decode(new, skip_special_tokens=True)
    rows = zip(prompts, texts, map(tuple, new), surprise(model, ids, new), strict=True)
    return [Continuation(*row) for row in rows]


@torch.no_grad()
def surprise(model: Model, prompts: Sequence[Sequence[int]], new: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """−log p of each new token after its prompt, in nats, by the model as it is: nothing may be attached to it."""
    rows = [[*prompt, *added] for prompt, added in zip(prompts, new, strict=True)]
    losses: list[np.ndarray] = []
    at_once = min(BATCH_SIZE, max(1, LOGITS // (max(map(len, rows)) * model.cfg.d_vocab)))
    for begin in range(0, len(rows), at_once):
        tokens = _padded(model, rows[begin : begin + at_once])
        with as_it_is(model, "perplexity", WITHIN):
            logits = model(tokens)[:, :-1]
        chosen = logits.gather(-1, tokens[:, 1:, None])[..., 0].float()
        losses.extend((logits.float().logsumexp(-1) - chosen).cpu().double().numpy())
    return [nll[len(prompt) - 1 : len(row) - 1] for nll, prompt, row in zip(losses, prompts, rows, strict=True)]


def _padded(model: Model, rows: Sequence[Sequence[int]]) -> Int[Tensor, "row pos"]:
    """Padded on the right, which is seen by no earlier position."""
    longest = max(map(len, rows))
    padded = [[*row, *[row[-1]] * (longest - len(row))] for row in rows]
    return torch.tensor(padded, device=model_device(model))
