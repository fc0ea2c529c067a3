"""Codes that were found are kept: the same texts through the same model and codebooks need not be read again.

Those of the seven topics with the shipped codebooks come with the package; others lie in a folder, a file each.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from torch import Tensor

from interp.bottlenecks.dictionary import Dictionary
from interp.bottlenecks.kinds.codebook import Codebook
from interp.bottlenecks.store import codebooks_fingerprint
from interp.files import read_json, write_json
from interp.models import Model, weights_digest
from interp.progress import Stage, silent
from interp.steering.code_set import CodeSet, FoundCode, Verdict
from interp.steering.find import RANKINGS, find_codes

SHIPPED = Path(__file__).parent / "data" / "found.json"
FINDER = 7  # raised whenever the same request finds other codes

_CODE, _VERDICT = ([field.name for field in dataclasses.fields(kind)] for kind in (FoundCode, Verdict))


def identity(model: Model, codebooks: Mapping[str, Dictionary]) -> str:
    """Tells apart models with codebooks, wherever they lie."""
    slots = {site: _beside_codes(book) for site, book in codebooks.items()}
    return _digest([weights_digest(model), codebooks_fingerprint(codebooks), slots])


def _beside_codes(book: Dictionary) -> int | list:
    """What else than codes matters of a book: k, how it chooses, and the counts, by which the mean is taken.

    Books of the kind that is fitted at heads have been kept under k alone; there the mean is small.
    """
    config = book.config

    def hashed(tensor: Tensor) -> str:
        return hashlib.sha256(tensor.detach().cpu().numpy().tobytes()).hexdigest()[:16]

    if not isinstance(book, Codebook):
        others = [tensor for name, tensor in book.tensors().items() if name != "codes"]
        return [config.k, book.kind, *map(hashed, others)]
    how = [book.kind, book.config.selection, book.config.magnitude]
    if config.groups > 1 and how == ["metric_codebook", "matching_pursuit", "unit"]:
        return config.k
    usual = how == ["codebook", "matching_pursuit", "unit"]
    return [config.k, hashed(book.counts), *([] if usual else how)]


def request_key(made_with: str, positive: Sequence[str], negative: Sequence[str], by: str, seed: int) -> str:
    """A name for what :func:`~interp.steering.find` would find by a model with codebooks of this :func:`identity`."""
    return _digest([FINDER, made_with, list(positive), list(negative), by, seed])


def recall(folder: Path | None, key: str) -> CodeSet | None:
    """What was found for a request, if it is known: in a folder, or with the package. A damaged file counts as none."""
    try:
        stored = _shipped().get(key)
        if stored is None and folder is not None:
            stored = read_json(folder / f"{key}.json")
        return None if stored is None else CodeSet.from_json(stored)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def find_or_recall(
    model: Model,
    codebooks: Mapping[str, Dictionary],
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    by: str = RANKINGS[0],
    seed: int = 0,
    stage: Stage = silent,
) -> CodeSet:
    """As :func:`~interp.steering.find`, unless what that would find comes with the package."""
    key = request_key(identity(model, codebooks), positive, negative, by, seed)
    return recall(None, key) or find_codes(model, codebooks, positive, negative, by=by, seed=seed, stage=stage)


def keep(folder: Path, key: str, code_set: CodeSet) -> None:
    write_json(folder / f"{key}.json", code_set.to_json())


def _digest(value: list) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:24]


@cache
def _shipped() -> dict[str, dict]:
    code_sets = read_json(SHIPPED)["found"]
    for code_set in code_sets.values():  # a row a code, to be short
        code_set["codes"] = [dict(zip(_CODE, row, strict=True)) for row in code_set["codes"]]
        for code in code_set["codes"]:
            code["verdict"] = code["verdict"] and dict(zip(_VERDICT, code["verdict"], strict=True))
    return code_sets
