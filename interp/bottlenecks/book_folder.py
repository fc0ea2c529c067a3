"""A folder of codebooks fitted at many sites of one model.

::

    manifest.json        format, the model, the sites, how and on which text they were fitted; written last
    a0/  a1/  m5/  …     one book each, as Codebook.save writes it
"""

import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.bottlenecks.base import CONFIG_FILE, load_bottleneck
from interp.bottlenecks.codebook import Codebook
from interp.files import write_json
from interp.models import Model, Site, describe_model, weights_digest
from interp.tasks.errors import InputError

FORMAT = 1
MANIFEST = "manifest.json"
_ALWAYS_SAME = (
    "architecture",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "d_model",
    "d_head",
    "d_vocab",
    "weights",
)
"""What must agree between the model that books were fitted on and the one they are put into."""


@dataclass(frozen=True)
class BookFolder:
    """Finished codebooks on disk.

    Attributes:
        manifest: ``model``, ``sites``, ``fit``, ``text``, ``versions``.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def sites(self) -> list[str]:
        return list(self.manifest["sites"])

    @classmethod
    def exists(cls, folder: Path) -> bool:
        return (Path(folder) / MANIFEST).is_file()

    @classmethod
    def open(cls, folder: Path) -> "BookFolder":
        """Read the manifest.

        Raises:
            InputError: no finished codebooks there, or a manifest of another format.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            unfinished = any(folder.glob("*/" + CONFIG_FILE)) or (folder / ".work").is_dir()
            why = (
                "they are not finished; the same fit command goes on"
                if unfinished
                else f"no {MANIFEST} there"
            )
            raise InputError(f"{folder} is no folder of codebooks: {why}")
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"cannot read {path}: {error}") from None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise InputError(f"{path} is not of format {FORMAT}, which this version reads")
        missing = [key for key in ("model", "sites", "fit", "text") if key not in manifest]
        if missing:
            raise InputError(f"{path} lacks {', '.join(missing)}")
        return cls(folder, manifest)

    @classmethod
    def finish(cls, folder: Path, request: Mapping[str, Any], leftovers: Path) -> "BookFolder":
        """Write the manifest, which makes the books a whole, and delete what was only needed on the way."""
        versions = {name: importlib.metadata.version(name) for name in ("torch", "transformer-lens")}
        write_json(folder / MANIFEST, {"format": FORMAT, **request, "versions": versions})
        shutil.rmtree(leftovers, ignore_errors=True)
        return cls.open(folder)

    @staticmethod
    def book(folder: Path, site: Site | str) -> Path:
        return Path(folder) / str(site)

    @classmethod
    def has_book(cls, folder: Path, site: Site) -> bool:
        # the configuration is written after the weights
        return (cls.book(folder, site) / CONFIG_FILE).is_file()

    def check_model(self, model: Model) -> None:
        """Raise :class:`InputError` unless the books were fitted on this model."""
        theirs, ours = self.manifest["model"], model_identity(model)
        for key in _ALWAYS_SAME:
            if theirs.get(key) != ours[key]:
                raise InputError(
                    f"{self.folder} holds codebooks of {theirs.get('spec')} ({key} {theirs.get(key)}), "
                    f"not of {ours['spec']} ({key} {ours[key]})"
                )


def load_codebooks(folder: Path, model: Model, *, k: int | None = None) -> dict[str, Codebook]:
    """The codebooks of a folder by site, on the model's device, ready for :func:`~interp.bottlenecks.attach.attach`.

    Args:
        k: fewer codes per vector than the books were fitted for; possible unless a vector is a plain sum of its most
            similar codes, whose lengths are fitted for one k.

    Raises:
        InputError: no codebooks there, another model's, or a k that they cannot have.
    """
    found = BookFolder.open(folder)
    found.check_model(model)
    device = next(model.parameters()).device
    books = {site: load_bottleneck(found.book(folder, site)) for site in found.sites}
    if k is not None:
        books = {site: book.with_k(k) for site, book in books.items()}
    return {site: book.to(device) for site, book in books.items()}


def model_identity(model: Model) -> dict[str, Any]:
    """What tells models apart, and the precision this one runs in."""
    known = {key: value for key, value in describe_model(model).items() if key != "device"}
    return known | {"weights": weights_digest(model)}
