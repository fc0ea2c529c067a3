"""The contract of every bottleneck, and the list of those there are.

A bottleneck makes of an activation a few integer codes and how strongly each enters. Everything here costs memory in
proportion to the ids, never to the size of the dictionary.
"""

import importlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import Field, asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from interp.errors import InputError
from interp.files import atomic_path, parse_json, read_json, read_tensors, write_json

Vectors = Float[Tensor, "*batch d_in"]  # as bottlenecks take and give them; of several groups [..., group, d_in]
GroupRows = Float[Tensor, "group row d_in"]  # vectors with the group axis in front
Book = Float[Tensor, "group code d_in"]  # the codes of a dictionary
InFolder = TypeVar("InFolder", bound="HubFolder")

CARD = """---
{{ card_data }}
---

Discrete codes for activations of a language model, made with interp-codes.

```python
import interp

codebooks = interp.Codebooks.from_pretrained("owner/name")  # of a whole model
codebook = interp.bottlenecks.Bottleneck.from_pretrained("owner/name")  # of one site
```
"""


class HubFolder(ModelHubMixin, library_name="interp-codes", tags=["interpretability"], model_card_template=CARD):
    """A class whose ``_save_pretrained`` writes a folder and whose ``_from_folder`` reads one."""

    def __new__(cls: type[InFolder], *_: Any, **__: Any) -> InFolder:
        return object.__new__(cls)  # the mixin would add a config.json to files that say everything already

    @classmethod
    def from_pretrained(cls: type[InFolder], source: str | Path, **hub: Any) -> InFolder:  # type: ignore[override]
        """Read it from a folder, or from the Hugging Face hub's repository ``owner/name``; ``hub`` are options of
        ``huggingface_hub.snapshot_download``: ``revision``, ``token``, ``cache_dir``, …"""
        return cls._from_folder(fetch(source, **hub))

    @classmethod
    def _from_folder(cls: type[InFolder], folder: Path) -> InFolder:
        raise NotImplementedError


