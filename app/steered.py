"""One comparison for the page *Steering*: a prompt continued without and with codes, as two rows of one batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from interp.app import engine
from interp.app.tokens import marked, pieces
from interp.steer_console import program
from interp.steering import AddCode, ForbidCode, FoundCodes, SetCode, find_codes, steer
from interp.steering.continuations import Continuation, continue_prompts, encode_prompts
from interp.text.special import first_token

BASE, STEERED = 0, 1
"""Rows of the batch."""
EVERY = 2
"""New tokens between two looks at what was written so far."""
HOW = ("set", "added", "forbidden")


@dataclass(frozen=True)
class Dose:
    """How codes are edited and how the text is sampled.

    Attributes:
        how: of :data:`HOW`.
        scale: of added codes, of their difference from their book's mean.
        slots: of set codes.
        share: of the positions.
    """

    how: str
    scale: float
    slots: int
    positions: str
    share: float
    n_tokens: int
    temperature: float
    seed: int

    def edits(self, codes: Sequence[tuple[str, int]]) -> list:
        rows = [STEERED]
        if self.how == "set":
            return [SetCode(site, code, self.slots, rows=rows) for site, code in codes]
        if self.how == "added":
            return [AddCode(site, code, self.scale, rows=rows, from_mean=True) for site, code in codes]
        return [ForbidCode(site, code, rows=rows) for site, code in codes]


@dataclass(frozen=True)
class Comparison:
    """
    Attributes:
        texts, strips: base and steered: what was written, and HTML of it with its prompt, steered tokens marked.
        codes: sites and ids as edited.
        n_steered: tokens at which codes were edited.
        program: Python that does it again.
    """

    texts: tuple[Continuation, Continuation]
    strips: tuple[str, str]
    codes: list[tuple[str, int]]
    n_steered: int
    program: str


def compare(
    folder: Path | None,
    books: dict,
    prompt: str,
    codes: Sequence[tuple[str, int]],
    dose: Dose,
    show: Callable[[int, str], None],
) -> Comparison:
    """Continue the prompt twice, holding the lock; ``show`` is told a row's text so far.

    Raises:
        InputError: an unknown site or code, a prompt that is empty or too long, …
    """
    with engine.running() as model:
        ids = encode_prompts(model, [prompt])[0]
        within = steer(
            model,
            books,
            dose.edits(codes),
            positions=dose.positions,
            share=dose.share,
            seed=dose.seed,
        )

        def watch(tokens) -> None:
            if (tokens.shape[1] - len(ids)) % EVERY == 1:
                for row in (BASE, STEERED):
                    new = tokens[row, len(ids) :].tolist()
                    show(row, model.tokenizer.decode(new, skip_special_tokens=True))

        base, steered = continue_prompts(
            model,
            [prompt, prompt],
            dose.n_tokens,
            within=within,
            temperature=dose.temperature,
            seed=dose.seed,
            watch=watch,
        )
        edited = within.chosen(2, len(ids) + len(steered.tokens))[STEERED].tolist()
        if len(steered.tokens) == dose.n_tokens:  # the last one was not read any more
            edited[-1] = False
        # BOS is not what the user wrote: it is shown only if codes were edited there
        begin = int(ids[0] == first_token(model.tokenizer) and not edited[0])
        strips = tuple(
            marked(pieces(model.tokenizer, [*ids, *text.tokens][begin:]), marks[begin:], len(ids) - begin)
            for text, marks in ((base, [False] * (len(ids) + len(base.tokens))), (steered, edited))
        )
    settings = {
        "model": engine.model_name(),
        "codebooks": None if folder is None else str(folder),
        "k": None,
        "codes": list(codes),
        "slots": dose.slots,
        "add": dose.scale if dose.how == "added" else None,
        "forbid": dose.how == "forbidden",
        "prompts": [prompt],
        "tokens": dose.n_tokens,
        "positions": dose.positions,
        "share": dose.share,
        "seed": dose.seed,
        "error_term": True,
        "temperature": dose.temperature,
        "chat": False,
    }
    return Comparison((base, steered), strips, list(codes), sum(edited), program(settings))


def find(
    folder: Path | None, books: dict, positive: tuple[str, ...], negative: tuple[str, ...], by: str, seed: int
) -> FoundCodes:
    """The codes of some texts, holding the lock; looked for once.

    Raises:
        InputError: as :func:`~interp.steering.find_codes`.
    """
    with engine.running() as model:
        return _found(engine.model_name(), folder, positive, negative, by, seed, model, books)


@st.cache_resource(max_entries=16, show_spinner="Reading the texts to find codes")
def _found(
    spec: str,  # noqa: ARG001 - a key of the cache
    folder: Path | None,  # noqa: ARG001 - a key of the cache
    positive: tuple[str, ...],
    negative: tuple[str, ...],
    by: str,
    seed: int,
    _model,
    _books: dict,
) -> FoundCodes:
    return find_codes(_model, _books, positive, negative, by=by, seed=seed)
