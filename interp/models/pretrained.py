"""Hugging Face models, from a folder or from the hub, wrapped in a TransformerBridge."""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
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

from interp.models.agreement import TOKENS, check_agreement, few_logits
from interp.models.memory import check_weights
from interp.models.progress import status
from interp.models.vocabulary import check_tokenizer
from interp.tasks.errors import InputError, one_line

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
_NO_TOKENIZER = "Couldn't instantiate the backend tokenizer"
_IN_A_STACK = re.compile(r"(.*?)\.\d+\.")
"""A weight of a layer; what comes before its number."""


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
                ignore_mismatched_sizes=True,  # refused below, where what they are can be said
            )
    except InputError:
        raise
    except _DAMAGED as error:
        raise _unreadable(source, error) from error
    check_whole(model, told, source)
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

    Raises :class:`InputError` for an architecture that the bridge does not know or gets wrong, and for another model's
    tokenizer.
    """
    n_tokens = model.get_input_embeddings().weight.shape[0]
    check_tokenizer(tokenizer, n_tokens, name)
    architecture = ((config or model.config).architectures or [type(model).__name__])[0]
    # the library takes some names of folders for those of other models, and says so; a whole path it does not
    called = str(Path(name).resolve()) if Path(name).exists() else name
    context = getattr(config or model.config, "max_position_embeddings", None) or TOKENS
    few = partial(few_logits, d_vocab=n_tokens, context=context, device=device)
    own = few(model.to(device).eval(), library="transformers")
    try:
        bridge = TransformerBridge.boot_transformers(
            called, hf_model=model, tokenizer=tokenizer, dtype=model.dtype, device=device
        )
    except (ValueError, NotImplementedError, KeyError) as error:
        reason = one_line(error)
        raise InputError(
            f"{name}: transformer-lens cannot wrap the architecture {architecture} ({reason})"
        ) from error
    check_agreement(few(bridge.eval(), library="transformer-lens"), own, model.dtype, architecture)
    _without_foreign_tokens(bridge)
    return bridge


def check_whole(model: PreTrainedModel, told: Mapping[str, Any], source: str | Path) -> None:
    """Raise :class:`InputError` if the checkpoint is of another model than the configuration.

    Weights that are missing or of other shapes transformers draws at random, and others it leaves out.

    Args:
        told: what ``from_pretrained`` tells with ``output_loading_info``.
    """
    wrong = sorted(told["mismatched_keys"])
    if wrong:
        name, there, wanted = wrong[0]
        raise InputError(
            f"{source}: {name}{_others(wrong)} is of shape {list(there)} in the checkpoint, and of {list(wanted)} by "
            "config.json: one of the two is damaged"
        )
    missing = sorted(told["missing_keys"])
    if missing:
        raise InputError(
            f"{source} lacks weights, {missing[0]}{_others(missing)}: it is damaged, or not of a causal language model"
        )
    left = _left_out(model, told["unexpected_keys"])
    if left:
        raise InputError(
            f"{source} has weights that the model of its config.json does not, {left[0]}{_others(left)}: one of the "
            "two is damaged (are there fewer layers in config.json than in the checkpoint?)"
        )


def _others(names: Sequence[Any]) -> str:
    return f" and {len(names) - 1} more" if names[1:] else ""


def _left_out(model: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """Which weights that were not loaded belong to the model's own stack of layers.

    Others do no harm: buffers of earlier versions (``rotary_emb.inv_freq``, GPT-2's mask ``attn.bias``), a tied
    unembedding, heads of other tasks, the layers of an image encoder.
    """
    own = {name for name, _ in model.named_parameters()}
    layers = {found[0]: found[1] for name in own if (found := _IN_A_STACK.match(name))}
    left = []
    for name in sorted(unexpected):
        found = _IN_A_STACK.match(name)
        if found is None or not _is_end(found[1], layers.values()):
            continue
        module, _, kind = name.rpartition(".")
        more_of_a_layer = kind == "weight" or (kind == "bias" and _is_end(f"{module}.weight", own))
        if more_of_a_layer or not _is_end(found[0], layers):
            left.append(name)
    return left


def _is_end(name: str, of: Iterable[str]) -> bool:
    """Base models are saved without the prefix of their place in the causal one."""
    return any(f".{whole}".endswith(f".{name}") for whole in of)


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
        return InputError(f"cannot read {what} from the folder {source}: {_reason(error)}")
    causes = [error, error.__cause__, error.__context__]
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        reason = "access to it must be granted first (log in with `hf auth login`)"
    elif any(isinstance(cause, RepositoryNotFoundError | HFValidationError) for cause in causes):
        reason = "the Hugging Face hub has no such model"
    elif isinstance(error, OSError):
        reason = "the Hugging Face hub could not be reached, or it holds no such model"
    else:
        reason = _reason(error)
    return InputError(f"cannot load {source!r}: {reason}; a local folder or .gguf file works without the hub")


def _reason(error: Exception) -> str:
    if str(error).startswith(_NO_TOKENIZER):
        return "it holds no files of one, such as tokenizer.json, or none that transformers can read"
    return f"it lacks {error}" if isinstance(error, KeyError) else one_line(error)
