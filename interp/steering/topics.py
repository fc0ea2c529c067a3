"""Seven topics named in advance, with the words that count, texts to find codes from, and prompts to be judged on.

Four more are for development: by them it was chosen how codes are found. The seven had been seen with earlier ways to
find them, but not with that one. Presets are settings that were tried and steer, with how often they did.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from interp.errors import InputError
from interp.files import read_json, readable

FILE = Path(__file__).parent / "data" / "presets.json"
FORMAT = 1


@dataclass(frozen=True)
class Measured:
    """Of so many texts, how many hold one of the words: without codes, with them, and with random codes; and their
    perplexities under the model without steering."""

    n: int
    words: tuple[str, ...]
    hits: tuple[int, int, int]
    perplexities: tuple[float, float, float]


@dataclass(frozen=True)
class Preset:
    name: str
    prompt: str
    codes: str  # as :func:`~interp.steering.parse_codes` reads them
    # how, scale: ``added`` so many times, or ``set``
    how: str
    scale: float
    temperature: float
    n_tokens: int
    found: str  # from which texts
    measured: Measured


def load_presets(made_with: str) -> list[Preset]:
    """Those of a model with its codebooks, see :func:`~interp.steering.cache.identity`; none for others."""
    stored = read_json(FILE)
    presets = stored["presets"] if stored["made_with"] == made_with else []
    return TypeAdapter(list[Preset]).validate_python(presets)


_FILE = Path(__file__).parent / "data" / "topics.json"


@dataclass(frozen=True)
class Topic:
    name: str
    words: tuple[str, ...]  # a text is of the topic if it holds one of them, as a whole word, whatever the case
    positive: tuple[str, ...]  # texts of the topic
    negative: tuple[str, ...]  # everyday sentences, and some of each other one of the seven, or of the four
    prompts: tuple[str, ...]  # beginnings of texts, of no topic, none of them among the texts

    def is_in(self, text: str) -> bool:
        return holds_word(text, self.words)


def topic_names(of: Literal["topics", "development"] = "topics") -> list[str]:
    """The seven, or those by which it was chosen how codes are found."""
    return list(_stored()[of])


def load_topic(name: str) -> Topic:
    """The topic of a name."""
    stored = _stored()
    kind = "development" if name in stored["development"] else "topics"
    if name not in stored[kind]:
        seven, four = ", ".join(stored["topics"]), ", ".join(stored["development"])
        raise InputError(f"unknown topic {name!r}: there are {seven}, and for development {four}")
    # as many of the other topics as of none: more would cost time and tell little
    others = [text for other, topic in stored[kind].items() if other != name for text in topic["texts"][::3]]
    topic_data = stored[kind][name]
    return Topic(
        name,
        words=tuple(topic_data["words"]),
        positive=tuple(topic_data["texts"]),
        negative=(*stored["neutral"], *others),
        prompts=tuple(stored["prompts"]),
    )


def neutral_texts() -> tuple[str, ...]:
    """Everyday sentences of none of the seven topics; one tells of rain, and one of a doctor."""
    return tuple(_stored()["neutral"])


def read_lines(path: Path) -> tuple[str, ...]:
    """Texts of a file, one a line, each once."""
    try:
        lines = readable(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    texts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not texts:
        raise InputError(f"{path} holds no text: one a line")
    return texts


def holds_word(text: str, words: Sequence[str]) -> bool:
    """Whether one of the words stands in the text as a whole word: ``fire`` is not in ``fireman``.

    At an end that is no letter, as of ``?`` and ``C++``, there is no word to be whole.
    """
    return any(re.search(_whole(word), text, re.IGNORECASE) for word in words)


def _whole(word: str) -> str:
    begin = r"\b" if re.match(r"\w", word) else ""
    end = r"\b" if re.search(r"\w\Z", word) else ""
    return begin + re.escape(word) + end


@cache
def _stored() -> dict:
    return read_json(_FILE)
