"""Codebooks at many sites of one model: a mapping from site to codebook, and the folder that holds it.

::

    manifest.json           the model, the sites, how and on which text they were fitted; written last
    a0/  a1/  m5/  …        one codebook each, as its ``save_pretrained`` writes it
    codebooks.safetensors   or all of them packed, see :func:`write_packed`
    model/                  of joint training: the finetuned model
"""

import contextlib
import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock, Timeout
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from interp.bottlenecks.base import CONFIG_FILE, HubFolder, bottleneck_class, fetch
from interp.bottlenecks.dictionary import Dictionary
from interp.errors import InputError, fault
from interp.files import atomic_path, parse_json, read_json, read_tensors, write_json
from interp.models import Model, Site, describe_model, model_device, parse_site, weights_digest
from interp.text import TextBlocks

Storage = Literal["int8", "float16"]
FORMAT = 1
MANIFEST, PACKED_FILE = "manifest.json", "codebooks.safetensors"
WORK, REQUEST_FILE = ".work", "request.json"
"""What is only needed until the codebooks are a whole, and in it what was asked for."""
MODEL_FOLDER = "model"
PRETRAINED = Path(__file__).parent / "data"  # codebooks that come with the package, one packed folder each
_SAME = ("architecture", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_vocab", "weights")
"""What must agree between the model that codebooks were fitted on and the one they are put into."""


class ManifestPart(BaseModel):
    """What is read by name of a manifest; more may stand there."""

    model_config = ConfigDict(extra="allow", strict=True)


def manifest_fault(kind: type[ManifestPart], manifest: Any) -> str | None:
    """The first thing in which a manifest is not of its kind, in words."""
    try:
        kind.model_validate(manifest)
    except ValidationError as error:
        return fault(error)
    return None


class ModelPart(ManifestPart):
    spec: str | None


class _Fit(ManifestPart):
    k: int
    n_codes: int
    selection: str
    magnitude: str
    seed: int
    sequential: bool


class _Text(ManifestPart):
    spec: str
    n_tokens: int
    context: int


class Manifest(ManifestPart):
    """Of codebooks; sites name folders, so that nothing else may stand there."""

    format: Literal[1]
    model: ModelPart
    sites: list[Annotated[str, AfterValidator(lambda site: str(parse_site(site)))]]
    fit: _Fit
    text: _Text


class Codebooks(HubFolder, Mapping[str, Dictionary]):
    """The codebooks of one model by site, read when they are first asked for.

    ``codebooks["a21"]`` is that of all heads of layer 21, ``codebooks["a21.h6"]`` that of one of them.

    >>> codebooks = Codebooks.from_pretrained("smollm2-135m-instruct-k1")
    >>> codebooks["a21.h6"].config.n_codes
    512

    ``manifest`` has ``model``, ``sites``, ``fit``, ``text``, ``versions``; ``folder`` is None for those in memory.
    """

    def __init__(
        self, folder: Path | None, manifest: Mapping[str, Any], codebooks: Mapping[str, Dictionary] | None = None
    ) -> None:
        self.folder, self.manifest, self._codebooks = folder, manifest, codebooks

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, source: str | Path, model: Model | None = None, k: int | None = None, **hub: Any
    ) -> "Codebooks":
        """Open shipped codebooks, those of a folder, or of the Hugging Face hub.

        Args:
            source: a name of :func:`pretrained_names`, a folder, or a repository ``owner/name``.
            model: the one they must belong to; they are put on its device.
            k: fewer codes per vector than they were fitted for; possible unless a vector is a plain sum of its most
                similar codes, whose lengths are fitted for one k.
        """
        packaged = PRETRAINED / str(source)
        try:
            folder = packaged if (packaged / MANIFEST).is_file() else fetch(source, **hub)
        except InputError as error:
            shipped = ", ".join(pretrained_names())
            raise InputError(f"{error}; the shipped codebooks are {shipped}") from None
        stored = cls._from_folder(folder)
        if model is None and k is None:
            return stored
        if model is not None:
            stored.check_model(model)
        device = "cpu" if model is None else model_device(model)
        books = {site: book if k is None else book.with_k(k) for site, book in stored._read().items()}
        return cls(stored.folder, stored.manifest, {site: book.to(device) for site, book in books.items()})

    @classmethod
    def _from_folder(cls, folder: Path) -> "Codebooks":
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            unfinished = any(folder.glob("*/" + CONFIG_FILE)) or (folder / WORK).is_dir()
            reason = "they are not finished; the same command goes on" if unfinished else f"it has no {MANIFEST}"
            raise InputError(f"{folder} is no folder of codebooks: {reason}")
        try:
            manifest = read_json(path)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error}") from None
        if (wrong := manifest_fault(Manifest, manifest)) is not None:
            raise InputError(f"{path} is no manifest of codebooks: {wrong}")
        finetuned = folder / MODEL_FOLDER
        if finetuned.is_dir():  # a folder may have been moved with the model in it
            manifest["model"] |= dict.fromkeys(("spec", "source"), str(finetuned.resolve()))
        return cls(folder, manifest)

    @classmethod
    def finish(cls, folder: Path, request: Mapping[str, Any]) -> "Codebooks":
        """Write the manifest, which makes a folder's codebooks complete, and delete temporary files."""
        versions = {name: importlib.metadata.version(name) for name in ("torch", "transformer-lens")}
        write_json(folder / MANIFEST, {"format": FORMAT, **request, "versions": versions})
        shutil.rmtree(folder / WORK, ignore_errors=True)
        return cls._from_folder(folder)

    @cached_property
    def fingerprint(self) -> str:
        return codebooks_fingerprint(self._read())

    @property
    def sites(self) -> list[str]:
        return list(self.manifest["sites"])

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest["sites"])

    def __len__(self) -> int:
        return len(self.manifest["sites"])

    def __getitem__(self, site: str) -> Dictionary:
        try:
            place = parse_site(site)
        except InputError as error:
            raise KeyError(str(error)) from None
        read = self._read()
        if str(place) in read or place.head is None:
            return read[str(place)]
        layer = read[str(Site("attn", place.layer))]
        return layer.of_group(place.head) if layer.config.groups > 1 else layer

    def check_model(self, model: Model) -> None:
        """Raise :class:`InputError` unless they were made for this model."""
        try:
            check_made_with(self.manifest["model"], model, _SAME, f"{self.folder} holds codebooks")
        except InputError as error:
            raise InputError(f"{error}: make some with interp codebook fit, and name their folder") from None

    def pack(self, out: Path, storage: Storage = "int8") -> "Codebooks":
        """Write them to another folder as one small file, see :func:`write_packed`."""
        self._check_new(out)
        write_packed(out / PACKED_FILE, self._read(), storage)
        return self._with_manifest(out, {**self.manifest, "storage": storage})

    def in_memory(self) -> "Codebooks":
        """The same codebooks, read into memory and independent of the folder."""
        return Codebooks(None, self.manifest, self._read())

    def _save_pretrained(self, save_directory: Path) -> None:
        self._check_new(save_directory)
        for site, codebook in self._read().items():
            codebook._save_pretrained(save_directory / site)
        self._with_manifest(save_directory, {k: v for k, v in self.manifest.items() if k != "storage"})

    def _check_new(self, folder: Path) -> None:
        if is_store(folder):
            raise InputError(f"{folder} holds codebooks already: choose another folder")

    def _with_manifest(self, folder: Path, manifest: Mapping[str, Any]) -> "Codebooks":
        if self.folder is not None and (self.folder / MODEL_FOLDER).is_dir():  # they are of no other
            shutil.copytree(self.folder / MODEL_FOLDER, folder / MODEL_FOLDER, dirs_exist_ok=True)
        write_json(folder / MANIFEST, manifest)
        return Codebooks._from_folder(folder)

    def _read(self) -> Mapping[str, Dictionary]:
        if self._codebooks is None:
            assert self.folder is not None
            if self.manifest.get("storage") is None:
                read = {site: Dictionary.from_pretrained(self.folder / site) for site in self}
            else:
                read = read_packed(self.folder / PACKED_FILE)
                if sorted(read) != sorted(self.sites):
                    raise InputError(f"{self.folder / PACKED_FILE} does not hold what {MANIFEST} names")
            self._codebooks = {site: read[site] for site in self}
        return self._codebooks


