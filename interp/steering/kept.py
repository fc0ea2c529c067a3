"""Codes that were found are kept: the same texts through the same model and codebooks need not be read again.

Those of the seven topics with the codebooks of the package come with it; others lie in a folder, a file each.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from interp.bottlenecks.book_folder import books_fingerprint
from interp.bottlenecks.codebook import Codebook
from interp.files import write_json
from interp.models import Model, weights_digest
from interp.steering.find import FoundCodes

SHIPPED = Path(__file__).parent / "data" / "found.json"
_METHOD = 1
"""Raised whenever the same request finds other codes."""


def identity(model: Model, codebooks: Mapping[str, Codebook]) -> str:
    """Tells apart models with codebooks, wherever they lie."""
    slots = {site: book.config.k for site, book in codebooks.items()}
    return _digest([weights_digest(model), books_fingerprint(codebooks), slots])


def request_key(made_with: str, positive: Sequence[str], negative: Sequence[str], by: str, seed: int) -> str:
    """A name for what :func:`~interp.steering.find_codes` would find.

    Args:
        made_with: the :func:`identity` of model and codebooks.
    """
    return _digest([_METHOD, made_with, list(positive), list(negative), by, seed])


def recall(folder: Path, key: str) -> FoundCodes | None:
    """What was found for a request, if it is known; a damaged file counts as none."""
    stored = _shipped().get(key)
    try:
        if stored is None:
            stored = json.loads(_file(folder, key).read_text(encoding="utf-8"))
        return FoundCodes.from_json(stored)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def keep(folder: Path, key: str, found: FoundCodes) -> None:
    write_json(_file(folder, key), found.to_json())


def _digest(value: list) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:24]


def _file(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"


@cache
def _shipped() -> dict[str, dict]:
    return json.loads(SHIPPED.read_text(encoding="utf-8"))["found"] if SHIPPED.is_file() else {}
