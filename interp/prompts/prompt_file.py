"""A task of the user's own, read from a file of prompts, and any task's prompts written to one."""

import codecs
import os.path
import weakref
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from interp.errors import InputError, TooFewPairs
from interp.files import readable, write_json
from interp.prompts.encoding import PromptEncoder
from interp.prompts.pairs import Metric, PromptPair, PromptPairs, Value
from interp.prompts.sampling import check_request, seeded

_Model = TypeVar("_Model", bound=BaseModel)
FORMAT = (
    '{"prompts": [{"clean": …, "corrupt": …, "answers": […], "wrong_answers": […], '
    '"roles": {role: [piece, occurrence]}, "variables": {"clean": {name: value}, "corrupt": {name: value}}}]}; '
    "roles and variables may be left out"
)


def _without_end(roles: dict) -> dict:
    """``END`` is always the last token."""
    return {role: place for role, place in roles.items() if role.lower() != "end"}


Text = Annotated[str, Field(min_length=1)]
Roles = Annotated[dict[Text, Annotated[int, Field(ge=0)]], AfterValidator(_without_end)]
"""Token index by role, counted without BOS."""
Pieces = Annotated[
    dict[Text, Annotated[tuple[Text, Annotated[int, Field(ge=1)]], Field(strict=False)]], AfterValidator(_without_end)
]
"""By role a piece of the clean text, and which occurrence of it."""


class Sides(BaseModel, strict=True, frozen=True, extra="forbid"):
    """Variables of both prompts, by name."""

    clean: dict[Text, Value]
    corrupt: dict[Text, Value]

    @model_validator(mode="after")
    def _same_names(self) -> "Sides":
        if different := set(self.clean) ^ set(self.corrupt):
            raise ValueError(f"one side lacks {', '.join(sorted(different))}: null stands for no value")
        return self


class FilePrompt(BaseModel, strict=True, frozen=True):
    """One entry of a prompt file."""

    clean: Text
    corrupt: Text
    answers: Annotated[list[Text], Field(min_length=1)]
    wrong_answers: Annotated[list[Text], Field(min_length=1)]
    word_idxs: Roles = {}
    roles: Pieces = {}
    variables: Sides | None = None


class _Document(BaseModel, strict=True):
    prompts: Annotated[list[FilePrompt], Field(min_length=1)]
    word_idxs: Roles = {}
    metric: Metric = "logit_diff"


def parse_prompts(data: bytes, path: Path) -> _Document:
    """The prompts of a ``.jsonl`` file, or of a JSON file, and the metric to score them by; ``path`` is not read."""
    data = data.removeprefix(codecs.BOM_UTF8)
    if path.suffix.lower() != ".jsonl":
        return validated(_Document, data, str(path), FORMAT)
    # only "\n" ends a line: JSON text may hold other Unicode line separators
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path} holds no prompt")
    prompts = [validated(FilePrompt, line, f"{path}, line {n}", FORMAT) for n, line in lines]
    return _Document(prompts=prompts)


def validated(kind: type[_Model], data: bytes, source: str, form: str) -> _Model:
    """The JSON in ``data`` as ``kind``; what is wrong with it is an :class:`InputError` that says the form."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        whole = first["type"] in ("missing", "json_invalid", "value_error")  # which say themselves what was given
        given = "" if whole else f", not {first['input']!r:.60}"
        message = first["msg"].removeprefix("Value error, ")
        wrong = f"{source}: {place.lstrip('.')} {message}{given} (the form is {form})"
        raise InputError(" ".join(wrong.split())) from None


def read_file(path: Path) -> bytes:
    """What a prompt file holds; a file that cannot be read is an :class:`InputError`."""
    try:
        return readable(path).read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


class TaskFile:
    """A task in a file of the user's, read once: the file may be another by the time it is sampled."""

    most: int  # pairs that it has at most, whatever the tokenizer
    default_n: int

    def __init__(self, path: str | Path, data: bytes | None = None) -> None:
        """Read the file; or ``data``, what it holds, where it lies nowhere, such as an upload: ``path`` is then only
        its name."""
        self.path = Path(path)
        self.name = str(path)
        self.metric: Metric = "logit_diff"
        self.data = read_file(self.path) if data is None else data


