"""Released codebook-features checkpoints, from a local copy.

Tamkin, Taufeeque & Goodman 2023 (arXiv 2310.17230) released models that were trained together with their codebooks, in
the format of Hugging Face: ``config.json`` of ``model_type`` ``codebook``, and one state dict that holds the language
model under ``model.`` (a wrapped module under ``module_layer``) and the codebooks under ``codebook_layer``. ::

    books = load_codebook_features("TinyStories-1Layer-21M-codebook")
    export_language_model("TinyStories-1Layer-21M-codebook", base="TinyStories-1Layer-21M", out="tinystories")
    model = load_model("tinystories")
    with attach(model, books): ...

What their code computes at a site is a mean, not a sum, of the k codes, behind a LayerNorm: here the codes are divided
by k, which changes no choice of codes (:class:`~interp.bottlenecks.kinds.layer_norm_codebook.LayerNormCodebook`). The
base model alone is another model: codes mean something only behind the weights that were trained with them.
"""

import pickle
import re
from collections import defaultdict
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from interp.bottlenecks.kinds.codebook import CodebookConfig, Selection
from interp.bottlenecks.kinds.layer_norm_codebook import LayerNormCodebook
from interp.bottlenecks.store import ManifestPart, manifest_fault
from interp.errors import InputError, one_line
from interp.files import read_json
from interp.models.pretrained import read_tokenizer
from interp.models.save import write_pretrained

SITES = {"attn_preproj": "a", "mlp": "m", "transformer_block": "r"}
_KEY = re.compile(r"model\.(?:transformer\.h|gpt_neox\.layers)\.(\d+)\.((?:\w+\.)*)codebook_layer\.(.+)")
_PART = re.compile(r"(?:codebook\.(\d+)\.)?(codebook\.weight|ln\.weight|ln\.bias)")
_PLACES = {
    "": ("transformer_block", "attn_plus_mlp"),
    "mlp.": ("mlp",),
    "attn.": ("attn_preproj", "attn"),
    "attention.": ("attn_preproj", "attn"),
    "attn.attention.": ("attn_preproj", "attn"),
}
_BUFFERS = re.compile(r"(\.attn|\.attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$")


class _Config(ManifestPart):
    model_type: Literal["codebook"]
    codebook_at: str | list[str] = "mlp"
    k_codebook: int | list[int] = 1
    similarity_metric: Literal["inner_product", "euclidean"] = "inner_product"

    @property
    def places(self) -> list[str]:
        return [self.codebook_at] if isinstance(self.codebook_at, str) else self.codebook_at

    @property
    def ks(self) -> list[int]:
        """Codes of a vector at each of the places."""
        return [self.k_codebook] * len(self.places) if isinstance(self.k_codebook, int) else self.k_codebook


def load_codebook_features(folder: Path | str) -> dict[str, LayerNormCodebook]:
    """The codebooks of a checkpoint by site, for :func:`interp.bottlenecks.attach.attach`.

    Sites are ``a5`` for codebooks on the heads before their projection, ``m5`` on an MLP's output, ``r5`` on a block's.
    Codebooks at other places (within the MLP, on query, key and value, on a sum), top-k by Euclidean distance with k
    above 1, and files that hold more than tensors are refused.
    """
    folder = Path(folder)
    config = _read_config(folder)
    books: dict[tuple[int, str], dict[tuple[int, str], Tensor]] = defaultdict(dict)
    for key, tensor in _read_tensors(folder).items():
        if match := _KEY.fullmatch(key):
            layer, inside, rest = match.groups()
            part = _PART.fullmatch(rest)
            if part is None:
                raise InputError(f"{folder}: {key} is nothing that a codebook of this format has")
            group = int(part[1] or 0)
            books[int(layer), _place(folder, inside, config.places)][group, part[2]] = tensor
    if not books:
        raise InputError(f"{folder} holds no codebooks")
    return {
        f"{SITES[place]}{layer}": _book(folder, parts, config, place) for (layer, place), parts in sorted(books.items())
    }


