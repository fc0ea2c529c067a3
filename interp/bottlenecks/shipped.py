"""Codebooks that come with the package, and packing a folder for that."""

import json
import shutil
from pathlib import Path

from interp.bottlenecks.book_folder import MANIFEST, MODEL_FOLDER, PACKED_FILE, BookFolder
from interp.bottlenecks.packed_books import write_packed
from interp.files import write_json
from interp.models import Model, describe_model
from interp.tasks.errors import InputError

SHIPPED = Path(__file__).parent / "data"
"""One packed folder each."""
MLPS = Path("package:mlps")
"""Stands for the codebooks at MLP outputs where a folder could be named; those at heads are the default."""


def codebooks_folder(model: Model, folder: Path | None = None, *, k: int | None = None) -> Path:
    """The folder of codebooks that come with the package for this model, unless ``folder`` is one itself.

    Args:
        folder: None for those at heads, :data:`MLPS` for those at MLP outputs, both at all layers.
        k: codes per vector that are wanted: of several folders the one made for the fewest, but not for fewer than k;
            the one made for most if not given.

    Raises:
        InputError: there are none for this model, or none for so many codes per vector.
    """
    if folder not in (None, MLPS):
        return folder
    every = [BookFolder.open(path.parent) for path in sorted(SHIPPED.glob(f"*/{MANIFEST}"))]
    own = sorted(
        (found for found in every if found.is_of(model) and at_mlps(found) == (folder == MLPS)),
        key=lambda found: found.manifest["fit"]["k"],
    )
    if not own:
        names = sorted({str(found.manifest["model"]["spec"]) for found in every})
        there = f"there are some for {', '.join(names)}" if names else "none come with this version"
        where = " at MLP outputs" if folder == MLPS else ""
        raise InputError(
            f"no codebooks come with the package{where} for {describe_model(model)['spec']} ({there}): "
            "make some with interp codebook fit, and name their folder"
        )
    fitting = [found for found in own if k is None or found.manifest["fit"]["k"] >= k]
    if not fitting:
        raise InputError(
            f"k {k}: the codebooks that come with the package have {own[-1].manifest['fit']['k']}"
        )
    return fitting[-1 if k is None else 0].folder


def at_mlps(found: BookFolder) -> bool:
    """Whether codebooks are those of MLP outputs, and not of heads."""
    return all(site.startswith("m") for site in found.sites)


def pack_codebooks(source: Path, out: Path, storage: str = "int8") -> BookFolder:
    """Write the books of a folder to another as one small file, see :mod:`~interp.bottlenecks.packed_books`.

    Raises:
        InputError: no finished codebooks in ``source``, an unknown storage, or codebooks in ``out`` already.
    """
    found, out = BookFolder.open(source), Path(out)
    if BookFolder.exists(out):
        raise InputError(f"{out} holds codebooks already: choose another folder")
    write_packed(out / PACKED_FILE, found.books(), storage)
    if (found.folder / MODEL_FOLDER).is_dir():  # they are of no other
        shutil.copytree(found.folder / MODEL_FOLDER, out / MODEL_FOLDER, dirs_exist_ok=True)
    manifest = json.loads(json.dumps(dict(found.manifest)))
    write_json(out / MANIFEST, {**manifest, "storage": storage})
    return BookFolder.open(out)
