"""An index opened for many questions: what the first of them would wait for is read at once."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from interp.codesearch.index import CodeIndex
from interp.tasks.errors import InputError


def ready_index(folder: Path, books_within: Sequence[Path]) -> CodeIndex:
    """Open an index and read its text and its codebooks, where these may be read and are there.

    Raises:
        InputError: as :meth:`CodeIndex.open`; a text that is not that of its tokens; a file that is a link to another
            place.
    """
    import polars  # noqa: F401 - the engine of regular expressions

    for path in folder.iterdir():
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{path} is a link to another place, which is not followed")
    index = CodeIndex.open(folder, books_within=books_within)
    index.corpus.document_bytes  # noqa: B018 - kept by the corpus
    with contextlib.suppress(InputError):  # whoever asks for them is told why
        index.codebooks()
    return index
