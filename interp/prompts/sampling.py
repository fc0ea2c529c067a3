"""What every shipped task shares when it samples: checked arguments, seeded streams, distinct draws, word lists; and
pairs of a task that are none of those already used."""

import json
import random
import re
import sys
import traceback
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, TypeVar

from interp import MOST_PAIRS
from interp.errors import InputError, TooFewPairs, one_line
from interp.prompts.encoding import Piece, PromptEncoder
from interp.prompts.pairs import Metric, PromptPair, PromptPairs, Task, Value

TRIES = 1000  # draws without a new prompt after which a task counts as used up


Drawn = TypeVar("Drawn", bound=Hashable)
Card = TypeVar("Card")


def check_request(task: Task, n: int, counterfactual: str | None) -> str:
    """Return the counterfactual kind to use (the task's default for ``None``)."""
    if not 1 <= n <= MOST_PAIRS:
        raise InputError(f"n is {n!r}: ask the task {task.name} for 1 to {MOST_PAIRS} pairs")
    check_counterfactual(task, counterfactual)
    return task.counterfactuals[0] if counterfactual is None else counterfactual


def check_counterfactual(task: Task, counterfactual: str | None) -> None:
    """Refuse a kind of corrupt prompt that the task does not have."""
    if counterfactual is not None and counterfactual not in task.counterfactuals:
        raise InputError(
            f"the task {task.name} has no counterfactual {counterfactual!r}: "
            f"choose one of {', '.join(task.counterfactuals)}"
        )