def export_language_model(folder: Path | str, *, base: Path | str, out: Path | str) -> None:
    """Write the language model of a checkpoint, without its codebooks, as a folder that ``load_model`` reads; ``base``
    is the folder of the model that was trained further, whose configuration and tokenizer the checkpoint lacks."""
    folder, base, out = Path(folder), Path(base), Path(out)
    if (out / "config.json").exists():
        raise InputError(f"{out} holds a model already: choose another folder")
    _read_config(folder)
    weights = {
        key.removeprefix("model.").replace("module_layer.", ""): tensor
        for key, tensor in _read_tensors(folder).items()
        if "codebook_layer." not in key
    }
    try:
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base, local_files_only=True))
        tokenizer = read_tokenizer(base)
        left = model.load_state_dict(weights, strict=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{folder} does not fit the model in {base}: {one_line(error)}") from None
    model.tie_weights()
    tied = {"lm_head.weight", "embed_out.weight"} if model.config.tie_word_embeddings else set()
    wrong = [key for key in left.missing_keys if key not in tied and not _BUFFERS.search(key)]
    wrong += [key for key in left.unexpected_keys if not _BUFFERS.search(key)]
    if wrong:
        raise InputError(f"{folder} does not fit the model in {base}: {wrong[0]}, and {len(wrong) - 1} more")
    write_pretrained(model, tokenizer, out)


def _book(folder: Path, parts: dict[tuple[int, str], Tensor], config: _Config, place: str) -> LayerNormCodebook:
    groups = sorted({group for group, _ in parts})
    k = config.ks[config.places.index(place)]
    try:
        codes, gain, bias = (
            torch.stack([parts[group, name].float() for group in groups])
            for name in ("codebook.weight", "ln.weight", "ln.bias")
        )
    except (KeyError, RuntimeError):
        raise InputError(f"{folder}: the codebooks at {place} are not whole, or not of one size") from None
    nearest = config.similarity_metric == "euclidean"
    if nearest and k > 1:
        raise InputError(f"{folder}: {k} codes by Euclidean distance are not supported, only one")
    # of one code, the smallest squared remainder is the nearest
    selection: Selection = "matching_pursuit" if nearest else "cosine"
    _, n_codes, d_in = codes.shape
    book = LayerNormCodebook(CodebookConfig(d_in, n_codes, k, len(groups), selection))
    try:
        book.load_state_dict({"codes": codes / k, "gain": gain, "bias": bias, "counts": book.counts})
    except RuntimeError as error:
        raise InputError(f"{folder}: the codebooks at {place} do not fit: {one_line(error)}") from None
    return book


def _place(folder: Path, inside: str, codebook_at: list[str]) -> str:
    known = _PLACES.get(inside.replace("module_layer.", ""), ())
    place = next((place for place in known if place in codebook_at), inside.rstrip("."))
    if place not in SITES:
        raise InputError(
            f"{folder} has codebooks at {place!r}, where nothing can be attached here: only at {', '.join(SITES)}"
        )
    return place


def _read_config(folder: Path) -> _Config:
    path = folder / "config.json"
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the configuration {path}: {error}") from None
    if (wrong := manifest_fault(_Config, config)) is not None:
        raise InputError(f"{path} is not of a codebook-features checkpoint: {wrong}")
    known = _Config(**config)
    if len(known.ks) != len(known.places):
        raise InputError(f"{path}: k_codebook {known.ks} for codebooks at {', '.join(known.places)}")
    return known


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise InputError(f"{folder} holds no weights: neither *.safetensors nor pytorch_model*.bin")
    tensors: dict[str, Tensor] = {}
    for path in files:
        try:
            if path.suffix == ".safetensors":
                tensors |= load_file(path)
            else:
                tensors |= torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise InputError(f"{path} holds more than tensors, which could run as code: not read") from None
        except (SafetensorError, OSError, RuntimeError, EOFError, TypeError) as error:
            raise InputError(f"cannot read the weights {path}: {one_line(error)}") from None
    return tensors
