"""Where a model came from: recorded when it is loaded, written into every result made with it."""

import hashlib
import importlib.metadata
import importlib.util
import platform
import weakref
from functools import cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

import interp
from interp.models.hooks import check_model, model_device

_SAMPLES = 512
_sources: "weakref.WeakKeyDictionary[TransformerBridge, dict[str, str | None]]" = weakref.WeakKeyDictionary()


def record_source(model: TransformerBridge, spec: str, source: str, revision: str | None = None) -> None:
    """Remember the spec that was asked for, what was read, and its revision or hash."""
    _sources[model] = {"spec": spec, "source": source, "revision": revision}


def versions() -> dict[str, str]:
    """Versions of everything a number may depend on."""
    names = ["torch", "transformers", "transformer-lens", "numpy"]
    if importlib.util.find_spec("sae_lens"):  # not beside transformer-lens 4
        names.append("sae-lens")
    installed = {name: importlib.metadata.version(name) for name in names}
    return {"interp": interp.__version__, "python": platform.python_version(), **installed}


def describe_model(model: TransformerBridge) -> dict[str, Any]:
    """What a model is and where it came from, as JSON values.

    ``spec``, ``source`` and ``revision`` (a commit of the hub or a sha256; ``None`` when not known) are
    ``None`` for a model that :func:`interp.models.load_model` did not load.
    """
    check_model(model)
    cfg = model.cfg
    return {
        **_sources.get(model, dict.fromkeys(("spec", "source", "revision"))),
        "architecture": cfg.architecture,
        "dtype": str(cfg.dtype).removeprefix("torch."),
        "device": str(model_device(model)),
        "n_layers": cfg.n_layers,
        "n_heads": cfg.n_heads,
        "n_kv_heads": cfg.n_key_value_heads or cfg.n_heads,
        "d_model": cfg.d_model,
        "d_head": cfg.d_head,
        "d_vocab": cfg.d_vocab,
        "attn_only": bool(cfg.attn_only),
    }


def weights_digest(model: TransformerBridge) -> str:
    """A hash that tells models of one name and shape apart, whatever dtype and device they were loaded in.

    Of the signs of 512 entries of every parameter (all of a smaller one), scattered over it: rounding leaves signs
    alone, while training, and a head that is set to zero, change some. It does not see weights that are multiplied by
    something positive, and a few that are changed by hand: results that are of one dtype are kept under
    :func:`weights_checksum`. In float16 a weight below 3e-8 becomes 0, so a model that has such an entry among those
    passes for another there.
    """
    digest = hashlib.sha256()
    for parameter in model.original_model.parameters():
        flat = parameter.detach().flatten()
        sample = flat[_scattered(flat.numel()).to(flat.device)]
        digest.update((sample > 0).to(device="cpu", dtype=torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def weights_checksum(model: TransformerBridge) -> str:
    """A hash of every weight as it is: the least change makes another, and so does another dtype."""
    digest = hashlib.sha256()
    for parameter in model.original_model.parameters():
        digest.update(parameter.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


@cache
def _scattered(n: int) -> Int[Tensor, " sample"]:
    """Places in a parameter of ``n`` entries: steps of the golden ratio, which no length of a row divides.

    Equal steps would stay in a few columns of a matrix, which may be a single head's.
    """
    if n <= _SAMPLES:
        return torch.arange(n)
    shares = torch.arange(_SAMPLES, dtype=torch.float64) * (5**0.5 - 1) / 2 % 1
    return (shares * n).long()
