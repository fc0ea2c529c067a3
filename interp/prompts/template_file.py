"""A task of the user's own, written as templates, lists of values and the answer that belongs to them."""

import codecs
import json
import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from interp import MOST_PAIRS
from interp.errors import InputError, TooFewPairs
from interp.prompts import prompt_file
from interp.prompts.encoding import Piece, PromptEncoder
from interp.prompts.pairs import PromptPair, Value
from interp.prompts.sampling import TRIES, Made, SampledTask, distinct, seeded
from interp.prompts.template_form import FORMAT, Entry, Form, Kind
from interp.prompts.template_model import TemplateModel, occurrences, variable_of

FRESH_TRIES = 20  # corrupt prompts drawn for one clean prompt until one of them can be used
COMPARED = 5  # pairs in which two variables must agree before a note says so


def load_task_file(path: str | Path, data: bytes | None = None) -> "prompt_file.PromptFile | TemplateFile":
    """The task in a file of prompts or of templates; ``data`` is what it holds, where it lies nowhere."""
    data = prompt_file.read_file(Path(path)) if data is None else data
    templates = Path(path).suffix.lower() != ".jsonl" and _has_templates(data)
    return TemplateFile(path, data) if templates else prompt_file.PromptFile(path, data)


def _has_templates(data: bytes) -> bool:
    if b'"templates"' not in data:
        return False
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):  # the error is to say the right form
        return b'"prompts"' not in data
    return isinstance(document, dict) and "templates" in document


