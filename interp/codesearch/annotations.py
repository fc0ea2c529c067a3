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
MOST = 2000
"""Characters of a note."""
PATIENCE = 10.0
"""Seconds that a writer waits for another one."""


@dataclass(frozen=True)
class Annotation:
    """What somebody kept about one code."""

    star: bool = False
    text: str = ""


class Annotations:
    """The notes on the codes of some codebooks.

    Args:
        path: the file, which need not exist.
        books: the codebooks' fingerprint, see :func:`~interp.bottlenecks.store.codebooks_fingerprint`.
    """

    def __init__(self, path: Path, books: str) -> None:
        self.path, self.books = Path(path), books

    def all(self) -> dict[tuple[str, int], Annotation]:
        """Every code that has a star or a note, by book and id.

        Raises:
            InputError: a damaged file.
        """
        found = self._read().get(self.books, {})
        try:
            return {
                parse_code(name): Annotation(bool(n["star"]), str(n["text"])) for name, n in found.items()
            }
        except (AttributeError, KeyError, TypeError, ValueError):
            raise self._damaged() from None

    def write(
        self,
        book: str,
        code: int,
        *,
        star: bool | None = None,
        text: str | None = None,
        was: str | None = None,
    ) -> Annotation:
        """Change what is given and leave the rest; a note without star and text is removed.

        Args:
            was: the text that ``text`` is to replace, if only that one.

        Raises:
            InputError: a note that is too long or no Unicode text, or that was changed meanwhile; a damaged file, or
                one that cannot be written.
        """
        if text is not None:
            check_unicode(text)
            if len(text) > MOST:
                raise InputError(f"a note of {len(text)} characters: at most {MOST} are kept")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=PATIENCE):
                note = self.all().get((book, code), Annotation())
                if star is not None:
                    note = replace(note, star=star)
                if text is not None:
                    if was is not None and note.text not in (was, text.strip()):
                        raise InputError(
                            f"this note was changed meanwhile, to {note.text!r}, so yours was not kept; it was: {text}"
                        )
                    note = replace(note, text=text.strip())
                annotations = self._read()
                own = dict(annotations.get(self.books, {}))
                own.pop(code_name(book, code), None)
                if note != Annotation():
                    own[code_name(book, code)] = asdict(note)
                write_json(self.path, {"format": FORMAT, "annotations": {**annotations, self.books: own}})
        except Timeout:
            raise InputError(f"{self.path} is locked by another process: try again") from None
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}") from None
        return note

    def _read(self) -> dict[str, Any]:
        """Notes by codebooks."""
        try:
            found = read_json(self.path)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            raise self._damaged() from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise InputError(f"{self.path} is not of format {FORMAT}, which this version reads")
        if not isinstance(found.get("annotations"), dict):
            raise self._damaged()
        return found["annotations"]

    def _damaged(self) -> InputError:
        return InputError(f"{self.path} is damaged: mend it, or move it away to begin anew")
