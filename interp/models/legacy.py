"""TransformerLens' legacy checkpoints, for attention-only models such as ``attn-only-4l``, as native bridges.

A checkpoint is a folder with ``config.json`` and a ``*.pth`` that holds the state dict of a
``HookedTransformer``. Converting is a pure rename and reshape: activations and logits are the original's
bit for bit. Checkpoints with MLPs are refused: they use SoLU, which native models have only from
transformer-lens 4 on.

``attn-only-4l`` itself is NeelNanda/Attn_Only_4L512W_C4_Code, the model of the published docstring circuit.
"""

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from huggingface_hub import snapshot_download
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from interp.errors import InputError
from interp.files import read_json
from interp.models.pretrained import read_tokenizer

LEGACY = "attn-only-4l"
REPOSITORY = "NeelNanda/Attn_Only_4L512W_C4_Code"
TOKENIZER = "NeelNanda/gpt-neox-tokenizer-digits"


def read_legacy(
    path: str, device: torch.device, dtype: torch.dtype
) -> tuple[TransformerBridge, str, str | None]:
    """Read a checkpoint from a folder, a ``.pth`` in its folder, or (for an empty path) the hub.

    Returns the model, what was read, and the hub's commit. Raises :class:`InputError` when it cannot be read.
    """
    checkpoint, source, commit = _find(path)
    config = _config(checkpoint.parent)
    try:
        legacy = torch.load(checkpoint, map_location="cpu", weights_only=True)
        state, shapes = convert(legacy)
    except InputError:
        raise
    except (
        pickle.UnpicklingError,
        RuntimeError,
        OSError,
        EOFError,
        KeyError,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(f"{checkpoint} is not a HookedTransformer's state dict, or is damaged") from error
    bridge_config = TransformerBridgeConfig(
        **shapes,
        act_fn="gelu",  # of no effect: there is no MLP
        attn_only=True,
        normalization_type=config.get("normalization", config.get("normalization_type", "LN")),
        final_rms=config.get("final_rms", False),
        positional_embedding_type="standard",
    )
    tokenizer = _tokenizer(checkpoint.parent, config)
    model = TransformerBridge.boot_native(
        bridge_config, tokenizer, device=device, dtype=dtype, model_name=LEGACY
    )
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise InputError(
            f"{checkpoint} does not fit its config.json: {' '.join(str(error).split())[:300]}"
        ) from error
    return model, source, commit


def read_legacy_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside the checkpoint when there is one, else the one on the hub that its config
    names."""
    checkpoint, _, _ = _find(path)
    return _tokenizer(checkpoint.parent, _config(checkpoint.parent))


def _tokenizer(folder: Path, config: dict[str, Any]) -> PreTrainedTokenizerBase:
    if (folder / "tokenizer.json").is_file():
        return read_tokenizer(folder)
    name = config.get("tokenizer_name") or TOKENIZER
    try:
        return read_tokenizer(name)
    except InputError as error:
        raise InputError(f"{error}; or put the files of its tokenizer into {folder}") from error


def convert(legacy: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Rename and reshape a HookedTransformer's state dict; also returns the shapes it implies.

    Raises :class:`InputError` for a model with MLPs, ``KeyError`` when a weight is missing.
    """
    if any(".mlp." in name for name in legacy):
        raise InputError(
            "the checkpoint has MLPs: of the legacy models only attention-only ones can be loaded"
        )
    n_layers = sum(name.endswith("attn.W_Q") for name in legacy)
    heads, d_model, d_head = legacy["blocks.0.attn.W_Q"].shape
    d_vocab = legacy["embed.W_E"].shape[0]
    state = {
        "embed.weight": legacy["embed.W_E"],
        "pos_embed.weight": legacy["pos_embed.W_pos"],
        "unembed.weight": legacy["unembed.W_U"].T.contiguous(),
        # older checkpoints have no b_U; left out, the logits would be off without a word
        "unembed.bias": legacy.get("unembed.b_U", torch.zeros(d_vocab)),
    }
    norms = ["ln_final"]
    for layer in range(n_layers):
        block, attention = f"blocks.{layer}", f"blocks.{layer}.attn"
        norms.append(f"{block}.ln1")
        for name in "qkv":
            weight, bias = legacy[f"{attention}.W_{name.upper()}"], legacy[f"{attention}.b_{name.upper()}"]
            state[f"{attention}.{name}.weight"] = rearrange(weight, "head m d -> (head d) m")
            state[f"{attention}.{name}.bias"] = rearrange(bias, "head d -> (head d)")
        state[f"{attention}.o.weight"] = rearrange(legacy[f"{attention}.W_O"], "head d m -> m (head d)")
        state[f"{attention}.o.bias"] = legacy[f"{attention}.b_O"]
    for name in norms:
        for new, old in (("weight", "w"), ("bias", "b")):
            if f"{name}.{old}" in legacy:
                state[f"{name}.{new}"] = legacy[f"{name}.{old}"]
    shapes = {
        "n_layers": n_layers,
        "n_heads": heads,
        "d_model": d_model,
        "d_head": d_head,
        "d_vocab": d_vocab,
        "n_ctx": legacy["pos_embed.W_pos"].shape[0],
    }
    return state, shapes


def _find(path: str) -> tuple[Path, str, str | None]:
    if not path:
        try:
            folder = Path(snapshot_download(REPOSITORY, allow_patterns=["config.json", "*final.pth"]))
        except OSError as error:
            raise InputError(
                f"cannot fetch {LEGACY} ({REPOSITORY}) from the Hugging Face hub: "
                f"give a copy as {LEGACY}:<folder>"
            ) from error
        source, commit = f"Hugging Face hub, {REPOSITORY}", folder.name
    else:
        folder = Path(os.path.expanduser(path))
        source, commit = str(folder.resolve()), None
    if folder.is_file():
        return folder, source, commit
    found = sorted(folder.glob("*.pth"))
    final = [file for file in found if file.name.endswith("final.pth")] or found
    if len(final) != 1:
        what = "no .pth file" if not final else f"{len(final)} .pth files, and none named *final.pth"
        raise InputError(f"{LEGACY}: the folder {folder} has {what}")
    return final[0], source, commit


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        config = read_json(path)
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a model's configuration")
    if config.get("shortformer_pos"):
        raise InputError(f"{path}: shortformer position embeddings are not supported")
    return config
