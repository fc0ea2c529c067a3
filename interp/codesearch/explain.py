"""Explanations of codes by a language model that the user names, judged by detection on other text.

Nothing is asked unless an endpoint is given. The documents are split in two, as for labels. From one half the model
sees tokens at which the code is on, and says in a few words what they have in common. From the other half it sees
tokens with the code and as many without it, mixed, and says at which of them that holds: *detection* (Paulo et al.
2024, arXiv 2410.13928). The null asks the same with the explanation of another code.
"""

import json
import re
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from typing import Any

import numpy as np
from filelock import FileLock
from pydantic import TypeAdapter

from interp.bottlenecks.edits import code_name
from interp.codesearch.contexts import context_at, spaced
from interp.codesearch.index import CodeIndex
from interp.codesearch.patterns import halves
from interp.errors import InputError, one_line
from interp.files import read_json, write_json
from interp.progress import Stage, silent

FILE = "explanations.json"
SHOWN, ASKED = 12, 10
"""Tokens from which a code is explained, and tokens with and without it of which the model says whether it is on."""
LONGEST = 80
MOST_BYTES, SECONDS = 2**20, 120
EXPLAIN = (
    "A feature of a language model is on at the tokens between « and ». Say in at most eight words what these tokens, "
    "or their surroundings, have in common. Answer with these words alone.\n\n{}"
)
DETECT = (
    "In which of these texts is the token between « and » one of this kind: {}? Answer with their numbers and commas "
    "alone, or 0 for none.\n\n{}"
)


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks OpenAI's chat completions, its address up to ``/v1``."""

    url: str
    model: str
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"endpoint {self.url!r}: it begins with http:// or https://")

    def __call__(self, question: str) -> str:
        """The model's answer; an :class:`InputError` if the server is not there, refuses, or says something else."""
        body = {"model": self.model, "messages": [{"role": "user", "content": question}], "temperature": 0}
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        try:
            request = urllib.request.Request(address, json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                return str(json.loads(response.read(MOST_BYTES))["choices"][0]["message"]["content"])
        except (OSError, ValueError, HTTPException) as error:
            raise InputError(f"endpoint {self.url}: {one_line(error)}") from None
        except (LookupError, TypeError):
            raise InputError(f"endpoint {self.url}: its answer is no chat completion") from None


@dataclass(frozen=True)
class Explanation:
    text: str  # what the model says; not escaped
    # model, seed: that was asked, and by which the documents were split
    model: str
    seed: int
    # precision, recall, f1: of detection, on as many tokens with the code as without; None until it was asked
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    # F1 with another code's explanation in place of this one; None where there is no other
    null: float | None = None
    n: int = 0  # tokens asked about


def explanations_of(index: CodeIndex) -> dict[str, Explanation]:
    """Those kept with an index, by code (``a12.h3=97``); none where they are of other codebooks."""
    path = index.folder / FILE
    try:
        kept = read_json(path)
        if kept["books"] != index.manifest["books"]["fingerprint"]:
            return {}
        return TypeAdapter(dict[str, Explanation]).validate_python(kept["explanations"])
    except FileNotFoundError:
        return {}
    except (LookupError, TypeError, ValueError):
        raise InputError(f"{path} is damaged: delete it and ask again") from None


def explain_codes(
    index: CodeIndex,
    codes: Sequence[tuple[str, int]],
    ask: Callable[[str], str],
    model: str,
    *,
    seed: int = 0,
    stage: Stage = silent,
) -> dict[str, Explanation]:
    """Explain codes and measure it; each answer is kept with the index, and not asked for again.

    :class:`InputError` for a code that is on or off too rarely, or a corpus of one document. ``ask`` answers a
    question, as an :class:`Endpoint` does, and ``model`` is whose answers they are.
    """
    half = halves(index.corpus, seed)
    on = {code_name(*code): index.positions(*code) for code in codes}
    for name, tokens in on.items():
        first, second = np.bincount(half[tokens], minlength=2)
        if min(first, second) < 2 or half.sum() - second < ASKED:
            raise InputError(
                f"code {name}: it is on at {first} tokens of one half of the documents and {second} of the other; "
                f"two of each are needed, and {ASKED} without it"
            )
    kept = explanations_of(index)
    same = {name for name, answer in kept.items() if (answer.model, answer.seed) == (model, seed)}
    known = {name: kept[name] for name in on if name in same}

    def keep(name: str, explanation: Explanation) -> None:
        known[name] = explanation
        with FileLock(index.folder / f".{FILE}.lock"):  # another process may ask another model
            whole = explanations_of(index) | {name: explanation}
            stored = {code: asdict(answer) for code, answer in whole.items()}
            made_with = index.manifest["books"]["fingerprint"]
            write_json(index.folder / FILE, {"books": made_with, "explanations": stored})

    with stage("asking", 2 * len(on)) as done:
        for name, tokens in on.items():
            if name not in known:
                shown = spaced(tokens[half[tokens] == 0], SHOWN)
                keep(name, Explanation(_line(ask(EXPLAIN.format(_texts(index, shown)))), model, seed))
            done(1)
        names = list(on)
        for number, (name, tokens) in enumerate(on.items()):
            if known[name].f1 is None:
                rng = np.random.default_rng([seed, number])
                with_code = spaced(tokens[half[tokens] == 1], ASKED)
                others = np.setdiff1d(np.flatnonzero(half == 1), tokens)
                without = rng.choice(others, len(with_code), replace=False)
                mixed = rng.permutation(np.concatenate([with_code, without]))
                true, texts = np.isin(mixed, with_code), _texts(index, mixed)
                asked = [known[other].text for other in [name, *names[number + 1 :], *names[:number]][:2]]
                scores, *null = (_score(ask(DETECT.format(text, texts)), true) for text in asked)
                by_other = null[0][2] if null else None
                keep(name, Explanation(known[name].text, model, seed, *scores, by_other, len(mixed)))
            done(1)
    return {name: known[name] for name in on}


def _texts(index: CodeIndex, tokens: Any) -> str:
    lines = []
    for number, token in enumerate(tokens.tolist(), 1):
        context = context_at(index, token)
        pieces = [piece.replace("\n", "\\n").replace("\r", "\\r") for piece in context.pieces]
        pieces[context.focus] = f"«{pieces[context.focus]}»"
        lines.append(f"{number}. {''.join(pieces)}")
    return "\n".join(lines)


def _line(answer: str) -> str:
    """The first line that says something, as short as a name."""
    lines = [" ".join(line.split()).strip("\"'.“” ") for line in answer.splitlines()]
    return next((line[:LONGEST] for line in lines if line), "nothing")


def _score(answer: str, true: np.ndarray) -> tuple[float, float, float]:
    numbers = [int(digits) for digits in re.findall(r"\d{1,4}", answer)]
    named = np.isin(np.arange(1, len(true) + 1), numbers)
    hits = int((named & true).sum())
    return hits / max(named.sum(), 1), hits / true.sum(), 2 * hits / max(named.sum() + true.sum(), 1)
