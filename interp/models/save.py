"""Writing a model whose weights have changed, in Hugging Face's format, so that its folder is a spec of its own."""

from pathlib import Path

from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from interp.tasks.errors import InputError

_WRAPPED = "._original_component"


def trained_weights(model: TransformerBridge) -> dict[str, nn.Parameter]:
    """The parameters that finetuning may change, by name: those that the original architecture has.

    The bridge adds some of its own: a bias to the unembedding, and a split copy of a joint query-key-value matrix,
    which it computes with. Families with such a matrix (GPT-2, GPT-NeoX) are refused: their attention would stay as
    it is.

    Raises:
        InputError: a family with a joint matrix.
    """
    original = model.original_model
    plain = AutoModelForCausalLM.from_config(original.config).state_dict()
    named = {name.replace(_WRAPPED, ""): p for name, p in original.named_parameters()}
    if any(name.endswith(".attn.q.weight") or name.endswith(".attention.q.weight") for name in named):
        raise InputError(
            "a model with a joint query-key-value matrix (GPT-2, GPT-NeoX) cannot be finetuned here: "
            "take objective local or distilled, or a model of another family"
        )
    return {name: p for name, p in named.items() if name in plain}


def save_model(model: TransformerBridge, folder: Path) -> None:
    """Write weights, configuration and tokenizer; :func:`~interp.models.load_model` reads the folder.

    Raises:
        InputError: weights of the original architecture that the bridge does not have under their own names.
    """
    original = model.original_model
    # the bridge wraps the original's parts, and lists them under its own names once more
    weights = {name.replace(_WRAPPED, ""): tensor for name, tensor in original.state_dict().items()}
    plain = AutoModelForCausalLM.from_config(original.config)
    left = plain.load_state_dict(weights, strict=False)
    if left.missing_keys:
        raise InputError(f"cannot save this model: {left.missing_keys[0]} is not among its weights")
    plain.tie_weights()
    plain.save_pretrained(folder)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)