class PromptFile(TaskFile):
    """Prompts from a JSON file in auto-circuit's format or a JSONL file with the same keys on each line.

    JSON::

        {"prompts": [{"clean": "…", "corrupt": "…", "answers": [" Mary"], "wrong_answers": [" John"]}],
         "word_idxs": {"IO": 2}, "metric": "logit_diff"}

    A prompt may name roles by a piece of its clean text and which occurrence of it is meant, ``"roles": {"S2":
    ["John", 2]}``: the role is the piece's last token, and stands at the same index in the corrupt prompt. It may say
    what varies, ``"variables": {"clean": {"S": "John"}, "corrupt": {"S": null}}``; then all of them do, with the same
    names, and a variable's values are of one type.

    ``word_idxs`` gives token positions counted *without* BOS, as in auto-circuit, and may also stand in
    single prompts (where templates differ), whose entries go before. ``END`` is always the last token; an
    ``end`` in the file is not read. ``metric`` is optional: ``logit_diff`` unless the file says otherwise
    (JSONL: always).

    Answers are read as what follows the prompt, so they usually begin with a space. Answers of several
    tokens are scored by the first token at which answers and wrong answers differ; what they share before it
    is appended to both prompts, and ``notes`` says how many pairs that concerns.

    Dropped and counted: pairs of unequal token lengths (``lengths``), whose clean and corrupt prompt are the same
    (``equality``), whose answers and wrong answers have no token that tells them apart (``answers``), and that stand in
    the file before (``repetition``).
    """

    roles: tuple[str, ...]
    counterfactuals = ("file",)

    def __init__(self, path: str | Path, data: bytes | None = None) -> None:
        """Read and check the file, see :class:`TaskFile`."""
        super().__init__(path, data)
        document = parse_prompts(self.data, self.path)
        self.prompts, self.metric = document.prompts, document.metric
        self._roles = [document.word_idxs | prompt.word_idxs for prompt in self.prompts]
        _check_variables(self.prompts, self.name)
        named = zip(self._roles, self.prompts, strict=True)
        roles = dict.fromkeys(role for by_index, prompt in named for role in (*by_index, *prompt.roles))
        self.roles = (*roles, "END")
        self.most = len(self.prompts)
        self.default_n = min(100, self.most)
        # how many pairs there are is found by sampling again and again: the file is encoded once for it
        self._encoded: tuple[weakref.ref, bool, list[tuple[PromptPair, bool]], Counter[str]] | None = None

    def sample(
        self, tokenizer: Any, n: int, seed: int = 0, counterfactual: str | None = None, *, bos: bool = True
    ) -> PromptPairs:
        """Return ``n`` different pairs of the file; ``seed`` picks which, and in which order."""
        kind = check_request(self, n, counterfactual)
        known = self._encoded  # read once: another thread may ask for another tokenizer
        if known is None or known[0]() is not tokenizer or known[1] != bos:
            known = self._encoded = (weakref.ref(tokenizer), bos, *self._encode(tokenizer, bos))
        usable, dropped = list(known[2]), known[3]
        if n > len(usable):
            raise self._shortage(n, len(usable), dropped)
        seeded("prompt-file", seed).shuffle(usable)
        chosen = usable[:n]
        return PromptPairs(
            [pair for pair, _ in chosen],
            task=self.name,
            metric=self.metric,
            counterfactual=kind,
            seed=seed,
            bos=bos,
            dropped=dict(dropped),
            notes=long_answers(sum(long_answer for _, long_answer in chosen), n),
        )

    def _encode(self, tokenizer: Any, bos: bool) -> tuple[list[tuple[PromptPair, bool]], Counter[str]]:
        """The usable pairs in the file's order, and how many of the others are dropped for what."""
        encoder = PromptEncoder(tokenizer, bos)
        dropped: Counter[str] = Counter()
        usable: list[tuple[PromptPair, bool]] = []
        seen: set[tuple] = set()
        for i, (prompt, roles) in enumerate(zip(self.prompts, self._roles, strict=True)):
            built = build_pair(encoder, prompt, roles, f"{self.name}: prompts[{i}]")
            if isinstance(built, str):
                dropped[built] += 1
            elif built[0].identity in seen:
                dropped["repetition"] += 1
            else:
                seen.add(built[0].identity)
                usable.append(built)
        return usable, dropped

    def _shortage(self, n: int, usable: int, dropped: Counter[str]) -> TooFewPairs:
        causes = ", ".join(f"{count} dropped for their {cause}" for cause, count in dropped.items())
        if "equality" in dropped:
            causes += ": clean and corrupt are the same"
        reason = f" ({causes})" if causes else ""
        if not usable:
            return TooFewPairs(
                f"{self.name}: no usable pair among {len(self.prompts)} with this tokenizer{reason}: a pair "
                "needs two prompts of equal token length and answers that differ from the wrong ones"
            )
        return TooFewPairs(
            f"{self.name}: {n} pairs asked for, but {usable} of {len(self.prompts)} are usable with this "
            f"tokenizer{reason}: ask for an n of at most {usable}"
        )


def long_answers(several: int, n: int) -> tuple[str, ...]:
    """The note on pairs whose answers are several tokens, if there are any."""
    note = (
        f"{several} of {n} pairs have answers of several tokens: they are scored by the first token at "
        "which answers and wrong answers differ, with what they share before it appended to both prompts"
    )
    return (note,) if several else ()


