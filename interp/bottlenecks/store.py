"""A folder of codebooks fitted at many sites of one model.

::

    manifest.json           format, the model, the sites, how and on which text they were fitted; written last
    a0/  a1/  m5/  …        one book each, as Codebook.save writes it
    model/                  of books from joint training: the finetuned model
    codebooks.safetensors   or all of them packed, see packed_books

Codebooks of many sites in one small file, for shipping.

``float16`` halves the codes; ``int8`` quarters them: of each code, less the median of its book, which is kept as it
is, the coordinates are rounded to 255 steps of the largest one, and so at most 1/254 of that one off. Less the median,
since the codes of some heads lie close together far from zero, and steps of their length would be as wide as they are
apart; not the mean, which one code that is a thousand times as long as the others, as of the first position at some
MLPs, would draw away from all of them.
The metric of :class:`MetricCodebook` is float16 in both, so that a vector halfway between two codes may get the other
one.

Codebooks that come with the package, and packing a folder for that.
"""

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from interp.bottlenecks.base import BOTTLENECKS, CONFIG_FILE, load_bottleneck
from interp.bottlenecks.codebook import Codebook
from interp.errors import InputError
from interp.files import atomic_path, read_json, read_tensors, write_json
from interp.models import (
    Model,
    Site,
    describe_model,
    earlier_digest,
    model_device,
    parse_site,
    weights_digest,
)
from interp.text import TextBlocks

PACKED_FORMAT = 1
STORAGES = ("int8", "float16")
_STEPS = 127


def write_packed(path: Path, books: Mapping[str, Codebook], storage: str) -> None:
    """Write books, by site, to one file.

    Raises:
        InputError: an unknown storage, or numbers that float16 does not hold.
    """
    if storage not in STORAGES:
        raise InputError(f"storage {storage!r}: choose {' or '.join(STORAGES)}")
    tensors: dict[str, Tensor] = {}
    for site, book in books.items():
        for name, tensor in book.tensors().items():
            tensor = tensor.detach().cpu()
            if name == "codes" and storage == "int8":
                tensors[f"{site}/centres"] = centre = tensor.float().median(1, keepdim=True).values
                apart = tensor.float() - centre
                tensors[f"{site}/scales"] = scale = (
                    apart.abs().amax(-1, keepdim=True).clamp(min=1e-30) / _STEPS
                )
                tensor = (apart / scale).round().to(torch.int8)
            elif tensor.is_floating_point():
                tensor = tensor.half()
                if not tensor.isfinite().all():
                    other = "; int8 holds them" if name == "codes" else ""
                    raise InputError(f"{name} of the book at {site} are too large for float16{other}")
            else:
                tensor = tensor.clamp(max=2**31 - 1).int()
            tensors[f"{site}/{name}"] = tensor.contiguous()
    about = {
        "format": PACKED_FORMAT,
        "books": {site: {"kind": b.kind, "config": asdict(b.config)} for site, b in books.items()},
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"packed": json.dumps(about)})


