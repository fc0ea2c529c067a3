"""What the page *Circuit* reads by running the model: one pair for all heads, codes of some pairs, a code set."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from interp.app import engine
from interp.app.circuit.runs import Kept, Opened, check_shape, model_of
from interp.app.widgets import run_store
from interp.app.widgets.codebook_picker import changed
from interp.circuits.circuit import Component
from interp.circuits.roles import PairView, view_pair
from interp.models import Model
from interp.prompts.pairs import PromptPairs
from interp.report import wording
from interp.runs.discover import WRITES
from interp.runs.folder import pairs_of
from interp.steering.code_effect import CodeEffect, PairCodes, Side, read_pairs, set_code

PAIRS = 16
"""Pairs that codes are read of and set on; fewer where the run has fewer."""
OWN = "own"
"""Instead of a code: each prompt gets the code that its partner has there."""
VIEWS = 256_000_000
"""Bytes of heads on pairs. The patterns of two prompts of 128 tokens are 35 MB for the default model, 134 MB for 32
layers of 32 heads; in half precision weights would differ in the third decimal, which is shown."""


_SIZES: dict[str, tuple] = {
    "views": (24, VIEWS, lambda seen: seen.nbytes),
    "codes": (6,),
    "effects": (64,),
    "answers": (64,),
    "pairs": (16,),
}


@st.cache_resource(show_spinner=False)
def kept(what: str) -> Kept:
    """For all tabs."""
    return Kept(*_SIZES[what])


def n_pairs(found: Opened) -> int:
    return min(PAIRS, found.run.n_pairs)


def pairs(found: Opened) -> PromptPairs:
    """The run's first pairs, made again; needs the model's tokenizer, runs nothing.

    Raises:
        InputError: as :func:`~interp.runs.folder.pairs_of`, or a model that this workbench does not run.
    """
    spec = model_of(found.run)

    def make(_: None) -> PromptPairs:
        model = engine.model(spec)
        check_shape(found.run, model)
        run_store.check_inside(found.folder)
        return pairs_of(found.run, found.folder, model.tokenizer, PAIRS)

    return kept("pairs").get((*found.key, spec), make)


def stored(found: Opened, part: Component, index: int, side: str) -> bool:
    """Whether the run itself holds the head's pattern and what it writes on this prompt."""
    whole = part.writes is not None and found.run.pattern(part.site) is not None
    return index == 0 and side == "clean" and whole


def view(found: Opened, index: int) -> PairView:
    """Every head on one pair; one forward pass of two rows, the first time.

    Raises:
        InputError: as :func:`pairs`.
    """

    def make(given: tuple[Model, PromptPairs]) -> PairView:
        model, some = given
        with st.spinner("Running the model on this pair"):
            return view_pair(model, some[index], some.metric)

    return kept("views").get((*found.key, index), make, lambda: _turn(found))


@contextmanager
def _turn(found: Opened) -> Iterator[tuple[Model, PromptPairs]]:
    """A turn at the run's model, with its first pairs: where these cannot be made nobody waits."""
    some = pairs(found)
    with engine.running(model_of(found.run)) as model:
        yield model, some


def _key(found: Opened, folder: str | Path) -> tuple:
    """A run and codebooks as they are now."""
    return (*found.key, folder, changed(folder))


def codes(found: Opened, folder: str | Path, books: Mapping) -> PairCodes:
    """Metric and codes of the run's first pairs; two forward passes a pair, the first time.

    Raises:
        InputError: as :func:`pairs`.
    """

    def make(given: tuple[Model, PromptPairs]) -> PairCodes:
        model, some = given
        with engine.stage("reading codes", 2 * len(some)) as tell:
            return read_pairs(model, books, some, progress=tell)

    return kept("codes").get(_key(found, folder), make, lambda: _turn(found))


def effect(
    found: Opened,
    folder: str | Path,
    books: Mapping,
    site: str,
    code: int | str,
    role: str | None,
    side: Side,
    *,
    run: bool,
) -> CodeEffect | None:
    """Set a code, or :data:`OWN`, then a random one; two forward passes a pair, the first time.

    Args:
        run: what is not known yet; else that is ``None``.

    Raises:
        InputError: as :func:`~interp.steering.code_effect.set_code`.
    """
    key = (*_key(found, folder), site, code, role, side)
    if not run and key not in kept("effects"):
        return None
    read = codes(found, folder, books)
    other = "corrupt" if side == "clean" else "clean"
    chosen = read.strongest(site, role, other) if code == OWN else code

    def make(model: Model) -> CodeEffect:
        with engine.stage("setting the code", 2 * len(read.pairs)) as tell:
            return set_code(model, books, read, site, chosen, role=role, side=side, progress=tell)

    return kept("effects").get(key, make, lambda: engine.running(model_of(found.run)))


def texts(found: Opened, index: int, side: str) -> tuple[list[str], dict[int, str]]:
    """A prompt's tokens as text, and which role stands at which; from the run itself where it has them.

    Raises:
        InputError: as :func:`pairs`.
    """
    if index < len(found.run.examples):
        example = found.run.examples[index]
        tokens, positions = getattr(example, side), example.positions
    else:
        pair = pairs(found)[index]
        tokenizer = engine.model(model_of(found.run)).tokenizer
        ids = pair.clean_tokens if side == "clean" else pair.corrupt_tokens
        tokens, positions = [tokenizer.decode([i]) for i in ids], pair.positions
    return tokens, wording.roles_at(positions)


def token_texts(found: Opened, ids: Sequence[int]) -> list[str]:
    """Tokens of the run's model as text, white space to be seen."""
    tokenizer = engine.model(model_of(found.run)).tokenizer
    return [wording.token(tokenizer.decode([i]), 18) for i in ids]


def tokens_written(
    found: Opened, seen: PairView, side: str, layer: int, head: int
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """The tokens whose logits a head raises most, and those that it lowers most; nothing is run.

    Raises:
        InputError: it is not known what heads of this model write.
    """
    logits = seen.logits(side, layer, head)
    tokenizer = engine.model(model_of(found.run)).tokenizer
    ends = []
    for largest in (True, False):
        best = logits.topk(min(WRITES, len(logits)), largest=largest)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ends.append([(tokenizer.decode([i]), value) for i, value in pairs])
    return ends[0], ends[1]