def pretrained_names(model: Model | None = None) -> list[str]:
    """Names of the codebooks that come with the package: all of them, or those of one model."""
    names = []
    for folder in sorted(path.parent for path in PRETRAINED.glob(f"*/{MANIFEST}")):
        shipped = Codebooks._from_folder(folder)
        with contextlib.suppress(InputError):  # another model's
            if model is not None:
                shipped.check_model(model)
            names.append(folder.name)
    return names


def is_store(folder: Path) -> bool:
    """Whether a folder holds finished codebooks."""
    return (Path(folder) / MANIFEST).is_file()


_STEPS = 127


def write_packed(path: Path, codebooks: Mapping[str, Dictionary], storage: Storage) -> None:
    """Write codebooks, by site, to one file.

    ``float16`` halves the codes, ``int8`` quarters them: of each code, less the median of its codebook, coordinates are
    rounded to 255 steps of the largest one. Less the median, since the codes of some heads lie close together far from
    zero, and steps of their length would be as wide as they are apart; not the mean, which a single code a thousand
    times as long as the others would draw away from them.

    The metric of :class:`~interp.bottlenecks.kinds.metric_codebook.MetricCodebook` is float16 in both, so that a vector
    halfway between two codes may get the other one.
    """
    tensors: dict[str, Tensor] = {}
    for site, codebook in codebooks.items():
        for name, tensor in codebook.tensors().items():
            tensor = tensor.detach().cpu()
            if name == "codes" and storage == "int8":
                tensors[f"{site}/centres"] = centre = tensor.float().median(1, keepdim=True).values
                apart = tensor.float() - centre
                scale = apart.abs().amax(-1, keepdim=True).clamp(min=1e-30) / _STEPS
                tensors[f"{site}/scales"] = scale
                tensor = (apart / scale).round().char()
            elif tensor.is_floating_point():
                tensor = tensor.half()
                if not tensor.isfinite().all():
                    other = "; int8 holds them" if name == "codes" else ""
                    raise InputError(f"{name} of the codebook at {site} are too large for float16{other}")
            else:
                tensor = tensor.clamp(max=2**31 - 1).int()
            tensors[f"{site}/{name}"] = tensor.contiguous()
    books = {site: {"kind": book.kind, "config": asdict(book.config)} for site, book in codebooks.items()}
    with atomic_path(path) as temporary:
        header = json.dumps({"format": FORMAT, "books": books})
        save_file(tensors, temporary, metadata={"packed": header})


