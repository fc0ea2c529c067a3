"""GGUF files: dequantised to float32 by transformers, for every architecture it knows."""

import struct
from pathlib import Path

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from interp.models.memory import check_fits
from interp.models.pretrained import check_whole
from interp.models.progress import quiet
from interp.tasks.errors import InputError

_MAGIC = b"GGUF"


def read_gguf(
    path: Path, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read model (eager attention, eval mode, on the CPU) and tokenizer from a GGUF file.

    The model is an ordinary one afterwards: what transformers remembers of the quantisation is cleared,
    because ``save_pretrained`` refuses such a model, and ``config.architectures`` is set, because the file
    does not say it. Raises :class:`InputError` for a file that is no GGUF, is damaged, or has an
    architecture transformers cannot read.
    """
    check_header(path)
    try:
        elements = sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
    except Exception as error:
        raise _unreadable(path, error) from error
    check_fits(elements * dtype.itemsize, torch.device("cpu"), "a smaller model")
    try:
        with quiet():
            model, told = AutoModelForCausalLM.from_pretrained(
                path.parent,
                gguf_file=path.name,
                dtype=dtype,
                attn_implementation="eager",
                local_files_only=True,
                output_loading_info=True,
            )
            tokenizer = _tokenizer(path)
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error
    check_whole(model, told, path)
    _forget_quantisation(model)
    return model.eval(), tokenizer


def read_gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer alone; raises as :func:`read_gguf` does."""
    check_header(path)
    try:
        with quiet():
            return _tokenizer(path)
    except Exception as error:
        raise _unreadable(path, error) from error


def check_header(path: Path) -> None:
    """Raise :class:`InputError` unless the file begins like a GGUF of a version in use (2 or 3)."""
    with path.open("rb") as file:
        head = file.read(8)
    if len(head) < 8 or head[:4] != _MAGIC or struct.unpack("<I", head[4:])[0] not in (2, 3):
        raise InputError(f"{path} is not a GGUF file (version 2 or 3)")


def _tokenizer(path: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    if tokenizer.bos_token is not None:
        # BOS first, as the bridge wants it: else it looks for the tokenizer anew, beside the GGUF
        tokenizer.add_bos_token = True
        tokenizer.init_kwargs["add_bos_token"] = True
    return tokenizer


def _unreadable(path: Path, error: Exception) -> InputError:
    # the reader walks the bytes with numpy: any kind of error at all can come of a damaged file
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(f"cannot read {path}: damaged, or an architecture not supported ({reason})")


def _forget_quantisation(model: PreTrainedModel) -> None:
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