def sample_pairs(
    task: Task,
    tokenizer: Any,
    n: int | None,
    usual: int,
    seed: int = 0,
    counterfactual: str | None = None,
    *,
    bos: bool = True,
) -> PromptPairs:
    """``n`` pairs; where no number is asked for ``usual``, or as many as the task has with this tokenizer. Raises
    :class:`InputError` for fewer than were asked for, for none, and where the sample of a task of one's own fails."""

    def sample(asked: int) -> PromptPairs:
        try:
            pairs = task.sample(tokenizer, asked, seed, counterfactual, bos=bos)
        except (InputError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            if type(task).__module__.startswith("interp.tasks."):
                raise  # a mistake of ours, which nobody can mend by what one line says
            raise InputError(f"task {task.name!r}: {_failure(task, error)}") from error
        if not isinstance(pairs, PromptPairs):
            raise InputError(f"task {task.name!r}: sample must return PromptPairs, not {type(pairs).__name__}")
        if not pairs:
            raise InputError(f"task {task.name!r}: sample gave no pairs where {asked} were asked for")
        return pairs

    return as_many_as_there_are(sample, usual) if n is None else sample(n)


def _failure(task: Task, error: BaseException) -> str:
    """What a user's own sample failed by, and in which line of the user's file."""
    path = getattr(sys.modules.get(type(task).__module__), "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    line = f" in line {lines[-1]} of {path}" if lines else ""
    return f"sample failed{line}: {type(error).__name__}: {one_line(error)}"


def as_many_as_there_are(sample: Callable[[int], PromptPairs], most: int, *, least: int = 0) -> PromptPairs:
    """The largest sample of at most ``most`` pairs; there are known to be ``least``."""
    try:
        return sample(most)
    except TooFewPairs:
        if most == 1:
            raise
    most -= 1
    while least < most:
        middle = (least + most + 1) // 2
        try:
            sample(middle)
            least = middle
        except TooFewPairs:
            most = middle - 1
    return sample(max(least, 1))


def seeded(*parts: object) -> random.Random:
    """A random stream that depends on nothing but ``parts``. Clean and corrupt prompts draw from different streams, so
    that the clean prompts of a seed stay the same whichever counterfactual is asked for, and the first 50 of 100 pairs
    are the 50 pairs of the same seed."""
    return random.Random("/".join(map(str, parts)))


def distinct(
    task: str, n: int, stream: random.Random, cards: Sequence[Card], draw: Callable[[Card], Drawn]
) -> Iterator[Drawn]:
    """``n`` different draws, each by the next card; raises :class:`TooFewPairs` once a thousand draws brought nothing
    new. Cards come in random order, then all of them again in another, and so on: equally often in any sample."""
    deck: list[Card] = []
    seen: set[Drawn] = set()
    for _ in range(n):
        if not deck:
            deck = list(cards)
            stream.shuffle(deck)
        card = deck.pop()
        new = next((drawn for drawn in (draw(card) for _ in range(TRIES)) if drawn not in seen), None)
        if new is None:
            raise TooFewPairs(
                f"the task {task} has no more distinct prompts after {len(seen)} with the words that are one token "
                "each: ask for a smaller n"
            )
        seen.add(new)
        yield new


Made = tuple[Iterable[PromptPair], Mapping[str, int], tuple[str, ...]]
"""Pairs, how many words of a kind the tokenizer made unusable, and notes on the adaptation to it."""


class SampledTask:
    """What the tasks of this package share. A task says what :class:`~interp.prompts.pairs.Task` asks for, and makes
    its pairs in ``_make``."""

    name: str
    metric: Metric = "logit_diff"
    roles: tuple[str, ...]
    counterfactuals: tuple[str, ...]
    default_n = 100

    def sample(
        self, tokenizer: Any, n: int, seed: int = 0, counterfactual: str | None = None, *, bos: bool = True
    ) -> PromptPairs:
        """Return ``n`` distinct pairs, a pure function of the arguments. Raises :class:`InputError` for a bad ``n`` or
        counterfactual, a tokenizer that the task cannot use, and where there are no more distinct prompts."""
        kind = check_request(self, n, counterfactual)
        pairs, dropped, notes = self._make(PromptEncoder(tokenizer, bos), n, seed, kind)
        return PromptPairs(
            pairs,
            task=self.name,
            metric=self.metric,
            counterfactual=kind,
            seed=seed,
            bos=bos,
            dropped={key: count for key, count in dropped.items() if count},
            notes=notes,
        )

    def _make(self, encoder: PromptEncoder, n: int, seed: int, kind: str) -> Made:
        raise NotImplementedError


def fill(template: str, words: Mapping[str, str], roles: Container[str]) -> list[Piece]:
    """The template in pieces, its ``{fields}`` filled in. Every field, with the space before it, is a piece of its own
    and has the role of its name if that is one."""
    pieces: list[Piece] = []
    for part in filter(None, re.split(r"( ?\{\w+\})", template)):
        field = part.strip(" {}")
        if part.endswith("}"):
            text = part[: part.index("{")] + words[field]
            pieces.append((text, field if field in roles else None))
        else:
            pieces.append((part, None))
    return pieces


def names_told(io: str, s1: str, s2: str, *, s1_first: bool) -> dict[str, Value]:
    """The variables of a prompt that names two people and one of them again, as S2. S is the name that is repeated;
    where it stood first counts, whichever name it is."""
    stood_first = {s1: s1_first, io: not s1_first}.get(s2)
    if stood_first is None:
        return dict.fromkeys(("IO", "S", "order"))
    return {"IO": io if s2 == s1 else s1, "S": s2, "order": "S first" if stood_first else "S second"}


def read_data(name: str) -> dict:
    """The word lists and templates in ``data/<name>.json``."""
    return json.loads((files("interp.tasks") / "data" / f"{name}.json").read_text(encoding="utf-8"))


def require_words(task: str, kind: str, usable: int, needed: int) -> None:
    """Raise an InputError when the tokenizer leaves too few of a word list as single tokens."""
    if usable < needed:
        raise InputError(
            f"the task {task} needs at least {needed} {kind} that are one token each with a leading space; "
            f"this tokenizer leaves {usable}"
        )


HELD_OUT_SEED = 2000
STALE = 20
"""Times the pairs that are wanted or used which, without a new one in the last half of them, are all that there are."""


def held_out_pairs(
    task: Task,
    tokenizer: Any,
    n: int,
    pool: PromptPairs,
    counterfactual: str | None = None,
    *,
    seed: int = HELD_OUT_SEED,
) -> PromptPairs:
    """``n`` pairs, none of whose clean prompts is in the pool; as many as there are where the task has fewer. Raises
    :class:`InputError` where the task has no others, as a short prompt file."""
    seen = {pair.clean_tokens for pair in pool}

    def sample(asked: int) -> PromptPairs:
        return sample_pairs(task, tokenizer, asked, asked, seed, counterfactual, bos=pool.bos)

    def fresh(pairs: PromptPairs) -> list[int]:
        return [i for i, pair in enumerate(pairs) if pair.clean_tokens not in seen][:n]

    asked, before = n, -1
    pairs = as_many_as_there_are(sample, asked)
    while (missing := n - len(fresh(pairs))) and len(pairs) == asked:
        if missing != before:
            asked += missing
        elif asked < STALE * (n + len(pool)):
            asked *= 2
        else:  # a task that repeats itself, as a class of one's own may, never says that it has no more
            break
        before = missing
        pairs = as_many_as_there_are(sample, asked, least=len(pairs))
    if not fresh(pairs):
        raise InputError(f"task {task.name!r} has no pairs beyond the {len(pool)} used: use fewer")
    return pairs.subset(fresh(pairs))


def apart(pairs: PromptPairs, others: PromptPairs) -> list[int]:
    """Which pairs share no prompt with others, on either side."""
    known = {tokens for pair in others for tokens in (pair.clean_tokens, pair.corrupt_tokens)}
    return [i for i, pair in enumerate(pairs) if not known & {pair.clean_tokens, pair.corrupt_tokens}]
