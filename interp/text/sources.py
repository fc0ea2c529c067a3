"""Sources of text by their spec; several are joined with ``+``.

=================================== ================================================================
spec                                documents
=================================== ================================================================
``stdlib``                          docstrings of Python's standard library
``self``                            the model's own samples
a file or folder                    ``.txt`` (split at blank lines into documents), ``.jsonl``
``datasets:NAME[:CONFIG[:SPLIT[:COLUMN]]]``  a dataset of the Hugging Face hub, or a local folder of one
=================================== ================================================================

A new source is one class with ``documents`` and one line in :data:`SOURCES`.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from interp.models import Model
from interp.progress import Stage, silent
from interp.tasks.errors import InputError
from interp.text.files import FileText
from interp.text.hub import HubText
from interp.text.samples import ModelSamples
from interp.text.stdlib import StdlibText

Document = str | tuple[int, ...]
"""A text, or token ids without special tokens at either end."""


@runtime_checkable
class TextSource(Protocol):
    """
    Attributes:
        spec: what it was opened with.
        endless: whether ``documents`` never stops; else all documents are drawn in an order that depends on the seed.
    """

    spec: str
    endless: bool

    def documents(self, model: Model, *, seed: int, stage: Stage = silent) -> Iterator[Document]:
        """Documents of both splits, the same for the same seed."""
        ...


SOURCES: dict[str, Callable[[str], TextSource]] = {
    "stdlib": StdlibText,
    "self": ModelSamples,
    "datasets": HubText,
}
"""Constructors, which take the part of the spec after the colon."""


def open_sources(spec: str) -> list[TextSource]:
    """The sources that a spec names; nothing is read yet.

    Raises:
        InputError: a name that is neither a source nor a file.
    """
    return [_open(part.strip()) for part in _split(spec)]


def _split(spec: str) -> Iterator[str]:
    """The parts between plus signs; the most of them that are the name of a file together are one."""
    parts = spec.split("+")
    while parts:
        names = ("+".join(parts[:n]).strip() for n in range(len(parts), 1, -1))
        name = next(
            (n for n in names if Path(os.path.expanduser(n.removeprefix("datasets:"))).exists()), parts[0]
        )
        yield name
        parts = parts[name.count("+") + 1 :]


def _open(part: str) -> TextSource:
    name, _, rest = part.partition(":")
    if name in SOURCES and (not rest or name == "datasets"):
        return SOURCES[name](rest)
    path = Path(os.path.expanduser(part))  # Path.expanduser fails for a user that there is not
    if part and path.exists():
        return FileText(path)
    raise InputError(
        f"text {part!r} is neither a source nor a file that exists: choose stdlib, self, "
        "a .txt or .jsonl file, a folder of them, or datasets:NAME (several joined with +)"
    )
