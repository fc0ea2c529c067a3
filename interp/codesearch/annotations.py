"""Stars and notes on codes: one JSON file, which belongs to the codebooks, so that every index of them shows the same.

A write reads the file, changes one entry and replaces the file, all under a lock: of two writers neither loses what
the other wrote.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from interp.bottlenecks.edits import code_name, parse_code
from interp.errors import InputError
from interp.files import read_json, write_json
from interp.text.special import check_unicode

FORMAT = 1
MOST = 2000  # characters of a note
PATIENCE = 10.0  # seconds that a writer waits for another one


@dataclass(frozen=True)
class Annotation:
    """What somebody kept about one code."""

    star: bool = False
    text: str = ""


class Annotations:
    """The notes on the codes of some codebooks. ``path``: the file, which need not exist. ``books``: the codebooks'
    fingerprint, see :func:`~interp.bottlenecks.store.codebooks_fingerprint`."""

    def __init__(self, path: Path, books: str) -> None:
        self.path, self.books = Path(path), books

    def all(self) -> dict[tuple[str, int], Annotation]:
        """Every code that has a star or a note, by book and id; :class:`InputError` for a damaged file."""
        return self._read()[1]

    def write(
        self, book: str, code: int, *, star: bool | None = None, text: str | None = None, was: str | None = None
    ) -> Annotation:
        """Change what is given and leave the rest; a note without star and text is removed.

        :class:`InputError` where the text is no more ``was``, what it is to replace, or cannot be kept.
        """
        if text is not None:
            check_unicode(text)
            if len(text) > MOST:
                raise InputError(f"a note of {len(text)} characters: at most {MOST} are kept")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=PATIENCE):
                stored, notes = self._read()
                note = notes.get((book, code), Annotation())
                if star is not None:
                    note = replace(note, star=star)
                if text is not None:
                    if was is not None and note.text not in (was, text.strip()):
                        raise InputError(
                            f"this note was changed meanwhile, to {note.text!r}, so yours was not kept; it was: {text}"
                        )
                    note = replace(note, text=text.strip())
                notes[book, code] = note
                kept = {code_name(*key): asdict(n) for key, n in notes.items() if n != Annotation()}
                write_json(self.path, {"format": FORMAT, "annotations": {**stored, self.books: kept}})
        except Timeout:
            raise InputError(f"{self.path} is locked by another process: try again") from None
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}") from None
        return note

    def _read(self) -> tuple[dict[str, Any], dict[tuple[str, int], Annotation]]:
        """What is stored, by codebooks, and the notes on these."""
        try:
            file = read_json(self.path)
            if isinstance(file, dict) and file.get("format") == FORMAT:
                stored = file["annotations"]
                notes = {
                    parse_code(name): Annotation(bool(note["star"]), str(note["text"]))
                    for name, note in stored.get(self.books, {}).items()
                }
                return stored, notes
        except FileNotFoundError:
            return {}, {}
        except (OSError, AttributeError, KeyError, TypeError, ValueError):
            raise InputError(f"{self.path} is damaged: mend it, or move it away to begin anew") from None
        raise InputError(f"{self.path} is not of format {FORMAT}, which this version reads")
