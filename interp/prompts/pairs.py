"""What every task produces: pairs of a clean and a corrupt prompt of equal token length.

A *clean* (positive) prompt is one on which the model can do the task; its *corrupt* (negative) partner has the
same number of tokens but lacks the information that the task needs. Everything downstream — codes, scores,
activation patching, the report — reads only these pairs, never a task's text.
"""

import hashlib
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

from interp.errors import InputError, whole_number

Value = str | int | float | bool | None
"""Of a variable; ``None`` where a prompt has none, such as the repeated name of a prompt that repeats nobody."""
Variables = dict[str, dict[str, Value]]
"""What varies from prompt to prompt, by side: ``{"clean": {"S": "John"}, "corrupt": {"S": None}}``."""

Side = Literal["clean", "corrupt"]
SIDES: tuple[Side, ...] = get_args(Side)
Metric = Literal["logit_diff", "logit_diff_max", "prob_diff"]
"""How a prompt is scored at END, from the logits after its last token.

- ``logit_diff``: mean logit of the answers minus mean logit of the wrong answers (IOI).
- ``logit_diff_max``: mean logit of the answers minus the *largest* wrong logit (docstring).
- ``prob_diff``: total probability of the answers minus that of the wrong answers (greater-than).
"""


@dataclass(frozen=True)
class PromptPair:
    """One clean prompt, its corrupt partner, and what counts as right.

    Token tuples include BOS where the tokenizer has one (unless the task was sampled with ``bos=False``) and have
    equal length. The answer is asked for after the last token, which every task calls ``END``.
    """

    clean: str
    corrupt: str
    clean_tokens: tuple[int, ...]
    corrupt_tokens: tuple[int, ...]
    answers: tuple[int, ...]
    wrong_answers: tuple[int, ...]
    positions: dict[str, int] = field(default_factory=dict)
    """Token index of each role (IO, S1, S2, END, …), counted with BOS; the same in both prompts."""
    template: str = ""  # which of the task's templates made the prompt; empty where a task has one
    variables: Variables = field(default_factory=dict)
    """What the task says of both prompts; empty where it says nothing."""

    def __post_init__(self) -> None:
        if len(self.clean_tokens) != len(self.corrupt_tokens):
            raise InputError(
                f"clean has {len(self.clean_tokens)} tokens and corrupt {len(self.corrupt_tokens)}: "
                "a pair must have equal lengths"
            )
        if not (self.answers and self.wrong_answers):
            raise InputError(f"the pair of {self.clean!r} needs an answer and a wrong answer")
        # tokens stay as they are: fingerprints are of how they are written
        for name in ("clean_tokens", "corrupt_tokens", "answers", "wrong_answers"):
            for token in getattr(self, name):
                whole_number(f"the pair of {self.clean!r}: {name}:", token)
        # NumPy's numbers cannot be written as JSON
        positions = {
            role: whole_number(f"the pair of {self.clean!r}: position of {role}:", at)
            for role, at in self.positions.items()
        }
        object.__setattr__(self, "positions", positions)
        length = len(self.clean_tokens)
        outside = [f"{role} at {at}" for role, at in positions.items() if not 0 <= at < length]
        if outside:
            raise InputError(f"roles outside of the {length} tokens of {self.clean!r}: {', '.join(outside)}")

    @property
    def first_difference(self) -> int:
        """Position of the first token that is not the same in both prompts, at most that of END."""
        tokens = zip(self.clean_tokens[:-1], self.corrupt_tokens[:-1], strict=True)
        differing = (i for i, (clean, corrupt) in enumerate(tokens) if clean != corrupt)
        return next(differing, len(self.clean_tokens) - 1)

    @property
    def identity(self) -> tuple[tuple[int, ...], ...]:
        """What the model reads, and what counts as right."""
        return self.clean_tokens, self.corrupt_tokens, self.answers, self.wrong_answers

    @property
    def fingerprint(self) -> str:
        """A hash of :attr:`identity`, by which a pair is known again."""
        return hashlib.sha256(repr(self.identity).encode()).hexdigest()[:8]


class PromptPairs(list[PromptPair]):
    """A list of pairs that remembers how it was sampled."""

    def __init__(
        self,
        pairs: Iterable[PromptPair],
        *,
        task: str,
        metric: str,
        counterfactual: str,
        seed: int,
        bos: bool,
        dropped: dict[str, int] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(pairs)
        if metric not in get_args(Metric):
            raise InputError(f"metric {metric!r} of task {task!r}: choose {', '.join(get_args(Metric))}")
        self.task = task
        self.metric = cast(Metric, metric)
        self.counterfactual = counterfactual
        self.seed = seed
        self.bos = bos
        self.dropped = dropped or {}  # what the tokenizer made unusable, by kind: ``{"names": 3}``
        self.notes = notes  # what a reader must know about the adaptation to this tokenizer, one sentence each

    def subset(self, indices: Iterable[int]) -> "PromptPairs":
        """The pairs at these indices, with the same provenance."""
        chosen = copy(self)
        chosen[:] = [self[i] for i in indices]
        return chosen

    def digest(self) -> str:
        """A hash of what the model reads and how it is scored: the same name and seed may give other prompts."""
        digest = hashlib.sha256(self.metric.encode())
        for pair in self:
            digest.update(repr(pair.identity).encode())
        return digest.hexdigest()[:16]

    def provenance(self) -> dict:
        """What is needed to sample these pairs again, as JSON-able values."""
        return {
            "task": self.task,
            "metric": self.metric,
            "counterfactual": self.counterfactual,
            "seed": self.seed,
            "n_pairs": len(self),
            "bos": self.bos,
            "dropped": self.dropped,
            "notes": list(self.notes),
        }


@runtime_checkable
class Task(Protocol):
    """What a task is: a user's own class needs these five attributes and ``sample``; ``counterfactuals`` are the kinds
    of corrupt prompt, the default first."""

    @property
    def name(self) -> str: ...
    @property
    def metric(self) -> Metric: ...
    @property
    def roles(self) -> tuple[str, ...]: ...
    @property
    def counterfactuals(self) -> tuple[str, ...]: ...
    @property
    def default_n(self) -> int: ...

    def sample(
        self, tokenizer: Any, n: int, seed: int = 0, counterfactual: str | None = None, *, bos: bool = True
    ) -> PromptPairs:
        """Return ``n`` pairs, a pure function of its arguments."""
        ...


@runtime_checkable
class HighLevelModel(Protocol):
    """What a task may also be: a function from its variables to the answers. ``isinstance`` says whether it is."""

    def expected(self, variables: Mapping[str, Value]) -> tuple[str, ...] | None:
        """The answers that belong to the variables of one prompt, as texts that follow it: with a space in front where
        one is due. ``None``: a prompt with these values has no answer, or the task knows none.

        A task whose variables depend on each other may also have ``after(variables, values)``, which says what the
        variables of a prompt are once some of them are set; else only these change.
        """
        ...
