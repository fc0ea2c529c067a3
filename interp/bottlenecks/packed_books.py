"""Codebooks of many sites in one small file, for shipping.

``float16`` halves the codes; ``int8`` quarters them: of each code, less the median of its book, which is kept as it
is, the coordinates are rounded to 255 steps of the largest one, and so at most 1/254 of that one off. Less the median,
since the codes of some heads lie close together far from zero, and steps of their length would be as wide as they are
apart; not the mean, which one code that is a thousand times as long as the others, as of the first position at some
MLPs, would draw away from all of them.
The metric of :class:`MetricCodebook` is float16 in both, so that a vector halfway between two codes may get the other
one.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from interp.bottlenecks.base import BOTTLENECKS
from interp.bottlenecks.codebook import Codebook
from interp.files import atomic_path, read_tensors
from interp.tasks.errors import InputError

FORMAT = 1
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
        "format": FORMAT,
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
        or about.get("format") != FORMAT
        or not isinstance(about.get("books"), dict)
    ):
        raise InputError(f"{path} does not hold packed codebooks of format {FORMAT}")
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
