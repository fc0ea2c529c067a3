"""Tasks of the planted models, whose circuits are known because they were written into the weights.

The texts are made of whole words of a small vocabulary, one token each. ``planted-induction`` is a sequence of nouns
in which one bigram ``A B`` is begun again: ``… A B … A`` -> ``B``. All others are indirect object identification
(Wang et al. 2022, arXiv 2211.00593) in that vocabulary.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from interp.errors import InputError
from interp.prompts.encoding import PromptEncoder
from interp.prompts.pairs import PromptPair, Value, Variables
from interp.prompts.sampling import Made, SampledTask, names_told, seeded


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SPECIAL_TOKENS = ("<bos>", "<eos>", "<unk>")
NAMES = _words(
    "Mary John Anna Peter Lucy Paul Emma David Sarah Mark Julia Simon "
    "Alice Henry Clara Oscar Nora Felix Laura Martin Helen Robert Diana Victor"
)
PLACES = _words("store park school house garden station office library")
OBJECTS = _words("drink ring book kiss basket letter apple ticket")
THINGS = _words("river window candle mirror forest button engine ladder")
NOUNS = PLACES + OBJECTS + THINGS
OTHERS = _words("and went to the . gave a Then left handed When met at , passed while old")
VOCABULARY = SPECIAL_TOKENS + NAMES + NOUNS + OTHERS
"""Every token of the planted models; the index of a word is its token id."""

# All have 13 words, so that any sample is one batch without padding.
_TEMPLATES = {
    "went": "{first} and {second} went to the {place} . {giver} gave a {object} to",
    "left": "Then {first} and {second} left the {place} . {giver} handed a {object} to",
    "met": "When {first} met {second} at the {place} , {giver} gave the {object} to",
    "while": "{first} and {second} left the old {place} while {giver} passed the {object} to",
}


@dataclass(frozen=True)
class PlantedNames(SampledTask):
    """Which of two names was mentioned only once? Metric: logit(IO) - logit(S).

    Counterfactuals: ``abc`` has three other, distinct names, so that no name is the answer; ``s2_io`` has IO
    in the place of S2, so that S is. Everything else stays.
    """

    name: str
    counterfactuals: tuple[str, ...] = ("abc", "s2_io")
    roles = ("IO", "S1", "S1+1", "S2", "END")
    default_n = 50

    def expected(self, variables: Mapping[str, Value]) -> tuple[str, ...] | None:
        """The name mentioned once, where one of two is repeated."""
        io = variables.get("IO")
        return None if io is None else (f" {io}",)

    def _make(self, encoder: PromptEncoder, n: int, seed: int, kind: str) -> Made:
        """The clean prompts are the same for every counterfactual."""
        stream = seeded(self.name, seed)
        return [self._pair(stream, encoder, kind) for _ in range(n)], {}, ()

    def _pair(self, rng: random.Random, encoder: PromptEncoder, kind: str) -> PromptPair:
        template = rng.choice(sorted(_TEMPLATES))
        io, s, *others = rng.sample(NAMES, 5)
        io_first = rng.random() < 0.5
        nouns = {"place": rng.choice(PLACES), "object": rng.choice(OBJECTS)}

        def fill(io: str, s1: str, s2: str) -> str:
            first, second = (io, s1) if io_first else (s1, io)
            return _TEMPLATES[template].format(first=first, second=second, giver=s2, **nouns)

        names, other_names = (io, s, s), tuple(others) if kind == "abc" else (io, s, io)
        clean = fill(*names)
        words = clean.split()
        s1 = words.index(s)
        positions = {
            "IO": words.index(io),
            "S1": s1,
            "S1+1": s1 + 1,
            "S2": words.index(s, s1 + 1),
            "END": len(words) - 1,
        }
        return _pair(
            encoder,
            clean,
            fill(*other_names),
            answer=io,
            wrong=s,
            positions=positions,
            template=f"{template}/{'ABBA' if io_first else 'BABA'}",
            variables={
                side: names_told(*side_names, s1_first=not io_first)
                for side, side_names in (("clean", names), ("corrupt", other_names))
            },
        )


@dataclass(frozen=True)
class PlantedInduction(SampledTask):
    """``… A B … C D … A`` -> ``B``. Metric: logit(B) - logit(C), C another word of the prompt.

    Counterfactual ``random``: other nouns in every place, none of them twice.
    """

    name: str
    roles = ("A1", "B", "END")
    counterfactuals = ("random",)
    default_n = 50

    def _make(self, encoder: PromptEncoder, n: int, seed: int, _kind: str) -> Made:
        """Pairs of 11 words."""
        stream = seeded(self.name, seed)
        return [self._pair(stream, encoder) for _ in range(n)], {}, ()

    def _pair(self, rng: random.Random, encoder: PromptEncoder) -> PromptPair:
        words = rng.sample(NOUNS, 21)
        context, corrupt = words[:10], words[10:]
        # A word lies between B and END, so that copying the word before END is never right.
        a1 = rng.randrange(0, 8)
        wrong = rng.choice([i for i in range(1, 10) if i not in (a1, a1 + 1)])
        return _pair(
            encoder,
            " ".join([*context, context[a1]]),
            " ".join(corrupt),
            answer=context[a1 + 1],
            wrong=context[wrong],
            positions={"A1": a1, "B": a1 + 1, "END": 10},
        )


_TASKS: dict[str, Callable[[str], PlantedNames | PlantedInduction]] = {
    "planted-induction": PlantedInduction,
    "planted-backup": PlantedNames,
    "planted-inhibition": PlantedNames,
    # under s2_io a swapped arm would not fall silent but vote for the other name: no OR-gate any more
    "planted-or": partial(PlantedNames, counterfactuals=("abc",)),
    # s2_io repeats a name too, so that the nudges, which look for that, would do nothing
    "planted-hydra": partial(PlantedNames, counterfactuals=("abc",)),
    "planted-suppression": partial(PlantedNames, counterfactuals=("abc",)),
    "planted-gates": partial(PlantedNames, counterfactuals=("abc",)),
}


def planted_task_names() -> tuple[str, ...]:
    """The tasks there are; each has the name of the model that it is for."""
    return tuple(_TASKS)


def load_planted_task(name: str) -> PlantedNames | PlantedInduction:
    """Return the task of the planted model of this name."""
    if name not in _TASKS:
        raise InputError(f"unknown planted task {name!r}: there are {', '.join(_TASKS)}")
    return _TASKS[name](name)


def _pair(
    encoder: PromptEncoder,
    clean: str,
    corrupt: str,
    *,
    answer: str,
    wrong: str,
    positions: dict[str, int],
    template: str = "",
    variables: Variables | None = None,
) -> PromptPair:
    return PromptPair(
        clean=clean,
        corrupt=corrupt,
        clean_tokens=encoder.bos + _tokens(encoder, clean),
        corrupt_tokens=encoder.bos + _tokens(encoder, corrupt),
        answers=_tokens(encoder, answer),
        wrong_answers=_tokens(encoder, wrong),
        positions={role: index + len(encoder.bos) for role, index in positions.items()},
        template=template,
        variables=variables or {},
    )


def _tokens(encoder: PromptEncoder, text: str) -> tuple[int, ...]:
    tokens = encoder.encode(text)
    if len(tokens) != len(text.split()):
        raise InputError(
            f"planted tasks need the tokenizer of a planted model: this one splits words of {text!r}; "
            f"name one with --model ({', '.join(_TASKS)})"
        )
    return tokens
