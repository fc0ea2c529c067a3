"""Datasets of the Hugging Face hub, or local folders, by the ``datasets`` library (imported when one is read)."""

import os
from collections.abc import Iterator
from pathlib import Path

from interp.models import Model
from interp.progress import Stage, silent
from interp.tasks.errors import InputError

_MOST_EMPTY = 1000
"""Rows without a text, one after another, after which a column is taken for one that has none."""
_FORM = "datasets:NAME[:CONFIG[:SPLIT[:COLUMN]]]"


class HubText:
    """One text column of a dataset, streamed in the dataset's own order, so that a large one is not fetched whole.

    Without a config the dataset's default is taken, without a split ``train``, without a column ``text``.
    """

    endless = True

    def __init__(self, options: str) -> None:
        self.spec = f"datasets:{options}"
        name, *rest = options.split(":")
        if not name or len(rest) > 3:
            raise InputError(f"text {self.spec!r}: write {_FORM}")
        self.name = name
        config, split, column = (*rest, "", "", "")[:3]
        self.config, self.split, self.column = config or None, split or "train", column or "text"

    def documents(self, model: Model | None, *, seed: int, stage: Stage = silent) -> Iterator[str]:  # noqa: ARG002
        from datasets import load_dataset

        local = Path(os.path.expanduser(self.name))
        name = str(local) if local.is_dir() else self.name
        rows, empty = None, 0
        while True:
            try:
                if rows is None:
                    rows = iter(load_dataset(name, self.config, split=self.split, streaming=True))
                row = next(rows, None)
            except Exception as error:  # the library raises whatever its readers raise, at any row
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
                raise InputError(f"cannot load the dataset {self.spec!r}: {reason}") from None
            if row is None:
                return
            if row.get(self.column, "") is None and empty < _MOST_EMPTY:  # a column may have gaps
                empty += 1
                continue
            if not isinstance(row.get(self.column), str):
                texts = [name for name, value in row.items() if isinstance(value, str)]
                raise InputError(
                    f"the dataset {self.spec!r} has no text column {self.column!r}: "
                    f"it has {', '.join(texts) or 'none'} ({_FORM})"
                )
            empty = 0
            if row[self.column]:
                yield row[self.column]
