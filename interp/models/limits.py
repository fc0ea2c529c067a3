"""What a model can take: memory for its weights and activations, and tokens of its vocabulary."""

from collections.abc import Iterable, Sequence
from typing import Any

import psutil
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase

from interp.errors import InputError
from interp.models.hooks import model_device

_GIB = 2**30


def weight_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of a model's weights, from its config alone: the model is laid out without memory and counted."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize


def check_weights(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> None:
    """Raise :class:`InputError` when a model's weights will not fit on the device."""
    remedy = "a smaller model" if dtype.itemsize == 2 else "--dtype bfloat16"
    check_fits(weight_bytes(config, dtype), device, remedy)


def estimate_memory(
    model: TransformerBridge, batch: int, positions: int, *, layers_kept: int = 0, gradients: bool = False
) -> int:
    """Bytes that a forward needs on top of the weights: an upper estimate from the shapes, not a measurement.

    Counts the logits twice (float32), and per layer at work the residual stream, the MLP's inner activation
    and the attention pattern; ``gradients`` keeps every layer at work, ``layers_kept`` adds that many
    cached activations of the residual's size. On SmolLM2-135M it came out at 1.2 to 1.9 times the measured
    peak, from 4 × 32 to 2 × 1024 tokens, with gradients and without.
    """
    cfg = model.cfg
    size = cfg.dtype.itemsize
    tokens = batch * positions
    d_mlp = cfg.d_mlp or 0
    layer = tokens * (8 * cfg.d_model + 4 * d_mlp) * size + 2 * batch * cfg.n_heads * positions**2 * size
    at_work = cfg.n_layers if gradients else 1
    logits = 2 * tokens * cfg.d_vocab * 4
    return at_work * layer + layers_kept * tokens * cfg.d_model * size + logits


def check_memory(model: TransformerBridge, batch: int, positions: int, **kept: Any) -> None:
    """Raise :class:`InputError` when a forward of this shape will not fit; see :func:`estimate_memory`."""
    remedy = "a smaller --batch-size" + ("" if model.cfg.dtype.itemsize == 2 else " or --dtype bfloat16")
    check_fits(estimate_memory(model, batch, positions, **kept), model_device(model), remedy)


def free_memory(device: torch.device) -> int:
    """Free bytes on the device (for the CPU and Apple's shared memory: what the system can hand out)."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused_cache = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused_cache
    return psutil.virtual_memory().available


def check_fits(needed: int, device: torch.device, remedy: str) -> None:
    """Raise :class:`InputError`, with what to try instead, when that many bytes are not free on the device."""
    free = free_memory(device)
    if needed > free:
        sizes = f"needs about {needed / _GIB:.1f} GiB, {free / _GIB:.1f} GiB are free on {device}"
        raise InputError(f"{sizes}: try {remedy}")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, d_vocab: int, name: str) -> None:
    """Raise :class:`InputError` for a tokenizer of another model: ordinary tokens of it have no embedding."""
    if len(tokenizer) <= d_vocab:
        return
    added = tokenizer.added_tokens_decoder
    foreign = {i: token for token, i in tokenizer.get_vocab().items() if i >= d_vocab and i not in added}
    if foreign:
        first = min(foreign)
        raise InputError(
            f"{name}: its tokenizer is of another model: the token {foreign[first]!r} of id {first} and "
            f"{len(foreign) - 1} more have no embedding, as the model's vocabulary is of {d_vocab} tokens"
        )


def check_tokens(model: TransformerBridge, ids: Iterable[int], holder: str) -> None:
    """Raise :class:`InputError`, which begins with ``holder``, for the first id that the model has no embedding of."""
    d_vocab = model.cfg.d_vocab
    outside = next((i for i in ids if not 0 <= i < d_vocab), None)
    if outside is not None:
        raise InputError(
            f"{holder} has the token {_text(model, int(outside))}of id {outside}: the model's vocabulary is of "
            f"{d_vocab} tokens, ids 0 to {d_vocab - 1}"
        )


def check_texts(model: TransformerBridge, texts: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
    """:func:`check_tokens` of texts and their token ids."""
    for text, row in zip(texts, rows, strict=True):
        check_tokens(model, row, f"the text {text[:40]!r}")


def _text(model: TransformerBridge, token: int) -> str:
    known = None if model.tokenizer is None or token < 0 else model.tokenizer.convert_ids_to_tokens(token)
    return "" if known is None else f"{known!r} "
