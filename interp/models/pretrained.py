"""Hugging Face models, from a folder or from the hub, wrapped in a TransformerBridge."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from interp.models.memory import check_weights
from interp.models.progress import status
from interp.tasks.errors import InputError

_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
)
"""What transformers raises for files that are not what they seem."""


def read_pretrained(source: str | Path, device: torch.device, dtype: torch.dtype) -> TransformerBridge:
    """Read a causal language model and its tokenizer from a folder (a ``Path``) or the hub (an id).

    A folder is read without a word to any network. Raises :class:`InputError` when it cannot be read.
    """
    local = isinstance(source, Path)
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local)
        tokenizer = read_tokenizer(source)
        for place in {device, torch.device("cpu")}:  # where they are read to first
            check_weights(config, dtype, place)
        # a hub's download bars stay: they are worth seeing
        with status(f"loading {source}") if local else contextlib.nullcontext():
            model, told = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                attn_implementation="eager",
                local_files_only=local,
                output_loading_info=True,
            )
    except InputError:
        raise
    except _DAMAGED as error:
        raise _unreadable(source, error) from error
    check_whole(told, source)
    return wrap(model, tokenizer, str(source), device, config=config)


def read_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer from a folder (a ``Path``) or the hub (an id)."""
    local = isinstance(source, Path)
    try:
        try:
            # the bridge wants a tokenizer that puts BOS first, and would else load it once more
            return AutoTokenizer.from_pretrained(source, add_bos_token=True, local_files_only=local)
        except ValueError:  # it has no BOS
            return AutoTokenizer.from_pretrained(source, local_files_only=local)
    except _DAMAGED as error:
        raise _unreadable(source, error, "a tokenizer") from error


def wrap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    device: torch.device,
    *,
    config: PreTrainedConfig | None = None,
) -> TransformerBridge:
    """Put a TransformerBridge around a model that is already in memory.

    Raises :class:`InputError` for an architecture that the bridge does not know.
    """
    architecture = ((config or model.config).architectures or [type(model).__name__])[0]
    try:
        bridge = TransformerBridge.boot_transformers(
            name, hf_model=model.to(device), tokenizer=tokenizer, dtype=model.dtype, device=device
        )
    except (ValueError, NotImplementedError, KeyError) as error:
        reason = _first_line(error)
        raise InputError(
            f"{name}: transformer-lens cannot wrap the architecture {architecture} ({reason})"
        ) from error
    _without_foreign_tokens(bridge)
    return bridge


def check_whole(told: Mapping[str, Any], source: str | Path) -> None:
    """Raise :class:`InputError` if weights were not in the checkpoint: transformers draws them at random.

    Args:
        told: what ``from_pretrained`` tells with ``output_loading_info``.
    """
    missing = sorted(told["missing_keys"])
    if missing:
        others = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise InputError(
            f"{source} lacks weights, {missing[0]}{others}: it is damaged, or not of a causal language model"
        )


def _without_foreign_tokens(bridge: TransformerBridge) -> None:
    """A tokenizer without special tokens is given one by the bridge, which the model has no embedding of."""
    for name in ("bos_token", "eos_token", "pad_token"):
        number = getattr(bridge.tokenizer, f"{name}_id")
        if number is not None and number >= bridge.cfg.d_vocab:
            setattr(bridge.tokenizer, name, None)
    if bridge.tokenizer.pad_token is None:  # a pad is never read, so any that the model knows will do
        bridge.tokenizer.pad_token = bridge.tokenizer.eos_token or bridge.tokenizer.bos_token


def _unreadable(source: str | Path, error: Exception, what: str = "a causal language model") -> InputError:
    if isinstance(source, Path):
        return InputError(f"cannot read {what} from the folder {source}: {_first_line(error)}")
    causes = [error, error.__cause__, error.__context__]
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        reason = "access to it must be granted first (log in with `hf auth login`)"
    elif any(isinstance(cause, RepositoryNotFoundError | HFValidationError) for cause in causes):
        reason = "the Hugging Face hub has no such model"
    elif isinstance(error, OSError):
        reason = "the Hugging Face hub could not be reached, or it holds no such model"
    else:
        reason = _first_line(error)
    return InputError(f"cannot load {source!r}: {reason}; a local folder or .gguf file works without the hub")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