def read_packed(path: Path) -> dict[str, Codebook]:
    """The books by site, in float32.

    Raises:
        InputError: a file that is missing, damaged, or of another format.
    """
    try:
        tensors, header = read_tensors(path)
        about = json.loads(header.get("packed", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"cannot read the codebooks {path}: {error}") from None
    if (
        not isinstance(about, dict)
        or about.get("format") != PACKED_FORMAT
        or not isinstance(about.get("books"), dict)
    ):
        raise InputError(f"{path} does not hold packed codebooks of format {PACKED_FORMAT}")
    books = {}
    for site, book in about["books"].items():
        own = {n.removeprefix(f"{site}/"): t for n, t in tensors.items() if n.startswith(f"{site}/")}
        own = {name: t.float() if t.is_floating_point() else t for name, t in own.items()}
        try:
            if (scales := own.pop("scales", None)) is not None:
                centres = own.pop("centres", 0)  # none in files of before
                own["codes"] = own["codes"].float() * scales + centres
            cls = BOTTLENECKS[book["kind"]]
            books[site] = cls.restored(cls.config_class(**book["config"]), own)
        except (KeyError, RuntimeError, TypeError) as error:
            raise InputError(f"{path} does not hold the codebook of {site}: {error}") from None
        if not all(bool(t.isfinite().all()) for t in own.values()):
            raise InputError(f"{path}: the codebook of {site} has values that are not finite")
    return books


FORMAT = 1
MANIFEST, PACKED_FILE = "manifest.json", "codebooks.safetensors"
WORK, REQUEST_FILE = ".work", "request.json"
"""What is only needed until the books are a whole, and in it what was asked for."""
MODEL_FOLDER = "model"
"""The finetuned model that the books belong to, if any."""
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

_READ = {
    "model": {"spec": str | None},
    "fit": {"k": int, "n_codes": int, "selection": str, "magnitude": str, "seed": int, "sequential": bool},
    "text": {"spec": str, "n_tokens": int, "context": int},
}
"""Of a manifest's parts, what is used by name."""


@dataclass(frozen=True)
class CodebookStore:
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
    def open(cls, folder: Path) -> "CodebookStore":
        """Read the manifest.

        Raises:
            InputError: no finished codebooks there, or a manifest of another format.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            unfinished = any(folder.glob("*/" + CONFIG_FILE)) or (folder / WORK).is_dir()
            why = "they are not finished; the same command goes on" if unfinished else f"no {MANIFEST} there"
            raise InputError(f"{folder} is no folder of codebooks: {why}")
        try:
            manifest = read_json(path)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error}") from None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise InputError(f"{path} is not of format {FORMAT}, which this version reads")
        missing = [key for key in ("model", "sites", "fit", "text") if key not in manifest]
        if missing:
            raise InputError(f"{path} lacks {', '.join(missing)}")
        if not all(isinstance(manifest[key], dict) for key in ("model", "fit", "text")):
            raise InputError(f"{path}: model, fit and text must be objects")
        sites = manifest["sites"]
        if not isinstance(sites, list) or not all(isinstance(site, str) for site in sites):
            raise InputError(f"{path}: sites must be a list of names")
        for site in sites:
            parse_site(site)  # they name folders: nothing else may stand there
        for part, keys in _READ.items():
            for key, kind in keys.items():
                if not isinstance(manifest[part].get(key), kind):
                    raise InputError(f"{path} is damaged: {key} of its {part} is {manifest[part].get(key)!r}")
        own = folder / MODEL_FOLDER
        if own.is_dir():  # a folder may have been moved with the model in it
            manifest["model"] |= dict.fromkeys(("spec", "source"), str(own.resolve()))
        return cls(folder, manifest)

    @classmethod
    def finish(cls, folder: Path, request: Mapping[str, Any], leftovers: Path) -> "CodebookStore":
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

    def books(self) -> dict[str, Codebook]:
        """The books by site, on the CPU."""
        if self.manifest.get("storage") is None:
            return {site: load_bottleneck(self.book(self.folder, site)) for site in self.sites}
        books = read_packed(self.folder / PACKED_FILE)
        if sorted(books) != sorted(self.sites):
            raise InputError(f"{self.folder / PACKED_FILE} does not hold the books that {MANIFEST} names")
        return {site: books[site] for site in self.sites}

    def is_of(self, model: Model) -> bool:
        """Whether the books were made for this model."""
        try:
            self.check_model(model)
        except InputError:
            return False
        return True

    def check_model(self, model: Model) -> None:
        """Raise :class:`InputError` unless the books were made for this model."""
        check_made_with(self.manifest["model"], model, _ALWAYS_SAME, f"{self.folder} holds codebooks")


def load_codebooks(folder: Path | str | None, model: Model, *, k: int | None = None) -> dict[str, Codebook]:
    """The codebooks of a folder by site, on the model's device, ready for :func:`~interp.bottlenecks.attach.attach`.

    Args:
        folder: None or ``package:mlps`` for those that come with the package, at heads or at MLP outputs, see
            :func:`~interp.bottlenecks.store.codebooks_folder`.
        k: fewer codes per vector than the books were fitted for; possible unless a vector is a plain sum of its most
            similar codes, whose lengths are fitted for one k.

    Raises:
        InputError: no codebooks there, another model's, or a k that they cannot have.
    """
    from interp.bottlenecks.store import codebooks_folder  # which opens folders itself

    found = CodebookStore.open(codebooks_folder(model, None if folder is None else Path(folder), k=k))
    found.check_model(model)
    device = model_device(model)
    books = found.books()
    if k is not None:
        books = {site: book.with_k(k) for site, book in books.items()}
    return {site: book.to(device) for site, book in books.items()}


def model_identity(model: Model) -> dict[str, Any]:
    """What tells models apart, and the precision this one runs in."""
    known = {key: value for key, value in describe_model(model).items() if key != "device"}
    return known | {"weights": weights_digest(model)}


def check_made_with(theirs: Mapping[str, Any], model: Model, keys: Iterable[str], what: str) -> None:
    """Raise :class:`InputError` unless what was made with a model of this identity was made with this one.

    Args:
        keys: of the identity that have to be the same.
        what: begins the message, up to *of …*.
    """
    ours = model_identity(model)
    for key in keys:
        if theirs.get(key) != ours[key] and not (
            key == "weights" and theirs.get(key) == earlier_digest(model)
        ):
            raise InputError(
                f"{what} of {theirs.get('spec')} ({key} {theirs.get(key)}), "
                f"not of {ours['spec']} ({key} {ours[key]})"
            )


def describe_text(text: TextBlocks) -> dict[str, Any]:
    """Which text it was, for a manifest."""
    return {
        "spec": text.spec,
        "split": text.split,
        "seed": text.seed,
        "n_tokens": text.n_tokens,
        "context": text.tokens.shape[1],
        "n_documents": text.n_documents,
        "fingerprint": text.fingerprint(),
    }


def books_fingerprint(books: Mapping[str, Codebook]) -> str:
    """A hash of all codes. Books of equal codes that are compared otherwise have the same."""
    digest = hashlib.sha256()
    for site, book in books.items():
        digest.update(site.encode() + book.codes.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def begin_request(folder: Path, request: Mapping[str, Any]) -> None:
    """Note what is being made in a folder, or check that what was begun there is the same."""
    path = folder / WORK / REQUEST_FILE
    if not path.exists():
        if any(folder.glob(f"*/{CONFIG_FILE}")):
            raise InputError(
                f"{folder} has codebooks, and no longer says what they were made of: "
                "choose another folder, or delete it to start again"
            )
        write_json(path, request)
        return
    try:
        begun = read_json(path)
    except (OSError, ValueError):
        raise InputError(f"{path} is damaged: delete the folder {folder} to start again") from None
    check_request(folder, begun, {**dict.fromkeys(begun), **request})


def check_request(
    folder: Path, begun: Mapping[str, Any], request: Mapping[str, Any], *, made: str = "codebooks"
) -> None:
    """Raise :class:`InputError`, naming the first difference, unless what a folder holds is what is asked for."""
    for part, wanted in request.items():
        if begun.get(part) != wanted:
            raise InputError(
                f"{folder} holds {made} of another {difference(part, begun.get(part), wanted)}: "
                "choose another folder, or delete it to start again"
            )


_ABSENT = object()  # None is a value


def difference(name: str, there: Any, wanted: Any) -> str:
    """Where two JSON values differ first, in words: ``training (lr 0.1, not 0.2)``."""
    path: list[str] = []
    while isinstance(there, Mapping) and isinstance(wanted, Mapping):
        key = next(key for key in [*wanted, *there] if there.get(key, _ABSENT) != wanted.get(key, _ABSENT))
        path.append(key)
        there, wanted = there.get(key), wanted.get(key)
    plain = isinstance(there, str | int | float) and isinstance(wanted, str | int | float)
    if isinstance(there, Mapping) or isinstance(wanted, Mapping) or not (path or plain):
        return name
    return f"{name} ({' '.join(filter(None, ['.'.join(path), str(there)]))}, not {wanted})"


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
    every = [CodebookStore.open(path.parent) for path in sorted(SHIPPED.glob(f"*/{MANIFEST}"))]
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


def at_mlps(found: CodebookStore) -> bool:
    """Whether codebooks are those of MLP outputs, and not of heads."""
    return all(site.startswith("m") for site in found.sites)


def pack_codebooks(source: Path, out: Path, storage: str = "int8") -> CodebookStore:
    """Write the books of a folder to another as one small file, see :mod:`~interp.bottlenecks.store`.

    Raises:
        InputError: no finished codebooks in ``source``, an unknown storage, or codebooks in ``out`` already.
    """
    found, out = CodebookStore.open(source), Path(out)
    if CodebookStore.exists(out):
        raise InputError(f"{out} holds codebooks already: choose another folder")
    write_packed(out / PACKED_FILE, found.books(), storage)
    if (found.folder / MODEL_FOLDER).is_dir():  # they are of no other
        shutil.copytree(found.folder / MODEL_FOLDER, out / MODEL_FOLDER, dirs_exist_ok=True)
    manifest = json.loads(json.dumps(dict(found.manifest)))
    write_json(out / MANIFEST, {**manifest, "storage": storage})
    return CodebookStore.open(out)
