"""The form of a template file: lists of values, the places that show them, and kinds of corrupt prompt."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, PlainValidator

from interp.prompts.pairs import Metric
from interp.prompts.prompt_file import Text

FORMAT = (
    '{"templates": ["… {NAME} …"], "values": {NAME: [text or {FIELD: text or texts}] or another NAME or '
    '{"from": digits, "to": digits}}, "answer": "{NAME}", "wrong": "{NAME}", "corrupt": [{NAME: "*"}]}; '
    "wrong, metric and space may be left out"
)
_REFERENCE = re.compile(r"\{(\w+)(?:\.(\w+)|\[(\w+)\]|\+([1-9]))?\}")


@dataclass(frozen=True, eq=False)
class Entry:
    """One value of a list: its text, by which it is known, and its fields."""

    text: str
    fields: Mapping[str, tuple[str, ...]]


Assignment = Mapping[str, Entry | None]  # the value of each variable of a prompt, by name; ``None`` where it has none


@dataclass(frozen=True)
class Reference:
    """What stands in braces: ``{name}``, ``{name.field}``, ``{name[by]}`` or ``{name+step}``."""

    name: str
    field: str | None = None
    by: str | None = None
    step: int = 0


@dataclass(frozen=True)
class Piece:
    """A stretch of a template: plain text, or the space before a reference and what it refers to."""

    text: str
    reference: Reference | None = None
    occurrence: int = 0  # of the variable in the template, from 1


def pieces_of(text: str) -> tuple[Piece, ...]:
    """A template, or an answer, in pieces; raises :class:`ValueError` for other braces."""
    pieces: list[Piece] = []
    occurrences: Counter[str] = Counter()
    for part in filter(None, re.split(r"( ?\{[^{}]*\})", text)):
        match = _REFERENCE.fullmatch(part.lstrip(" ")) if part.endswith("}") else None
        if match is None and set(part) & set("{}"):
            raise ValueError(f"{part.strip()[:40]!r}: braces hold NAME, NAME.FIELD, NAME[NAME] or NAME+1")
        if match is None:
            pieces.append(Piece(part))
        else:
            name, field_name, by, step = match.groups()
            occurrences[name] += 1
            reference = Reference(name, field_name, by, int(step or 0))
            pieces.append(Piece(part[: part.index("{")], reference, occurrences[name]))
    return tuple(pieces)


@dataclass(frozen=True)
class Values:
    """The lists of values, by the name of the variable that has the list; and of every variable the owner of the list
    that it is drawn from."""

    lists: Mapping[str, Sequence[Entry]]
    owners: Mapping[str, str]

    def entries(self, name: str) -> Sequence[Entry]:
        """The list that a variable is drawn from."""
        return self.lists[self.owners[name]]

    def entry(self, name: str, text: object) -> Entry | None:
        """The value with this text, if the list has it."""
        return next((entry for entry in self.entries(name) if entry.text == text), None)

    def texts(self, reference: Reference, entry: Entry | None, chosen: Assignment) -> tuple[str, ...]:
        """What a reference shows of a value; nothing where there is none. ``chosen`` names the field of ``[by]``."""
        if entry is None:
            return ()
        if reference.step:
            entries = self.entries(reference.name)
            return tuple(later.text for later in entries[entries.index(entry) + reference.step :][:1])
        if reference.by:
            by = chosen.get(reference.by)
            return () if by is None else entry.fields.get(by.text, ())
        return entry.fields.get(reference.field, ()) if reference.field else (entry.text,)

    def answers(self, formulas: Sequence[Sequence[Piece]], chosen: Assignment) -> tuple[str, ...] | None:
        """The texts that formulas give, each once; ``None`` where one of them gives none."""
        texts: list[str] = []
        for formula in formulas:
            choices = [
                [piece.text]
                if (reference := piece.reference) is None
                else [piece.text + text for text in self.texts(reference, chosen.get(reference.name), chosen)]
                for piece in formula
            ]
            if not all(choices):
                return None
            texts += map("".join, product(*choices))
        return tuple(dict.fromkeys(texts))


def _entry(given: Any, place: str) -> Entry:
    if isinstance(given, str) and given:
        return Entry(given, {"text": (given,)})
    if not isinstance(given, dict) or not given:
        raise ValueError(f"{place} is {given!r:.60}: a value is a text, or an object of fields")
    fields = {}
    for name, texts in given.items():
        listed = [texts] if isinstance(texts, str) else [] if texts is None else texts
        if not isinstance(listed, list) or not all(isinstance(text, str) and text for text in listed):
            raise ValueError(f"{place}: field {name!r} is {texts!r:.60}: give a text, several, or null")
        fields[name] = tuple(listed)
    shown = fields.get("text", next(iter(fields.values())))
    if len(shown) != 1:
        raise ValueError(f"{place}: its field text, or else its first, shows it and so is one text")
    return Entry(shown[0], fields)


def _range(given: dict) -> list[Entry]:
    """Numbers of one or two digits with the fields ``above`` and ``below``: those of as many digits."""
    first, last = given.get("from"), given.get("to")
    digits = [text for text in (first, last) if isinstance(text, str) and re.fullmatch("[0-9]{1,2}", text)]
    if set(given) != {"from", "to"} or len(digits) < 2 or len(digits[0]) != len(digits[1]):
        raise ValueError(f'a range is {{"from": "01", "to": "98"}}, of one digit or two, not {given!r:.60}')
    texts = [f"{number:0{len(digits[0])}d}" for number in range(10 ** len(digits[0]))]
    return [
        Entry(text, {"text": (text,), "above": tuple(texts[i + 1 :]), "below": tuple(texts[:i])})
        for i, text in enumerate(texts)
        if digits[0] <= text <= digits[1]
    ]


def _entries(given: Any) -> str | list[Entry]:
    if isinstance(given, str):
        return given
    if not isinstance(given, list | dict):
        raise ValueError(f"{given!r:.60} is no list of values, range or name of another variable")
    entries = _range(given) if isinstance(given, dict) else [_entry(e, f"[{i}]") for i, e in enumerate(given)]
    if not entries:
        raise ValueError("it has no values")
    texts = [entry.text for entry in entries]
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise ValueError(f"{twice!r} stands in it twice")
    return entries


def _kind(given: Any) -> Any:
    """What a kind sets may stand alone."""
    alone = isinstance(given, dict) and not isinstance(given.get("set"), dict)
    return {"set": given} if alone else given


_listed = BeforeValidator(lambda given: [given] if isinstance(given, str) else given)
Formulas = Annotated[list[Text], Field(min_length=1), _listed]


class Kind(BaseModel, strict=True, frozen=True, extra="forbid"):
    """One kind of corrupt prompt: what it sets variables (``S``) or their occurrences (``S@2``) to."""

    set: Annotated[dict[Text, Text], Field(min_length=1)]
    name: Annotated[str, Field(pattern=r"^[\w@+.-]+$")] = ""
    answer: Formulas | None = None

    @property
    def called(self) -> str:
        return self.name or "+".join(self.set)


class Form(BaseModel, strict=True, extra="forbid"):
    """What stands in the file."""

    templates: Annotated[list[Text], Field(min_length=1)]
    values: Annotated[dict[Text, Annotated[Any, PlainValidator(_entries)]], Field(min_length=1)]
    answer: Formulas
    wrong: Formulas | None = None
    corrupt: Annotated[list[Annotated[Kind, BeforeValidator(_kind)]], Field(min_length=1)]
    metric: Metric = "logit_diff"
    space: bool = True
