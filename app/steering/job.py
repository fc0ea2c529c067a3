"""One comparison for the page *Steering*: a prompt continued without and with codes, as rows of one batch."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Float

from interp.app import engine
from interp.app.widgets import run_store
from interp.app.widgets.tokens import pieces
from interp.bottlenecks.attach import attach
from interp.bottlenecks.store import Codebooks
from interp.errors import InputError
from interp.models import Model
from interp.steering import CodeSet, SteeringRequest, find_codes
from interp.steering.cache import keep, recall, request_key
from interp.steering.continuations import Continuation, continue_prompts, encode_prompts, step_divergences
from interp.steering.request import BASE, RANDOM, STEERED
from interp.text.special import ends, first_token, until_end

NAMES = {BASE: "Base", STEERED: "Steered", RANDOM: "Random codes"}
"""What the conditions are called here."""
MOST_PROMPT = 1000
"""Tokens: of more, what is drawn at each step takes longer than the model does."""
SEED = 0
"""Of which texts choose codes that are found, and which judge them."""
EVERY = 2
"""New tokens between two looks at what was written so far."""


@dataclass(frozen=True)
class Written:
    """One of the texts.

    Attributes:
        pieces: the prompt's and the new tokens as text; BOS is among them only if codes were edited there.
        n_prompt: how many of them are the prompt.
        marks: at which of them codes were edited as the model read them.
        divergence: KL(steered ‖ plain) at the step of each new token, nats; None without edits.
    """

    name: str
    text: Continuation
    pieces: list[str]
    n_prompt: int
    marks: list[bool]
    divergence: Float[np.ndarray, " token"] | None


Show = Callable[[int, list[str], list[bool], int], None]
"""Is told a text's number, pieces of it, which of them codes were edited at, and how many are of the prompt."""


def compare(books: Codebooks, request: SteeringRequest, show: Show) -> tuple[Written, ...]:
    """Write the text of each condition, taking a turn at the model; ``show`` is told of each as far as it is written.

    Args:
        request: of one prompt.

    Raises:
        InputError: an unknown site or code, a prompt that is empty or too long, …
    """
    # a mistake should not wait for its turn
    model = engine.model()
    ids = _prompt_ids(model, request)
    conditions = request.conditions(model, books)
    names = [NAMES[name] for name in conditions]
    edits = [edit for row, codes in enumerate(conditions.values()) for edit in request.edits(codes, [row])]
    where = {"positions": request.positions, "fraction": request.fraction, "seed": request.seed}
    where["when"] = request.when
    within = attach(model, books, read=False).edit(*edits, **where)
    with engine.running():

        def watch(tokens) -> None:
            if (tokens.shape[1] - len(ids)) % EVERY == 1:
                marks = within.edited_positions(*tokens.shape).tolist()
                for row, name in enumerate(names):
                    so_far = until_end(tokens[row, len(ids) :].tolist(), ends(model))
                    edited = _edited(name, marks[row], len(ids) + len(so_far), ended=False)
                    show(row, *_runs(model.tokenizer, ids, so_far, edited))

        texts = continue_prompts(
            model,
            list(request.prompts) * len(names),
            request.n_tokens,
            within=within,
            temperature=request.temperature,
            seed=request.seed,
            chat=request.chat,
            watch=watch,
        )
        divergences = step_divergences(model, books, edits, ids, [text.tokens for text in texts], **where)
        longest = len(ids) + max(len(text.tokens) for text in texts)
        chosen = within.edited_positions(len(names), longest).tolist()
        return tuple(
            _written(model.tokenizer, ids, name, text, marks, found, request.n_tokens)
            for (name, text, marks, found) in zip(names, texts, chosen, divergences, strict=True)
        )


def _prompt_ids(model: Model, request: SteeringRequest) -> list[int]:
    if not request.prompts[0].strip():
        raise InputError("no prompt: write the beginning of a text")
    ids = encode_prompts(model, request.prompts, chat=request.chat)[0]
    if len(ids) > MOST_PROMPT:
        raise InputError(
            f"a prompt of {len(ids)} tokens: this page takes {MOST_PROMPT}, interp steer as many as the model reads"
        )
    if len(ids) + request.n_tokens > model.cfg.n_ctx:
        raise InputError(
            f"{len(ids)} tokens of prompt and {request.n_tokens} new ones: the model reads {model.cfg.n_ctx}"
        )
    return ids


def _edited(name: str, marks: list[bool], n: int, *, ended: bool) -> list[bool]:
    """Of n tokens, those at which codes were edited: not of the base, nor the last one if it was not read any more."""
    return [name != NAMES[BASE] and mark for mark in marks[: n if ended else n - 1]] + [False] * (not ended)


def _runs(
    tokenizer, prompt: list[int], new: list[int], edited: list[bool]
) -> tuple[list[str], list[bool], int]:
    """The text in runs of tokens that are marked alike, which are fewer to decode than tokens."""
    found, marks, n_prompt = [], [], 0
    for begin, part in ((0, prompt), (len(prompt), new)):
        for mark, run in groupby(range(len(part)), lambda i, begin=begin: edited[begin + i]):
            found.append(tokenizer.decode([part[i] for i in run], skip_special_tokens=True))
            marks.append(mark)
            n_prompt += not begin
    return found, marks, n_prompt


def _written(
    tokenizer,
    prompt: list[int],
    name: str,
    text: Continuation,
    marks: list[bool],
    divergence: Float[np.ndarray, " token"],
    n_tokens: int,
) -> Written:
    whole = [*prompt, *text.tokens]
    marks = _edited(name, marks, len(whole), ended=len(text.tokens) < n_tokens)
    # BOS is not what the user wrote: it is shown only if codes were edited there
    begin = int(prompt[0] == first_token(tokenizer) and not marks[0])
    return Written(
        name,
        text,
        pieces(tokenizer, whole[begin:]),
        len(prompt) - begin,
        marks[begin:],
        None if name == NAMES[BASE] else divergence,
    )


def find(
    books: Codebooks, made_with: str, positive: tuple[str, ...], negative: tuple[str, ...], by: str
) -> CodeSet:
    """The codes of some texts: looked up, or looked for once, taking a turn at the model.

    The seed is always that of what comes with the package: another one for the texts that are written should neither
    cost a search nor steer by other codes.

    Args:
        made_with: the identity of model and codebooks.

    Raises:
        InputError: as :func:`~interp.steering.find`; what was kept is a link to another place.
    """
    folder = engine.runs() / ".found"
    run_store.check_inside(folder)
    key = request_key(made_with, positive, negative, by, SEED)
    if (known := recall(folder, key)) is not None:
        return known
    with engine.running() as model:
        found = find_codes(model, books, positive, negative, by=by, seed=SEED, stage=engine.stage)
    with contextlib.suppress(OSError):  # a folder that cannot be written to costs only the time
        keep(folder, key, found)
    return found
