"""What a template file says of its variables: their lists, what shows them, and the answers that belong to them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

from interp.errors import InputError
from interp.prompts.pairs import Value
from interp.prompts.template_form import Assignment, Entry, Form, Kind, Piece, Reference, Values, pieces_of

NAMED = 5  # dropped words that an error names


def variable_of(target: str) -> str:
    """``S`` of ``S`` or ``S@2``."""
    return target.partition("@")[0]


def _source(value: str) -> str | None:
    """``S`` of ``{S}``, which a kind sets something to."""
    return value[1:-1] if value[0] == "{" and value[-1] == "}" else None


def occurrences(template: Sequence[Piece]) -> Counter[str]:
    """How often a template shows each variable."""
    return Counter(piece.reference.name for piece in template if piece.reference)


class TemplateModel:
    """The checked content of a template file, and its high-level model :meth:`expected`."""

    def __init__(self, form: Form, source: str) -> None:
        """Check what a file says; ``source`` is its name, with which errors begin."""
        self._name, self._space = source, form.space
        self.values = Values(
            {name: given for name, given in form.values.items() if not isinstance(given, str)},
            {name: self._owner(name, form.values) for name in form.values},
        )
        self.templates = [self._parsed(text, f"templates[{i}]") for i, text in enumerate(form.templates)]
        self.answer = [self._parsed(text, "answer") for text in form.answer]
        self.wrong = None if form.wrong is None else [self._parsed(text, "wrong") for text in form.wrong]
        if shared := set(form.answer) & set(form.wrong or ()):
            raise self._error(f"{shared.pop()!r} is both an answer and wrong")
        self.kinds = {kind.called: kind for kind in form.corrupt}
        self._kind_answers = {
            name: [self._parsed(text, f"corrupt {name}: answer") for text in kind.answer]
            for name, kind in self.kinds.items()
            if kind.answer is not None
        }
        targets = [target for kind in form.corrupt for target in kind.set]
        self.apart = tuple(dict.fromkeys(target for target in targets if "@" in target))
        """Occurrences that are variables of their own, such as ``S@2``."""
        often = [occurrences(template) for template in self.templates]
        self._often = {name: max(count[name] for count in often) for name in form.values}
        self._fewest = {name: min(count[name] for count in often) for name in form.values}
        pieces = [(i == 0, piece) for template in self.templates for i, piece in enumerate(template)]
        shown = [(first, piece, piece.reference) for first, piece in pieces if piece.reference]
        places = dict.fromkeys((first, piece.text, reference) for first, piece, reference in shown)
        self.places = tuple(places)
        """Where values are shown: whether the prompt begins there, the space before, and what is shown."""
        roles = dict.fromkeys((reference.name, piece.occurrence) for _, piece, reference in shown)
        self.roles = tuple(self.role(*role) for role in roles)
        if twice := [role for role, count in Counter(self.roles).items() if count > 1]:
            raise self._error(f"{twice[0]} is a variable, and the role of another's occurrence: rename it")
        self._check_kinds(form.corrupt)
        self._check_use(form)

    def _error(self, message: str) -> InputError:
        return InputError(f"{self._name}: {message}")

    def _owner(self, name: str, given: Mapping[str, str | Sequence[Entry]]) -> str:
        """The variable whose list a variable is drawn from."""
        if not name.isidentifier() or name in ("END", "template"):
            raise self._error(f"values: {name!r} is no name: letters and digits, not END and not template")
        chain = [name]
        while isinstance(source := given[chain[-1]], str):
            if source not in given or source in chain:
                raise self._error(
                    f"values.{name} names {source!r}: it may name another variable that has a list ({', '.join(given)})"
                )
            chain.append(source)
        return chain[-1]

    def _parsed(self, text: str, place: str) -> tuple[Piece, ...]:
        try:
            pieces = pieces_of(text)
        except ValueError as error:
            raise self._error(f"{place}: {error}") from None
        for piece in pieces:
            if piece.reference:
                self._check_reference(piece.reference, place, shown=place.startswith("templates"))
        return pieces

    def _check_reference(self, reference: Reference, place: str, *, shown: bool) -> None:
        """Refuse what no value has; what is shown in a prompt every value must have, as one text."""
        owners, name = self.values.owners, reference.name
        for unknown in {name, reference.by or name} - owners.keys():
            raise self._error(f"{place} names {unknown}: the variables are {', '.join(owners)}")
        entries = self.values.entries(name)
        fields = [reference.field] if reference.field else []
        if reference.by:
            fields = [entry.text for entry in self.values.entries(reference.by)]
        for field in fields:
            counts = {entry.text: len(entry.fields.get(field, ())) for entry in entries}
            wrong = [text for text, count in counts.items() if count != 1]
            if not any(counts.values()) or (shown and wrong):
                fields_of_all = dict.fromkeys(key for entry in entries for key in entry.fields)
                raise self._error(
                    f"{place}: {wrong[0]!r} of {name} has not one text as its field {field!r} "
                    f"(fields: {', '.join(fields_of_all)})"
                )

    def _check_kinds(self, kinds: Sequence[Kind]) -> None:
        if len(self.kinds) < len(kinds):
            raise self._error(f"two kinds are called the same ({', '.join(self.kinds)}): give a name")
        owners = self.values.owners
        for kind in kinds:
            place = f"corrupt {kind.called}"
            for target, value in kind.set.items():
                name, at, occurrence = target.partition("@")
                if name not in owners:
                    raise self._error(f"{place} sets {name}: the variables are {', '.join(owners)}")
                if at and not (occurrence.isdecimal() and 1 <= int(occurrence) <= self._fewest[name]):
                    raise self._error(
                        f"{place}: {target} is not in every template, of {name} there are {self._fewest[name]}"
                    )
                siblings = [other for other in owners if owners[other] == owners[name] and other != name]
                allowed = ["*", *(f"{{{other}}}" for other in siblings)]
                if value not in allowed and self.values.entry(name, value) is None:
                    may = f"it may be {', '.join(allowed)} or a value of its list"
                    raise self._error(f"{place} sets {target} to {value}: {may}")
            if self.wrong is None and kind.answer is None and any("@" in target for target in kind.set):
                raise self._error(
                    f"{place} sets an occurrence apart, so its prompts have no answer: say wrong, or its answer"
                )

    def _check_use(self, form: Form) -> None:
        formulas = [*self.templates, *self.answer, *(self.wrong or ())]
        formulas += [formula for answer in self._kind_answers.values() for formula in answer]
        references = [piece.reference for formula in formulas for piece in formula if piece.reference]
        used = {name for reference in references for name in (reference.name, reference.by)}
        used |= {_source(value) for kind in form.corrupt for value in kind.set.values()}
        targets = {variable_of(target) for kind in form.corrupt for target in kind.set}
        changed = targets | {reference.name for reference in references if reference.by in targets}
        self.changed = {self.values.owners[name] for name in changed}
        """Lists of which a kind replaces values."""
        if unused := [name for name in form.values if name not in used]:
            raise self._error(f"values: {', '.join(unused)} stands in no template, answer or kind")
        steps = [reference for reference in references if reference.step]
        self.drawn: dict[str, list[Entry]] = {}
        """The values that can be drawn: those with as many after them as ``{NAME+2}`` looks ahead."""
        for owner, entries in self.values.lists.items():
            ahead = [r for r in steps if self.values.owners[r.name] == owner]
            self.drawn[owner] = [e for e in entries if all(self.values.texts(r, e, {}) for r in ahead)]
        self.check_sizes(self.drawn, {})

    def check_sizes(self, lists: Mapping[str, Sequence[Entry]], lost: Mapping[str, list[str]]) -> None:
        """Refuse a list that is too short for its variables and the fresh draws of a kind."""
        owners = self.values.owners
        for owner, entries in lists.items():
            variables = [name for name in owners if owners[name] == owner]
            sets = [kind.set.items() for kind in self.kinds.values()]
            fresh = max(sum(to == "*" and owners[variable_of(at)] == owner for at, to in kind) for kind in sets)
            if len(entries) < len(variables) + fresh:
                reason = f" ({self.lost(owner, lost[owner])})" if lost.get(owner) else ""
                raise self._error(
                    f"the list of {owner} has {len(entries)} values that can be used{reason}: "
                    f"{', '.join(variables)} and {fresh} fresh draws need {len(variables) + fresh}"
                )

    @staticmethod
    def lost(owner: str, texts: Sequence[str]) -> str:
        """Which values a tokenizer makes unusable."""
        named = ", ".join(texts[:NAMED]) + ", …" * (len(texts) > NAMED)
        return f"{len(texts)} values of {owner} are of another length with this tokenizer: {named}"

    def meant(self, target: str, value: str, chosen: Mapping[str, Entry]) -> Entry:
        """The value that a kind's ``"{NAME}"`` or text means on a clean prompt; checked when the file was read."""
        source = _source(value)
        entry = chosen[source] if source else self.values.entry(variable_of(target), value)
        assert entry is not None
        return entry

    def role(self, name: str, occurrence: int) -> str:
        return f"{name}{occurrence}" if self._often[name] > 1 else name

    def expected(self, variables: Mapping[str, Value]) -> tuple[str, ...] | None:
        """The answers that belong to the variables of one prompt, as texts that follow it.

        ``None`` where the file gives none: a value that the answer needs is null or not of its list, two variables of
        a list are equal, or an occurrence differs from its variable and no kind says what the answer is then.
        """
        chosen = {name: self.values.entry(name, variables.get(name)) for name in self.values.owners}
        names = [name for name, entry in chosen.items() if entry is not None]
        equal = any(chosen[a] is chosen[b] for a, b in combinations(names, 2))
        set_apart = variables.keys() & {*self.apart}
        apart = any(variables[key] != variables.get(variable_of(key)) for key in set_apart)
        formulas = None if equal or apart else self.answer
        for name, answer in self._kind_answers.items() if formulas is None else ():
            sets = self.kinds[name].set.items()
            meant = {target: variables.get(source) if (source := _source(to)) else to for target, to in sets}
            if all(to in ("*", variables.get(target)) for target, to in meant.items()):
                formulas = answer
                break
        return None if formulas is None else self.texts(formulas, chosen)

    def texts(self, formulas: Sequence[Sequence[Piece]], chosen: Assignment) -> tuple[str, ...] | None:
        """The texts of answers, with the space that is due before them."""
        texts = self.values.answers(formulas, chosen)
        if texts is None or not self._space:
            return texts
        return tuple(text if text[0].isspace() else f" {text}" for text in texts)