def write_prompt_file(pairs: PromptPairs, path: str | Path, tokenizer: Any) -> None:
    """Write pairs as JSON in auto-circuit's format, atomically; ``PromptFile`` reads them back.

    Answers are written as the text that their token adds after the prompt. Positions are written without BOS: once at
    the top where all pairs share them, with every prompt where not (auto-circuit reads only the former).
    """
    bos_id = getattr(tokenizer, "bos_token_id", None)
    shift = int(pairs.bos and bos_id is not None)
    roles = [{role: index - shift for role, index in pair.positions.items() if role != "END"} for pair in pairs]
    shared = all(positions == roles[0] for positions in roles)
    prompts: list[dict[str, Any]] = []
    for pair, positions in zip(pairs, roles, strict=True):
        entry: dict[str, Any] = {"clean": pair.clean, "corrupt": pair.corrupt}
        for key in ("answers", "wrong_answers"):
            entry[key] = [_added_text(tokenizer, pair, token, shift) for token in getattr(pair, key)]
        entry |= {"variables": pair.variables} if pair.variables else {}
        prompts.append(entry if shared else {**entry, "word_idxs": positions})
    top = {"word_idxs": roles[0]} if shared and roles else {}
    write_json(Path(path), {"metric": pairs.metric, "prompts": prompts, **top})


def _added_text(tokenizer: Any, pair: PromptPair, token: int, shift: int) -> str:
    # decoding a token alone would lose the leading space with SentencePiece tokenizers
    head = list(pair.clean_tokens[shift:])
    before = tokenizer.decode(head, clean_up_tokenization_spaces=False)
    return tokenizer.decode([*head, token], clean_up_tokenization_spaces=False)[len(before) :]


def build_pair(
    encoder: PromptEncoder, prompt: FilePrompt, roles: dict[str, int], source: str
) -> tuple[PromptPair, bool] | str:
    """The pair of one entry, by which files of all kinds are read, and whether an answer has several tokens; or what is
    wrong: ``lengths``, ``equality`` or ``answers``. ``roles`` are token indices without BOS."""
    clean, corrupt = encoder.encode(prompt.clean), encoder.encode(prompt.corrupt)
    if len(clean) != len(corrupt) or not clean:
        return "lengths"
    if clean == corrupt:
        return "equality"
    for role, position in roles.items():
        if position >= len(clean):
            raise InputError(
                f"{source} has {len(clean)} tokens with this tokenizer, but word_idxs puts {role} at {position}"
            )
    right, wrong = (
        [encoder.continuation(prompt.clean, answer) for answer in answers]
        for answers in (prompt.answers, prompt.wrong_answers)
    )
    shared = len(os.path.commonprefix([*right, *wrong]))
    if any(len(tokens) <= shared for tokens in (*right, *wrong)):
        return "answers"
    sides = (right, wrong)
    answers, wrong_answers = (tuple(dict.fromkeys(ids[shared] for ids in side)) for side in sides)
    if set(answers) & set(wrong_answers):
        return "answers"
    start = right[0][:shared]
    added = encoder.tokenizer.decode(list(start), clean_up_tokenization_spaces=False) if start else ""
    clean_tokens = (*encoder.bos, *clean, *start)
    pieces = {
        role: encoder.ends(prompt.clean, piece, occurrence, f"{source}: role {role}")
        for role, (piece, occurrence) in prompt.roles.items()
    }
    positions = {role: position + len(encoder.bos) for role, position in {**roles, **pieces}.items()}
    pair = PromptPair(
        clean=prompt.clean + added,
        corrupt=prompt.corrupt + added,
        clean_tokens=clean_tokens,
        corrupt_tokens=(*encoder.bos, *corrupt, *start),
        answers=answers,
        wrong_answers=wrong_answers,
        positions={**positions, "END": len(clean_tokens) - 1},
        variables={} if prompt.variables is None else prompt.variables.model_dump(),
    )
    return pair, any(len(tokens) > 1 for tokens in (*right, *wrong))


def _check_variables(prompts: list[FilePrompt], name: str) -> None:
    """Raise :class:`InputError` unless all prompts have the same variables, each of one type."""
    types: dict[str, type] = {}
    first = prompts[0].variables
    for i, prompt in enumerate(prompts):
        names = None if prompt.variables is None else set(prompt.variables.clean)
        if names != (None if first is None else set(first.clean)):
            raise InputError(f"{name}: prompts[{i}] lacks the variables of prompts[0], or has others")
        for side in () if prompt.variables is None else (prompt.variables.clean, prompt.variables.corrupt):
            for variable, value in side.items():
                if value is not None and types.setdefault(variable, type(value)) is not type(value):
                    raise InputError(
                        f"{name}: prompts[{i}]: variable {variable} is {value!r} here and a "
                        f"{types[variable].__name__} elsewhere: all its values are of one type, or null"
                    )
