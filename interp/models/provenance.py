"""Where a model came from: recorded when it is loaded, written into every result made with it."""

import hashlib
import weakref
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from interp.models.device import model_device

_sources: "weakref.WeakKeyDictionary[TransformerBridge, dict[str, str]]" = weakref.WeakKeyDictionary()


def record_source(model: TransformerBridge, spec: str, source: str, revision: str | None = None) -> None:
    """Remember the spec that was asked for, what was read, and its revision or hash."""
    _sources[model] = {"spec": spec, "source": source, **({"revision": revision} if revision else {})}


def describe_model(model: TransformerBridge) -> dict[str, Any]:
    """What a model is and where it came from, as JSON values.

    ``spec``, ``source`` and ``revision`` (a commit of the hub or a sha256; ``None`` when not known) are
    ``None`` for a model that :func:`interp.models.load_model` did not load.
    """
    cfg = model.cfg
    known = _sources.get(model, {})
    return {
        "spec": known.get("spec"),
        "source": known.get("source"),
        "revision": known.get("revision"),
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

    Of the signs of 256 to 511 entries of every parameter (all of a smaller one): rounding leaves signs alone, training
    does not. In float16, though, a weight below 3e-8 becomes 0, so a model that has such an entry among those passes
    for another there.
    """
    digest = hashlib.sha256()
    for parameter in model.original_model.parameters():
        flat = parameter.detach().flatten()
        some = flat[:: max(1, flat.numel() // 256)]
        digest.update((some > 0).to(device="cpu", dtype=torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
