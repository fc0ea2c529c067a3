"""What the page *Circuit* reads by running the model: one pair for all heads, codes of some pairs, a code set."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import streamlit as st

from interp.app import engine
from interp.app.circuit.runs import BY_KEY, Opened, model_of
from interp.app.widgets import run_store
from interp.app.widgets.codebook_picker import changed
from interp.circuits.roles import PairView, view_pair
from interp.errors import InputError
from interp.models import Model
from interp.prompts.pairs import PromptPairs
from interp.report import wording
from interp.runs.discover import WRITES
from interp.runs.folder import pairs_of
from interp.steering.code_effect import CodeEffect, PairCodes, Side, read_pairs, set_code

PAIRS = 16  # pairs that codes are read of and set on; fewer where the run has fewer
OWN = "own"  # instead of a code: each prompt gets the code that its partner has there


class Kept:
    """What forward passes gave, for all tabs; the least recently used goes first.

    Unlike a cached function it tells whether it has something before a turn at the model is asked for.
    """

    def __init__(self, most: int, most_bytes: float = math.inf) -> None:
        """
        Args:
            most: how many are kept.
            most_bytes: of all that have ``nbytes`` together; the last one is kept however large it is.
        """
        self.most, self.most_bytes = most, most_bytes
        self._lock = threading.Lock()
        self._made: OrderedDict[Hashable, Any] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._made

    def get(self, key: Hashable, turn: Callable[[], AbstractContextManager], make: Callable[[Any], Any]) -> Any:
        """What is kept under the key, or what ``make`` makes now of what ``turn`` gives, within it."""
        if (value := self._known(key)) is None:
            with turn() as resource:
                # a tab that was before this one may have asked for the same
                if (value := self._known(key)) is None:
                    value = make(resource)
                    with self._lock:
                        self._made[key] = value
                        self._drop()
        return value

    def _known(self, key: Hashable) -> Any:
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
            return self._made.get(key)

    def _drop(self) -> None:
        sizes = [getattr(value, "nbytes", 0) for value in self._made.values()]
        while len(sizes) > self.most or (len(sizes) > 1 and sum(sizes) > self.most_bytes):
            self._made.popitem(last=False)
            del sizes[0]


# the patterns of two prompts of 128 tokens are 35 MB for the default model, 134 MB for 32 layers of 32 heads; in half
# precision weights would differ in the third decimal, which is shown
_VIEWS = Kept(24, 256e6)
_CODES = Kept(6)
_EFFECTS = Kept(64)


def n_pairs(shown: Opened) -> int:
    return min(PAIRS, shown.run.n_pairs)


def pairs(shown: Opened) -> PromptPairs:
    """The run's first pairs, made again; needs the model's tokenizer, runs nothing."""
    spec = model_of(shown.run)
    model = engine.model(spec)
    run_shape, model_shape = shown.run.shape, (model.cfg.n_layers, model.cfg.n_heads)
    if run_shape != model_shape:
        raise InputError(
            "the run has {} layers of {} heads, its model now {} of {}: ".format(*run_shape, *model_shape)
            + "run the discovery again"
        )
    return _pairs(shown, spec, model.tokenizer)


@st.cache_resource(max_entries=16, show_spinner=False, hash_funcs=BY_KEY)
def _pairs(shown: Opened, spec: str, _tokenizer) -> PromptPairs:  # noqa: ARG001 - a key of the cache
    run_store.check_inside(shown.folder)
    return pairs_of(shown.run, shown.folder, _tokenizer, PAIRS)


@contextmanager
def _turn(shown: Opened) -> Iterator[tuple[Model, PromptPairs]]:
    """A turn at the run's model, with its first pairs: where these cannot be made nobody waits."""
    first = pairs(shown)
    with engine.running(model_of(shown.run)) as model:
        yield model, first


def view(shown: Opened, index: int) -> PairView:
    """Every head on one pair; one forward pass of two rows, the first time."""

    def make(turn: tuple[Model, PromptPairs]) -> PairView:
        model, first = turn
        with st.spinner("Running the model on this pair"):
            return view_pair(model, first[index], first.metric)

    return _VIEWS.get((*shown.key, index), lambda: _turn(shown), make)


def codes(shown: Opened, folder: str | Path, books: Mapping) -> PairCodes:
    """Metric and codes of the run's first pairs; two forward passes a pair, the first time."""

    def make(turn: tuple[Model, PromptPairs]) -> PairCodes:
        model, first = turn
        with engine.stage("reading codes", 2 * len(first)) as tell:
            return read_pairs(model, books, first, progress=tell)

    return _CODES.get((*shown.key, folder, changed(folder)), lambda: _turn(shown), make)


def effect(
    shown: Opened,
    folder: str | Path,
    books: Mapping,
    site: str,
    code: int | str,
    role: str | None,
    side: Side,
    *,
    run: bool,
) -> CodeEffect | None:
    """Set a code, or :data:`OWN`, then a random one; two forward passes a pair, the first time. ``run``: what is not
    known yet; else that is ``None``."""
    key = (*shown.key, folder, changed(folder), site, code, role, side)
    if not run and key not in _EFFECTS:
        return None
    read = codes(shown, folder, books)
    other = "corrupt" if side == "clean" else "clean"
    chosen = read.strongest(site, role, other) if code == OWN else code

    def make(model: Model) -> CodeEffect:
        with engine.stage("setting the code", 2 * len(read.pairs)) as tell:
            return set_code(model, books, read, site, chosen, role=role, side=side, progress=tell)

    return _EFFECTS.get(key, lambda: engine.running(model_of(shown.run)), make)


def texts(shown: Opened, index: int, side: str) -> tuple[list[str], dict[int, str]]:
    """A prompt's tokens as text, and which role stands at which; from the run itself where it has them."""
    if index < len(shown.run.examples):
        example = shown.run.examples[index]
        return getattr(example, side), wording.roles_at(example.positions)
    pair = pairs(shown)[index]
    ids = pair.clean_tokens if side == "clean" else pair.corrupt_tokens
    return _decoded(shown, ids), wording.roles_at(pair.positions)


def token_texts(shown: Opened, ids: Sequence[int]) -> list[str]:
    """Tokens of the run's model as text, white space to be seen."""
    return [wording.token(text, 18) for text in _decoded(shown, ids)]


def _decoded(shown: Opened, ids: Sequence[int]) -> list[str]:
    tokenizer = engine.model(model_of(shown.run)).tokenizer
    return [tokenizer.decode([i]) for i in ids]


def tokens_written(
    shown: Opened, pair_view: PairView, side: str, layer: int, head: int
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """The tokens whose logits a head raises most, and those that it lowers most; nothing is run."""
    logits = pair_view.logits(side, layer, head)

    def most(*, largest: bool) -> list[tuple[str, float]]:
        best = logits.topk(min(WRITES, len(logits)), largest=largest)
        return list(zip(_decoded(shown, best.indices.tolist()), best.values.tolist(), strict=True))

    return most(largest=True), most(largest=False)
