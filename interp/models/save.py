"""Writing a model whose weights have changed, in Hugging Face's format, so that its folder is a spec of its own."""

import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import JointQKVAttentionBridge, LinearBridge
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from interp.errors import InputError

_WRAPPED = "._original_component"


def check_saveable(model: TransformerBridge) -> None:
    """Refuse a model that :func:`save_model` cannot write: its architecture is not one of Hugging Face's (planted)."""
    if not hasattr(model.original_model, "config"):
        raise InputError(
            f"a {type(model.original_model).__name__} cannot be saved in Hugging Face's format: it is not finetuned"
        )


def trained_weights(model: TransformerBridge) -> dict[str, nn.Parameter]:
    """The parameters that finetuning may change, by name: those that the original architecture has.

    The bridge adds some of its own, such as a bias to the unembedding. Where the architecture has a joint
    query-key-value matrix (GPT-2, GPT-NeoX), the bridge computes with three in its place: those are trained, and
    :func:`save_model` joins them.
    """
    original = model.original_model
    plain = AutoModelForCausalLM.from_config(original.config).state_dict()
    split = {id(p) for attention in _joint(model) for part in _parts(attention) for p in part.parameters()}
    named = {name.replace(_WRAPPED, ""): p for name, p in original.named_parameters()}
    return {name: p for name, p in named.items() if name in plain or id(p) in split}


def save_model(model: TransformerBridge, folder: Path) -> None:
    """Write weights, configuration and tokenizer; :func:`~interp.models.load_model` reads the folder."""
    for attention in _joint(model):
        _join(attention)
    original = model.original_model
    # the bridge wraps the original's parts, and lists them under its own names once more
    weights = {name.replace(_WRAPPED, ""): tensor for name, tensor in original.state_dict().items()}
    plain = AutoModelForCausalLM.from_config(original.config)
    left = plain.load_state_dict(weights, strict=False)
    if left.missing_keys:
        raise InputError(f"cannot save this model: {left.missing_keys[0]} is not among its weights")
    plain.tie_weights()
    write_pretrained(plain, model.tokenizer, folder)


def write_pretrained(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write a transformers model and its tokenizer; no file is there by half. Raises :class:`OSError` if the disk is
    full."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        begun = Path(temporary) / folder.name
        try:
            model.save_pretrained(begun)
        except SafetensorError as error:  # its way of saying that the disk is full
            raise OSError(f"cannot write {folder} ({error})") from error
        if tokenizer is not None:
            tokenizer.save_pretrained(begun)
        folder.mkdir(exist_ok=True)
        for path in begun.iterdir():
            if path.is_dir():  # of chat templates: a folder replaces none that holds files
                shutil.rmtree(folder / path.name, ignore_errors=True)
            path.replace(folder / path.name)


def _joint(model: TransformerBridge) -> list[JointQKVAttentionBridge]:
    return [module for module in model.modules() if isinstance(module, JointQKVAttentionBridge)]


def _parts(attention: JointQKVAttentionBridge) -> tuple[LinearBridge, LinearBridge, LinearBridge]:
    return attention.q, attention.k, attention.v


@torch.no_grad()
def _join(attention: JointQKVAttentionBridge) -> None:
    """Write the query, key and value matrices that the bridge computes with into the joint one that they came from.

    How a family lays them out is asked of the bridge's own splitting: given the places of a matrix in place of its
    entries, it says where each entry went.
    """
    joint = attention.qkv.original_component
    for name in ("weight", "bias"):
        parameter = getattr(joint, name, None)
        if parameter is None:
            continue
        entries = parameter.data
        # in float64 every place is exact, and on the processor float64 is always there
        parameter.data = torch.arange(entries.numel(), dtype=torch.float64).view_as(entries)
        try:
            split = attention.split_qkv_matrix(attention.original_component)
        finally:
            parameter.data = entries
        for part, went in zip(_parts(attention), split, strict=True):
            places = getattr(went, name).flatten().long().to(entries.device)
            separate = getattr(part.original_component, name).flatten()
            entries.view(-1)[places] = separate.clone()  # in some families a view of the joint one
