"""Hugging Face models, from a folder or from the hub, wrapped in a TransformerBridge.

GGUF files: dequantised to float32 by transformers, for every architecture it knows.

A wrapped model must say what the model itself says; looked at when it is loaded, on a few tokens.
"""

import contextlib
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, StrictDataclassError
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from interp.errors import InputError, one_line
from interp.files import readable
from interp.models.limits import check_fits, check_tokenizer, check_weights
from interp.progress import quiet, status

MOST_LAYERS = 1000
TOKENS = 4  # what a position gets wrong shows from the second on
_TOLERANCE = {torch.float32: 1e-2, torch.float64: 1e-2}
_ROUGH_TOLERANCE = 0.2  # of the largest logit: numbers of 16 bits round in another order in each


@torch.no_grad()
def few_logits(
    model: nn.Module, d_vocab: int, context: int, device: torch.device, library: str
) -> Float[Tensor, "pos d_vocab"]:
    """Logits at a few tokens from all over the vocabulary, of a model of transformers or a wrapped one; an
    :class:`InputError` that names the ``library`` if the forward fails."""
    length = min(TOKENS, context)
    ids = torch.tensor([[k * d_vocab // length for k in range(length)]], device=device)
    try:
        out = model(ids)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, NotImplementedError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{library} cannot run this model: {one_line(error)}") from error
    return (out if isinstance(out, Tensor) else out.logits)[0].float()


def check_agreement(
    wrapped: Float[Tensor, "pos d_vocab"], original: Float[Tensor, "pos d_vocab"], dtype: torch.dtype, architecture: str
) -> None:
    """Raise :class:`InputError` unless logits are those of the model before it was wrapped, or are no numbers."""
    error = ((wrapped - original).abs().max() / original.abs().max()).item()
    if error > _TOLERANCE.get(dtype, _ROUGH_TOLERANCE):
        raise InputError(
            f"transformer-lens runs the architecture {architecture} otherwise than transformers does: logits are off "
            f"by {error:.0%}, so what would be found is of no model"
        )


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
_IN_A_STACK = re.compile(r"(.*?)\.\d+\.")  # a weight of a layer; what comes before its number


def read_pretrained(source: str | Path, device: torch.device, dtype: torch.dtype) -> TransformerBridge:
    """Read a causal language model and its tokenizer from a folder (a ``Path``), without a word to any network, or the
    hub (an id)."""
    local = isinstance(source, Path)
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local)
        _check_numbers(config)
        tokenizer = read_tokenizer(source)
        for place in {device, torch.device("cpu")}:  # where they are read to first
            check_weights(config, dtype, place)
        # a hub's download bars stay: they are worth seeing
        with status(f"loading {source}") if local else contextlib.nullcontext():
            # sizes that do not match are refused below, where what they are can be said
            model, loading = _causal(source, dtype, local, ignore_mismatched_sizes=True)
    except InputError:
        raise
    except _DAMAGED as error:
        raise _unreadable(source, error) from error
    check_whole(model, loading, source)
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
    except Exception as error:  # which is what the tokenizers library raises, and no more
        raise _unreadable(source, error, "a tokenizer") from error


def _check_numbers(config: PreTrainedConfig) -> None:
    """Raise for numbers that are none, and for a stack without end, before anything is built of them."""
    wrong = {k: v for k, v in config.to_dict().items() if isinstance(v, float) and not math.isfinite(v)}
    if not 1 <= (layers := config.get_text_config().num_hidden_layers) <= MOST_LAYERS:
        wrong["num_hidden_layers"] = layers
    if wrong:
        raise ValueError(f"config.json says {wrong}")


def wrap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    device: torch.device,
    *,
    config: PreTrainedConfig | None = None,
) -> TransformerBridge:
    """Put a TransformerBridge around a model that is already in memory, if the bridge knows it and gets it right."""
    embedding: Any = model.get_input_embeddings()
    n_tokens = embedding.weight.shape[0]
    check_tokenizer(tokenizer, n_tokens, name)
    architecture = ((config or model.config).architectures or [type(model).__name__])[0]
    # the library takes some names of folders for those of other models, and says so; a whole path it does not
    called = str(Path(name).resolve()) if Path(name).exists() else name
    context = getattr(config or model.config, "max_position_embeddings", None) or TOKENS
    given = (n_tokens, context, device)
    model.to(device)  # type: ignore[arg-type]
    original = few_logits(model.eval(), *given, library="transformers")
    try:
        bridge = TransformerBridge.boot_transformers(
            called, hf_model=model, tokenizer=tokenizer, dtype=model.dtype, device=device
        )
    except (ValueError, NotImplementedError, KeyError) as error:
        reason = f"cannot wrap the architecture {architecture} ({one_line(error)})"
        raise InputError(f"{name}: transformer-lens {reason}") from error
    wrapped = few_logits(bridge.eval(), *given, library="transformer-lens")
    check_agreement(wrapped, original, model.dtype, architecture)
    _without_foreign_tokens(bridge)
    return bridge


def check_whole(model: PreTrainedModel, loading: Mapping[str, Any], source: str | Path) -> None:
    """Raise :class:`InputError` if the checkpoint, by what ``from_pretrained`` says of loading it, is of another model
    than the configuration. Weights that are missing or of other shapes transformers draws at random, and others it
    leaves out."""
    wrong = sorted(loading["mismatched_keys"])
    if wrong:
        name, stored, wanted = wrong[0]
        raise InputError(
            f"{source}: {name}{_others(wrong)} is of shape {list(stored)} in the checkpoint, and of {list(wanted)} by "
            "config.json: one of the two is damaged"
        )
    missing = sorted(loading["missing_keys"])
    if missing:
        raise InputError(
            f"{source} lacks weights, {missing[0]}{_others(missing)}: it is damaged, or not of a causal language model"
        )
    left = _left_out(model, loading["unexpected_keys"])
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
    parameters = {name for name, _ in model.named_parameters()}
    layers = {match[0]: match[1] for name in parameters if (match := _IN_A_STACK.match(name))}
    left = []
    for name in sorted(unexpected):
        match = _IN_A_STACK.match(name)
        if match is None or not _is_end(match[1], layers.values()):
            continue
        module, _, kind = name.rpartition(".")
        more_of_a_layer = kind == "weight" or (kind == "bias" and _is_end(f"{module}.weight", parameters))
        if more_of_a_layer or not _is_end(match[0], layers):
            left.append(name)
    return left


def _is_end(name: str, names: Iterable[str]) -> bool:
    """Base models are saved without the prefix of their place in the causal one."""
    return any(f".{whole}".endswith(f".{name}") for whole in names)


def _without_foreign_tokens(bridge: TransformerBridge) -> None:
    """A tokenizer without special tokens is given one by the bridge, which the model has no embedding of."""
    for name in ("bos_token", "eos_token", "pad_token"):
        number = getattr(bridge.tokenizer, f"{name}_id")
        if number is not None and number >= bridge.cfg.d_vocab:
            setattr(bridge.tokenizer, name, None)
    if bridge.tokenizer.pad_token is None:  # a pad is never read, so any that the model knows will do
        bridge.tokenizer.pad_token = bridge.tokenizer.eos_token or bridge.tokenizer.bos_token


def _unreadable(source: str | Path, error: Exception, wanted: str = "a causal language model") -> InputError:
    if isinstance(source, Path):
        return InputError(f"cannot read {wanted} from the folder {source}: {_reason(error)}")
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


_MAGIC = b"GGUF"


def read_gguf(path: Path, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read model (eager attention, eval mode, on the CPU) and tokenizer from a GGUF file.

    The model is an ordinary one afterwards: what transformers remembers of the quantisation is cleared,
    because ``save_pretrained`` refuses such a model, and ``config.architectures`` is set, because the file
    does not say it.
    """
    check_header(path)
    with _gguf_readable(path):
        elements = sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
    check_fits(elements * dtype.itemsize, torch.device("cpu"), "a smaller model")
    with _gguf_readable(path), quiet():
        model, loading = _causal(path.parent, dtype, True, gguf_file=path.name)
        tokenizer = _tokenizer(path)
    check_whole(model, loading, path)
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    return model.eval(), tokenizer


def _causal(source: str | Path, dtype: torch.dtype, local: bool, **options: Any) -> Any:
    """A model, and what transformers tells of loading it."""
    options |= {"attn_implementation": "eager", "local_files_only": local, "output_loading_info": True}
    return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)


def read_gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer alone."""
    check_header(path)
    with _gguf_readable(path), quiet():
        return _tokenizer(path)


def check_header(path: Path) -> None:
    """Raise :class:`InputError` unless the file begins like a GGUF of a version in use (2 or 3)."""
    with readable(path).open("rb") as file:
        head = file.read(8)
    if len(head) < 8 or head[:4] != _MAGIC or struct.unpack("<I", head[4:])[0] not in (2, 3):
        raise InputError(f"{path} is not a GGUF file (version 2 or 3)")


def _tokenizer(path: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    if tokenizer.bos_token is not None:
        # BOS first, as the bridge wants it: else it looks for the tokenizer anew, beside the GGUF
        tokenizer.add_bos_token = True  # type: ignore[misc]
        tokenizer.init_kwargs["add_bos_token"] = True
    return tokenizer


@contextlib.contextmanager
def _gguf_readable(path: Path) -> Iterator[None]:
    """The reader walks the bytes with numpy: any kind of error at all can come of a damaged file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = f"damaged, or an architecture not supported ({one_line(error, 200)})"
        raise InputError(f"cannot read {path}: {reason}") from error