def read_packed(path: Path) -> dict[str, Dictionary]:
    """The codebooks by site, in float32."""
    try:
        tensors, header = read_tensors(path)
        packed = parse_json(header.get("packed", "{}"))
        if packed["format"] != FORMAT:
            raise ValueError(f"format {packed['format']!r}, this version reads {FORMAT}")
        books = {}
        for site, known in packed["books"].items():
            parts = {n.removeprefix(f"{site}/"): t for n, t in tensors.items() if n.startswith(f"{site}/")}
            parts = {name: t.float() if t.is_floating_point() else t for name, t in parts.items()}
            if (scales := parts.pop("scales", None)) is not None:
                parts["codes"] = parts["codes"].float() * scales + parts.pop("centres")
            if not all(bool(t.isfinite().all()) for t in parts.values()):
                raise ValueError(f"the codebook of {site} has values that are not finite")
            cls = bottleneck_class(known["kind"])
            if not issubclass(cls, Dictionary):
                raise ValueError(f"a {cls.kind} is no codebook")
            books[site] = cls.restored(cls.config_class(**known["config"]), parts)
        return books
    except (SafetensorError, OSError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"cannot read the codebooks {path}: {error}") from None


def model_identity(model: Model) -> dict[str, Any]:
    """What tells models apart, and the precision this one runs in."""
    known = {key: value for key, value in describe_model(model).items() if key != "device"}
    return known | {"weights": weights_digest(model)}


def check_made_with(made_with: Mapping[str, Any], model: Model, keys: Iterable[str], subject: str) -> None:
    """Raise :class:`InputError` unless what was made with a model of this identity was made with this one, by these
    ``keys``; ``subject`` begins the message, up to *of …*."""
    ours = model_identity(model)
    for key in keys:
        if made_with.get(key) != ours[key]:
            raise InputError(
                f"{subject} of {made_with.get('spec')} ({key} {made_with.get(key)}), "
                f"not of {ours['spec']} ({key} {ours[key]})"
            )


def describe_text(text: TextBlocks) -> dict[str, Any]:
    """Which text it was, for a manifest."""
    named = {name: getattr(text, name) for name in ("spec", "split", "seed", "n_tokens", "n_documents")}
    return named | {"context": text.tokens.shape[1], "fingerprint": text.fingerprint()}


def codebooks_fingerprint(codebooks: Mapping[str, Dictionary]) -> str:
    """A hash of all codes. Those of equal codes that are compared otherwise have the same."""
    digest = hashlib.sha256()
    for site, codebook in codebooks.items():
        digest.update(site.encode() + codebook.codes.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def being_filled(folder: Path, doing: str) -> Iterator[None]:
    """A folder for codebooks, locked; ``doing`` is what another process is told to be at."""
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / WORK / "lock", timeout=0):
            yield
    except Timeout:
        raise InputError(f"{folder}: another process is {doing} codebooks there") from None


def begin_request(folder: Path, request: Mapping[str, Any]) -> None:
    """Note what is being made in a folder, or check that what was begun there is the same."""
    path = folder / WORK / REQUEST_FILE
    if not path.exists():
        if any(folder.glob(f"*/{CONFIG_FILE}")):
            raise InputError(f"{folder} has codebooks, and does not say what they were made of: {_REMEDY}")
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
        if (stored := begun.get(part)) != wanted:
            raise InputError(f"{folder} holds {made} of another {difference(part, stored, wanted)}: {_REMEDY}")


_REMEDY = "choose another folder, or delete it to start again"
_ABSENT = object()  # None is a value


def difference(name: str, stored: Any, wanted: Any) -> str:
    """Where two JSON values differ first, in words: ``training (lr 0.1, not 0.2)``."""
    path: list[str] = []
    while isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        key = next(key for key in [*wanted, *stored] if stored.get(key, _ABSENT) != wanted.get(key, _ABSENT))
        path.append(key)
        stored, wanted = stored.get(key), wanted.get(key)
    plain = isinstance(stored, str | int | float) and isinstance(wanted, str | int | float)
    if isinstance(stored, Mapping) or isinstance(wanted, Mapping) or not (path or plain):
        return name
    return f"{name} ({' '.join(filter(None, ['.'.join(path), str(stored)]))}, not {wanted})"