class TemplateFile(prompt_file.TaskFile, SampledTask):
    """Any number of pairs from a JSON file::

        {"templates": ["When {IO} and {S} went to the {place}, {S} gave a {thing} to"],
         "values": {"IO": ["Mary", "John"], "S": "IO", "place": ["store"], "thing": ["drink", "book"]},
         "answer": "{IO}", "wrong": "{S}", "corrupt": [{"S@2": "{IO}"}]}

    ``docs/tasks.md`` has the form and how tasks of several kinds are written in it.

    Every placeholder is a role at its last token: ``IO``, or ``S1`` and ``S2`` where a template has it several times.
    Templates come equally often. Clean prompts of a seed are the same for every kind of corrupt prompt.

    Dropped and counted: values that this tokenizer lacks, or that have other lengths than most of a list from which a
    kind replaces (``values of IO``); and clean prompts that have no corrupt partner of equal ``lengths``, are their
    own partner (``equality``), have no token that tells answers from wrong ones (``answers``), or have no border of
    tokens after a role (``roles``).
    """

    def __init__(self, path: str | Path, data: bytes | None = None) -> None:
        """Read and check the file, see :class:`~interp.prompts.prompt_file.TaskFile`."""
        super().__init__(path, data)
        form = prompt_file.validated(Form, self.data.removeprefix(codecs.BOM_UTF8), self.name, FORMAT)
        self.metric = form.metric
        self._model = model = TemplateModel(form, self.name)
        self.counterfactuals = tuple(model.kinds)
        self.roles = (*model.roles, "END")
        drawn = Counter(model.values.owners.values())
        lists = model.values.lists.items()
        prompts = math.prod(math.perm(len(entries), drawn[name]) for name, entries in lists)
        self.most = min(MOST_PAIRS, len(model.templates) * prompts)
        self.default_n = min(100, self.most)

    def expected(self, variables: Mapping[str, Value]) -> tuple[str, ...] | None:
        """:meth:`~interp.prompts.template_model.TemplateModel.expected`."""
        return self._model.expected(variables)

    def _make(self, encoder: PromptEncoder, n: int, seed: int, kind: str) -> Made:
        usable, lost = self._usable(encoder)
        self._model.check_sizes(usable, lost)
        dropped = {f"values of {owner}": len(texts) for owner, texts in lost.items()}
        stream = seeded("template-file", seed)
        corrupt_streams = {name: seeded("template-file", seed, name) for name in self.counterfactuals}
        built: dict[str, dict[str, tuple[PromptPair, bool]] | str] = {}

        def draw(template: int) -> str:
            for _ in range(TRIES):
                chosen = self._chosen(usable, stream)
                text = _joined(self._pieces(template, chosen, {}))
                if text not in built:
                    built[text] = self._pairs(encoder, template, chosen, usable, corrupt_streams)
                if not isinstance(built[text], str):
                    return text
            raise TooFewPairs("no clean prompt can be used")

        try:
            texts = list(distinct(self.name, n, stream, range(len(self._model.templates)), draw))
        except TooFewPairs:
            raise self._shortage(n, built, lost) from None
        pairs = [pairs[kind] for text in texts if not isinstance(pairs := built[text], str)]
        dropped |= Counter(cause for cause in built.values() if isinstance(cause, str))
        notes = prompt_file.long_answers(sum(several for _, several in pairs), n)
        chosen_pairs = [pair for pair, _ in pairs]
        return chosen_pairs, dropped, notes + self._agreeing(chosen_pairs, usable)

    def _usable(self, encoder: PromptEncoder) -> tuple[dict[str, list[Entry]], dict[str, list[str]]]:
        """By list the values that can be drawn, and the texts of those that this tokenizer makes unusable."""
        usable, lost = {}, {}
        for owner, entries in self._model.drawn.items():
            lengths = {entry: self._lengths(encoder, owner, entry) for entry in entries}
            known = Counter(length for length in lengths.values() if length is not None)
            usual = {length for length, _ in known.most_common(1 if owner in self._model.changed else None)}
            usable[owner] = [entry for entry in entries if lengths[entry] in usual]
            lost[owner] = [entry.text for entry in entries if lengths[entry] not in usual]
        return usable, lost

    def _lengths(self, encoder: PromptEncoder, owner: str, entry: Entry) -> tuple[int, ...] | None:
        """Tokens of what a value shows in each place; ``None`` for words that the tokenizer lacks, or where the texts
        between which a variable chooses have several lengths."""
        values, unknown = self._model.values, getattr(encoder.tokenizer, "unk_token_id", None)
        lengths = []
        for first, space, reference in self._model.places:
            if values.owners[reference.name] == owner:
                by = reference.by or ""
                choices = [{by: option} for option in values.entries(by)] if by else [{}]
                texts = [values.texts(reference, entry, choice)[0] for choice in choices]
                encode = encoder.encode if first else lambda text, s=space: encoder.continuation("the", s + text)
                ids = [encode(text) for text in texts]
                if len({len(tokens) for tokens in ids}) != 1 or any(unknown in tokens for tokens in ids):
                    return None
                lengths.append(len(ids[0]))
        return tuple(lengths)

    def _chosen(self, usable: Mapping[str, list[Entry]], stream: random.Random) -> dict[str, Entry]:
        """A value for each variable; those of one list all differ."""
        owners = self._model.values.owners
        needed = Counter(owners.values())
        rest = {owner: iter(stream.sample(entries, needed[owner])) for owner, entries in usable.items()}
        return {name: next(rest[owner]) for name, owner in owners.items()}

    def _pieces(self, template: int, chosen: Mapping[str, Entry], apart: Mapping[str, Entry]) -> list[Piece]:
        """A prompt in pieces; ``apart`` has the values of single occurrences."""
        pieces: list[Piece] = []
        for piece in self._model.templates[template]:
            if (reference := piece.reference) is None:
                pieces.append((piece.text, None))
            else:
                entry = apart.get(f"{reference.name}@{piece.occurrence}", chosen[reference.name])
                (text, *_) = self._model.values.texts(reference, entry, chosen)
                pieces.append((piece.text + text, self._model.role(reference.name, piece.occurrence)))
        return pieces

    def _pairs(
        self,
        encoder: PromptEncoder,
        template: int,
        chosen: Mapping[str, Entry],
        usable: Mapping[str, list[Entry]],
        streams: Mapping[str, random.Random],
    ) -> dict[str, tuple[PromptPair, bool]] | str:
        """The clean prompt with a corrupt partner of each kind, whichever is asked for; or why one kind has none."""
        pairs: dict[str, tuple[PromptPair, bool]] = {}
        for name, kind in self._model.kinds.items():
            pair: tuple[PromptPair, bool] | str = ""
            for _ in range(FRESH_TRIES if "*" in kind.set.values() else 1):
                sets = self._set(kind, chosen, usable, streams[name])
                pair = self._pair(encoder, template, chosen, sets)
                if not isinstance(pair, str):
                    break
            if isinstance(pair, str):
                return pair
            pairs[name] = pair
        return pairs

    def _set(
        self, kind: Kind, chosen: Mapping[str, Entry], usable: Mapping[str, list[Entry]], stream: random.Random
    ) -> dict[str, Entry]:
        """What a kind sets, with its values; fresh draws differ from each other and from the clean prompt's values."""
        sets: dict[str, Entry] = {}
        taken = [*chosen.values()]
        for target, value in kind.set.items():
            if value == "*":
                entries = usable[self._model.values.owners[variable_of(target)]]
                taken.append(stream.choice([entry for entry in entries if entry not in taken]))
                sets[target] = taken[-1]
            else:
                sets[target] = self._model.meant(target, value, chosen)
        return sets

    def _pair(
        self, encoder: PromptEncoder, template: int, chosen: Mapping[str, Entry], sets: Mapping[str, Entry]
    ) -> tuple[PromptPair, bool] | str:
        """As :func:`~interp.prompts.prompt_file.build_pair`; ``roles`` where one has no position."""
        model = self._model
        apart = {target: entry for target, entry in sets.items() if "@" in target}
        changed = {name: sets.get(name, entry) for name, entry in chosen.items()}
        clean_variables = self._variables(template, chosen, {})
        sides = prompt_file.Sides(clean=clean_variables, corrupt=self._variables(template, changed, apart))
        answers = model.expected(sides.clean)
        wrong = model.expected(sides.corrupt) if model.wrong is None else model.texts(model.wrong, chosen)
        if not answers or not wrong:
            return "answers"
        clean, corrupt = self._pieces(template, chosen, {}), self._pieces(template, changed, apart)
        try:
            (_, positions), (_, corrupt_positions) = encoder.place(clean), encoder.place(corrupt)
        except InputError:
            return "roles"
        if positions != corrupt_positions:
            return "lengths"
        prompt = prompt_file.FilePrompt(
            clean=_joined(clean),
            corrupt=_joined(corrupt),
            answers=list(answers),
            wrong_answers=list(wrong),
            variables=sides,
        )
        roles = {role: at - len(encoder.bos) for role, at in positions.items() if role != "END"}
        built = prompt_file.build_pair(encoder, prompt, roles, self.name)
        if isinstance(built, str) or len(model.templates) == 1:
            return built
        return replace(built[0], template=str(template + 1)), built[1]

    def _variables(self, template: int, chosen: Mapping[str, Entry], apart: Mapping[str, Entry]) -> dict[str, Value]:
        """The variables of one prompt; a variable whose every occurrence is set apart has no value."""
        shown = occurrences(self._model.templates[template])
        values: dict[str, Value] = {}
        for name, entry in chosen.items():
            gone = shown[name] and all(f"{name}@{k + 1}" in apart for k in range(shown[name]))
            values[name] = None if gone else entry.text
        for target in self._model.apart:
            values[target] = apart.get(target, chosen[variable_of(target)]).text
        return values | ({"template": str(template + 1)} if len(self._model.templates) > 1 else {})

    def _agreeing(self, pairs: list[PromptPair], usable: Mapping[str, list[Entry]]) -> tuple[str, ...]:
        """Notes on variables of which nothing can be told: those of one value, and two that never differ."""
        constants = {owner: entries[0].text for owner, entries in usable.items() if len(entries) == 1}
        alone = [f"{owner} is {text!r} in every prompt" for owner, text in constants.items()]
        sides = [side for pair in pairs for side in pair.variables.values()]
        equal = [
            f"{a} and {b} have the same value in every prompt, so that they cannot be told apart"
            for a, b in combinations(sides[0], 2)
            if len(pairs) >= COMPARED and all(side[a] == side[b] for side in sides)
        ]
        return (*alone, *equal)

    def _shortage(self, n: int, built: Mapping[str, dict | str], lost: Mapping[str, list[str]]) -> TooFewPairs:
        n_usable = sum(not isinstance(pairs, str) for pairs in built.values())
        causes = Counter(cause for cause in built.values() if isinstance(cause, str))
        reasons = [f"{count} clean prompts dropped for their {cause}" for cause, count in causes.items()]
        reasons += [self._model.lost(owner, texts) for owner, texts in lost.items() if texts]
        reason = f" ({'; '.join(reasons)})" if reasons else ""
        return TooFewPairs(
            f"{self.name}: {n} pairs asked for, but templates and values give {n_usable} with this tokenizer{reason}: "
            f"ask for an n of at most {n_usable}, or give more values"
        )


def _joined(pieces: list[Piece]) -> str:
    return "".join(text for text, _ in pieces)