def fetch(source: str | Path, **hub: Any) -> Path:
    """The folder ``source``, or the one to which the hub's repository of that name was downloaded: a ``Path``, and a
    text without a slash, is none."""
    if Path(source).is_dir():
        return Path(source)
    if isinstance(source, Path) or "/" not in source:
        raise InputError(f"there is no folder {source}")
    try:
        return Path(snapshot_download(source, **hub))
    except HFValidationError:
        raise InputError(f"there is no folder {source}, and no repository can be called so") from None
    except (OSError, HTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{source} is no folder here, and not to be had from the hub: {reason}") from error


NO_CODE = -1  # an id that stands for nothing: the slot is left out of the sum


@dataclass(frozen=True)
class Codes:
    """The k codes of every vector, strongest first: ``ids`` in the bottleneck's dictionary, and ``values``, the factor
    with which each code enters the decoded vector; 1 where a code is just on."""

    ids: Int[Tensor, "*batch k"]
    values: Float[Tensor, "*batch k"]


def id_dtype(n_codes: int) -> torch.dtype:
    """The narrowest integer that holds every id and :data:`NO_CODE`."""
    return torch.int16 if n_codes <= 2**15 else torch.int32


def sum_of_codes(book: Book, codes: Codes) -> Vectors:
    """Σ_slots value · code, in the book's dtype; the gradient reaches the chosen codes only. Of several groups codes
    are [..., group, k]."""
    n_groups, n_codes, d_in = book.shape
    ids, shape = codes.ids, codes.ids.shape
    if n_groups > 1 and (len(shape) < 2 or shape[-2] != n_groups):
        raise InputError(f"codes of shape {list(shape)}: expected [..., {n_groups}, k]")
    flat, weights = ids.long(), codes.values.to(book.dtype)
    # asked first: while a text is written position by position every operation counts
    if check_ids(ids, n_codes) == NO_CODE:
        weights, flat = weights * (flat != NO_CODE), flat.clamp(min=0)
    if n_groups > 1:
        flat = flat + n_codes * torch.arange(n_groups, device=ids.device)[:, None]
    total = torch.nn.functional.embedding_bag(
        flat.reshape(-1, shape[-1]),
        book.reshape(-1, d_in),
        mode="sum",
        per_sample_weights=weights.reshape(-1, shape[-1]),
    )
    return total.reshape(*shape[:-1], d_in)


def check_ids(ids: Int[Tensor, "*batch"], n_codes: int) -> int:
    """The least id, or 0 if there are none; refuses those that are neither in the dictionary nor :data:`NO_CODE`."""
    if not ids.numel():
        return 0
    low, high = torch.stack(torch.aminmax(ids)).tolist()  # one copy from the device
    if low < NO_CODE or high >= n_codes:
        wrong = low if low < NO_CODE else high
        raise InputError(f"code id {wrong}: ids must be 0 to {n_codes - 1}, or {NO_CODE} for no code at all")
    return low


def count_codes(ids: Int[Tensor, "*batch k"], n_codes: int, groups: int = 1) -> Int[Tensor, "group code"]:
    """How often each code of each group occurs; :data:`NO_CODE` is not counted."""
    flat = ids.reshape(-1, groups, ids.shape[-1]).long()
    index = flat + n_codes * torch.arange(groups, device=ids.device)[:, None]
    return torch.bincount(index[flat != NO_CODE], minlength=groups * n_codes).reshape(groups, n_codes)


def distinct(ids: Int[Tensor, "*batch k"]) -> Int[Tensor, "*batch k"]:
    """The ids of each vector in rising order, every further slot with the same code set to :data:`NO_CODE`."""
    ordered = ids.sort(-1).values
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[..., 1:] = ordered[..., 1:] == ordered[..., :-1]
    return ordered.masked_fill(again, NO_CODE)


FORMAT = 1
CONFIG_FILE, WEIGHTS_FILE = "cfg.json", "weights.safetensors"


@runtime_checkable
class BottleneckConfig(Protocol):
    """What every config dataclass has: size of a vector, codes of a group, codes of a vector, groups."""

    __dataclass_fields__: ClassVar[dict[str, Field]]

    @property
    def d_in(self) -> int: ...
    @property
    def n_codes(self) -> int: ...
    @property
    def k(self) -> int: ...
    @property
    def groups(self) -> int: ...


class Bottleneck(HubFolder, ABC):
    """Turns vectors into a few integer codes and back.

    With ``groups > 1`` vectors carry the group axis before the last one, [..., group, d_in], and codes before
    the slots, [..., group, k]; a group is usually a head, and each has a dictionary of its own.

    Attributes:
        kind: name in the registry and in ``cfg.json``.
        config_class: the config dataclass, which checks itself.
        source, use: who published it, and what it is for.
        unit_values: whether a code is just on or off, so that setting one needs no strength.
    """

    kind: ClassVar[str]
    config_class: ClassVar[type]
    source: ClassVar[str] = ""
    use: ClassVar[str] = ""
    config: BottleneckConfig

    @property
    def unit_values(self) -> bool:
        return False

    def fit(self, x: Vectors) -> "Bottleneck":
        """Learn the dictionary from vectors, from scratch."""
        raise NotImplementedError

    @abstractmethod
    def encode(self, x: Vectors) -> Codes:
        """The ``config.k`` codes of every vector, strongest first, without a gradient; refuses NaN and other shapes."""

    @abstractmethod
    def decode(self, codes: Codes) -> Vectors:
        """The vectors that the codes stand for; raises :class:`InputError` for ids that are not in the dictionary."""

    def slots_of(self, _code: int) -> range:
        """The slots that may hold a code: all of them, unless slots have codes of their own."""
        return range(self.config.k)

    def difference(self, codes: Codes, others: Codes) -> Vectors:
        """decode(codes) − decode(others): exactly 0 where they are the same."""
        return self.decode(codes) - self.decode(others)

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What is learned, by name, for the file."""

    @classmethod
    def restored(cls, config: Any, tensors: Mapping[str, Tensor]) -> "Bottleneck":
        """The bottleneck with these tensors; raises :class:`KeyError` where one is missing."""
        raise NotImplementedError

    def to(self, target: Any) -> "Bottleneck":
        """Move to a device."""
        raise NotImplementedError

    def parameters(self) -> Iterator[Tensor]:
        """What an optimizer may train; nothing unless the bottleneck says so."""
        return iter(())

    @property
    def trained_at(self) -> str | None:
        """The hook whose activations it was made for, where it knows."""
        return None

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors().values())).device

    def loss(self, x: Vectors, decoded: Vectors) -> Float[Tensor, ""]:
        """Squared error of the codes, summed over coordinates and averaged over vectors; ``x`` is a constant."""
        return (decoded - x.detach()).float().square().sum(-1).mean()

    def _save_pretrained(self, save_directory: Path) -> None:
        config = self._description(self.config)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors().items()}
        with atomic_path(save_directory / WEIGHTS_FILE) as temporary:
            save_file(tensors, temporary, metadata={"config": json.dumps(config)})
        write_json(save_directory / CONFIG_FILE, config)

    @classmethod
    def _from_folder(cls, folder: Path) -> "Bottleneck":
        """Onto the CPU; of whichever kind it is if called on :class:`Bottleneck`."""
        path = folder / CONFIG_FILE
        try:
            description = read_json(path)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read the configuration {path}: {error}") from None
        if not isinstance(description, dict) or not isinstance(name := description.pop("kind", None), str):
            raise InputError(f"{path} does not describe a bottleneck")
        if (version := description.pop("format", None)) != FORMAT:
            raise InputError(f"{path} has format {version!r}: this version reads format {FORMAT}")
        kind = bottleneck_class(name)
        if not issubclass(kind, cls):
            raise InputError(f"{path} is of kind {name!r}, not {cls.kind}")
        try:
            config = kind.config_class(**description)
        except TypeError as error:
            raise InputError(f"{path} is not the configuration of a {kind.kind}: {error}") from None
        path = folder / WEIGHTS_FILE
        try:
            tensors, header = read_tensors(path)
            if parse_json(header.get("config", "null")) != kind._description(config):
                raise InputError(f"{path} was written with another configuration than the {CONFIG_FILE} beside")
            for name, tensor in tensors.items():
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise InputError(f"{path}: {name} holds NaN or infinite values")
            return kind.restored(config, tensors)
        except (SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{path} does not hold the weights of a {kind.kind}: {error}") from None

    @classmethod
    def _description(cls, config: Any) -> dict[str, Any]:
        return {"format": FORMAT, "kind": cls.kind, **asdict(config)}


SHIPPED = {
    "codebook": "codebook",
    "metric_codebook": "metric_codebook",
    "layer_norm_codebook": "layer_norm_codebook",
    "vq": "vq",
    "residual_vq": "vq",
    "grouped_vq": "vq",
    "gumbel": "gumbel",
    "latent_quantization": "latent_quantization",
    "fsq": "latent_quantization",
    "binary": "binary",
    "lfq": "binary",
    "bsq": "binary",
    "key_value": "key_value",
    "prototypes": "vq",
    "ternary": "ternary",
    "discrete_sae": "discrete_sae",
}
"""The kinds of this package, and the module in ``kinds`` that has each, loaded when it is asked for."""
BOTTLENECKS: dict[str, type[Bottleneck]] = {}
"""Every registered bottleneck by its kind: those that are loaded, and one's own."""


def digits(bits: int, most: int = 9) -> tuple[int, int]:
    """Slots of equal size for so many bits: how many, and the bits of each, at most ``most``."""
    if not 1 <= bits <= 512:
        raise InputError(f"{bits} bits: choose 1 to 512")
    n = next(n for n in range(-(-bits // most), bits + 1) if bits % n == 0)
    return n, bits // n


def radices(config: BottleneckConfig) -> tuple[int, ...]:
    """Codes that each slot may hold: all of them, unless slots have codes of their own."""
    return getattr(config, "radices", (config.n_codes,) * config.k)


def code_sets(config: BottleneckConfig) -> tuple[int, ...]:
    """Sizes of the sets that codes are chosen from: one for each slot where slots have codes of their own, else one."""
    return getattr(config, "radices", (config.n_codes,))


def alternatives(config: BottleneckConfig, code: int) -> range:
    """Codes that may stand where this one does: those of its set."""
    begin = 0
    for size in code_sets(config):
        if code < begin + size:
            return range(begin, begin + size)
        begin += size
    return range(config.n_codes)


def bits_per_vector(config: BottleneckConfig) -> float:
    """Of the ids of a vector of one group, as stored."""
    return sum(map(math.log2, radices(config)))


T = TypeVar("T", bound=type[Bottleneck])


def register(cls: T) -> T:
    """Add a class to :data:`BOTTLENECKS`; a decorator."""
    known = BOTTLENECKS.get(cls.kind)
    # a module that is executed again, as in a live session, brings the same class anew
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"there is a bottleneck of kind {cls.kind!r} already: {known.__qualname__}")
    BOTTLENECKS[cls.kind] = cls
    return cls


def bottleneck_class(kind: str) -> type[Bottleneck]:
    """The class of a kind, by its name or as ``path/to/file.py:Class``."""
    if ":" in kind:
        from interp.prompts.user_code import load_object  # which few need

        cls = load_object(kind)
        if not (isinstance(cls, type) and issubclass(cls, Bottleneck)):
            raise InputError(f"{kind} is no bottleneck: derive it from interp.bottlenecks.Bottleneck")
        return cls
    kind = kind.replace("-", "_")
    if kind in SHIPPED:
        importlib.import_module(f"interp.bottlenecks.kinds.{SHIPPED[kind]}")
    if kind not in BOTTLENECKS:
        known = ", ".join(dict.fromkeys((*SHIPPED, *BOTTLENECKS)))
        raise InputError(f"there is no bottleneck of kind {kind!r}, only {known}")
    return BOTTLENECKS[kind]


def straight_through(x: Vectors, decoded: Vectors) -> Vectors:
    """``decoded``, bit for bit, in the dtype of ``x`` and with its gradient also passed to ``x`` unchanged."""
    decoded = decoded.to(x.dtype)
    return decoded + (x - x.detach()) if x.requires_grad else decoded


def grouped_rows(x: Tensor, config: BottleneckConfig) -> GroupRows:
    """The vectors in float32 with the group axis in front; refuses another shape, NaN and infinite values."""
    groups, d_in = config.groups, config.d_in
    if x.shape[-1] != d_in or (groups > 1 and (x.ndim < 2 or x.shape[-2] != groups)):
        expected = f"[..., {d_in}]" if groups == 1 else f"[..., {groups}, {d_in}]"
        raise InputError(f"activations of shape {list(x.shape)}: this dictionary takes {expected}")
    # the sum of all is far cheaper to look at, and cannot be finite unless they are
    if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
        raise InputError("the activations hold NaN or infinite values")
    return x.detach().float().reshape(-1, groups, d_in).transpose(0, 1)
