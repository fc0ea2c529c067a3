"""Bottlenecks on the Hugging Face hub: a repository holds the files of a bottleneck's folder and a model card."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from interp.errors import InputError
from interp.files import write_text

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FAILURES = (OSError, HTTPError, HFValidationError)

CARD = """---
library_name: interp-codes
tags: [{kind}, interpretability]
---

# {name}

A bottleneck that turns activations of a language model into discrete codes.

```python
from interp.bottlenecks import load_bottleneck

bottleneck = load_bottleneck("{name}")
```
"""


def fetch(
    source: str | Path, files: list[str], *, revision: str | None = None, token: str | None = None
) -> Path:
    """The folder ``source`` if it is one, else the folder to which the hub's repository of that name was downloaded.

    A ``Path`` and a text that is no ``owner/name`` are always local, and returned whether they exist or not.

    Raises:
        InputError: the repository cannot be had.
    """
    if isinstance(source, Path) or Path(source).is_dir() or not _ID.fullmatch(source):
        return Path(source)
    try:
        return Path(snapshot_download(source, revision=revision, token=token, allow_patterns=files))
    except _FAILURES as error:
        raise InputError(f"{source!r} is no folder here, and {_reason(error)}") from error


def push(
    save: Callable[[Path], None],
    name: str,
    kind: str,
    *,
    message: str,
    private: bool | None,
    token: str | None,
    revision: str | None,
) -> str:
    """Upload what ``save`` writes into a folder, and a model card; returns the commit's address.

    Raises:
        InputError: the hub cannot be reached or refuses.
    """
    with tempfile.TemporaryDirectory(prefix="bottleneck-") as temporary:
        folder = Path(temporary)
        save(folder)
        write_text(folder / "README.md", CARD.format(name=name, kind=kind))
        try:
            api = HfApi(token=token)
            name = api.create_repo(name, private=private, exist_ok=True).repo_id
            commit = api.upload_folder(
                repo_id=name, folder_path=folder, commit_message=message, revision=revision
            )
        except _FAILURES as error:
            raise InputError(f"cannot push to {name!r}: {_reason(error)}") from error
    return str(commit.commit_url)


def _reason(error: Exception) -> str:
    causes = [error, error.__cause__, error.__context__]
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return "access to it must be granted first (log in with `hf auth login`)"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return "the Hugging Face hub has no such repository, or not for you (`hf auth login`)"
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return "the repository has no such revision"
    if isinstance(error, HFValidationError):
        return "that is no name of a repository (owner/name)"
    response = getattr(error, "response", None)
    if response is not None:
        return f"the Hugging Face hub answered {response.status_code} (log in with `hf auth login`)"
    return "the Hugging Face hub could not be reached"
