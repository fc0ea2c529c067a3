"""Control vectors: one vector a layer, added behind each block. Other programs steer by them.

Codes that are added are constant writes to the residual stream, so they sum to one vector a layer. llama.cpp and
plug-ins of vLLM add such vectors to the output of a block, behind its MLP, at every token, the prompt's too. Heads
write before the MLP, so what they add is put behind the block before theirs: their own attention and MLP read it.

``.gguf`` is the layout of repeng and llama.cpp (``general.architecture`` is ``controlvector``, tensors ``direction.N``
in float32, added behind block N from 0). llama.cpp adds nothing behind block 0. ``.safetensors`` holds one tensor
``control_vector``, [layer, d_model], whose row N is added behind block N.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.attach import Attached, attach
from interp.bottlenecks.base import Bottleneck
from interp.bottlenecks.edits import AddCode, CodeEdit, Positions
from interp.errors import InputError
from interp.files import atomic_path, read_tensors, readable
from interp.models import Model, model_device, parse_site
from interp.models.residual_writes import ResidualWrites

ARCHITECTURE, DIRECTION, TENSOR = "controlvector", "direction", "control_vector"
SHIFT = -1  # blocks by which what heads write is moved: it costs least (benchmarks/TABLES.md)
SUFFIXES = (".gguf", ".safetensors")


@dataclass(frozen=True, eq=False)
class ControlVector:
    directions: Float[Tensor, "layer d_model"]  # what is added to the output of each block
    model_type: str = ""  # family of the model, as its configuration names it
    made_of: str = ""  # codes and doses, in words

    @property
    def layers(self) -> list[int]:
        """Those at which anything is added."""
        return self.directions.any(1).nonzero()[:, 0].tolist()

    @classmethod
    def from_edits(
        cls,
        model: Model,
        codebooks: Mapping[str, Bottleneck],
        edits: Sequence[CodeEdit],
        *,
        shift: int | None = None,
        made_of: str = "",
    ) -> "ControlVector":
        """What codes that are added write, summed behind each block. ``shift``: by how many blocks later than their own
        what heads write is added. None is :data:`SHIFT`, or 0 where the MLP does not read what the heads of its block
        write. :class:`InputError`: an edit that sets or forbids codes, or codes of heads or MLPs that do not add to the
        residual stream one by one, as where a norm stands behind them."""
        if wrong := [edit for edit in edits if not isinstance(edit, AddCode)]:
            raise InputError(
                f"a control vector of {type(wrong[0]).__name__} at {wrong[0].site}: what it changes depends on the "
                "code that is there; only codes that are added are a constant vector"
            )
        if model.cfg.n_layers < 2:
            raise InputError("a control vector is added behind block 1 and later ones: this model has one block")
        directions = torch.zeros(model.cfg.n_layers, model.cfg.d_model)
        writes = ResidualWrites.of(model)
        if shift is None:
            shift = 0 if model.cfg.parallel_attn_mlp else SHIFT
        for name, vectors in attach(model, codebooks, read=False).edit(*edits).added().items():
            site = parse_site(name)
            if site.kind != "resid":
                writes.require_additive(model, "a control vector")
            vector, layer = vectors.reshape(-1).float(), site.layer
            if site.kind == "attn":
                weight = writes.output_weight(model, layer).float()
                weight = weight if site.head is None else weight[site.head]
                vector, layer = vector @ weight.reshape(-1, model.cfg.d_model), layer + shift
            directions[min(max(layer, 1), model.cfg.n_layers - 1)] += vector.cpu()
        config = getattr(getattr(model, "original_model", None), "config", None)
        return cls(directions, getattr(config, "model_type", ""), made_of)

    def attached(
        self,
        model: Model,
        *,
        scale: float | int = 1.0,
        rows: Collection[SupportsIndex] | None = None,
        positions: Positions = "all",
    ) -> Attached:
        """A context in which ``scale`` times the vector is added; where other programs add it unless told otherwise."""
        if self.directions.shape != (model.cfg.n_layers, model.cfg.d_model):
            have = f"{model.cfg.n_layers} layers of width {model.cfg.d_model}"
            shape = " layers of width ".join(map(str, self.directions.shape))
            raise InputError(f"a control vector of {shape} does not fit this model: it has {have}")
        if not self.layers:
            raise InputError("this control vector is zero at every layer: there is nothing to add")
        books = vector_books(model, {f"r{layer}": self.directions[layer] for layer in self.layers})
        edits = [AddCode(site, 0, scale, rows) for site in books]
        return attach(model, books, read=False).edit(*edits, positions=positions)

    def save(self, path: Path | str) -> None:
        """Write ``.gguf`` or ``.safetensors``; layers without a direction are left out of the first."""
        path = checked_suffix(path)
        if path.suffix == ".gguf" and 0 in self.layers:
            raise InputError(f"control vector {path}: llama.cpp adds nothing behind block 0; .safetensors can hold it")
        with atomic_path(path) as temporary:
            if path.suffix == ".safetensors":
                metadata = {"model_type": self.model_type, "made_of": self.made_of, "added": "behind each block"}
                save_file({TENSOR: self.directions.contiguous()}, temporary, metadata)
                return
            from gguf import GGUFWriter

            writer = GGUFWriter(temporary, ARCHITECTURE)
            writer.add_string(f"{ARCHITECTURE}.model_hint", self.model_type)
            writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(self.directions))
            writer.add_description(self.made_of)
            for layer in self.layers:
                writer.add_tensor(f"{DIRECTION}.{layer}", self.directions[layer].numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()

    @classmethod
    def load(cls, path: Path | str, model: Model) -> "ControlVector":
        """Read what :meth:`save`, repeng or llama.cpp wrote, for a model of as many layers and as wide.

        :class:`InputError`: a file that is no control vector, or one of another model.
        """
        path = checked_suffix(path)
        try:
            readable(path)
            rows, facts = (_read_gguf if path.suffix == ".gguf" else _read_safetensors)(path)
        except OSError as error:
            raise InputError(f"control vector {path}: {error.strerror or error}") from None
        except (ValueError, KeyError, IndexError, SafetensorError) as error:
            raise InputError(f"control vector {path} cannot be read: {error}") from None
        shape = (model.cfg.n_layers, model.cfg.d_model)
        directions = torch.zeros(shape)
        for layer, row in rows.items():
            if not 0 <= layer < shape[0] or row.shape != shape[1:] or not row.isfinite().all():
                raise InputError(
                    f"control vector {path}: direction {layer} of shape {list(row.shape)} does not fit this model: "
                    f"finite ones of {shape[1]} numbers at layers 0 to {shape[0] - 1} do"
                )
            directions[layer] = row
        return cls(directions, **facts)


def checked_suffix(path: Path | str) -> Path:
    if Path(path).suffix not in SUFFIXES:
        raise InputError(f"control vector {path}: name a file that ends in {' or '.join(SUFFIXES)}")
    return Path(path)


def vector_books(model: Model, vectors: Mapping[str, Tensor]) -> dict[str, Codebook]:
    """Codebooks of one code each, a vector, so that ``AddCode(site, 0)`` adds it; heads of a layer in one."""
    device = model_device(model)
    books: dict[str, Codebook] = {}
    for site, vector in vectors.items():
        place = parse_site(site)
        name = site if place.head is None else f"a{place.layer}"
        if name not in books:
            groups = 1 if place.head is None else model.cfg.n_heads
            book = Codebook(CodebookConfig(d_in=len(vector), n_codes=1, groups=groups)).to(device)
            book.requires_grad_(False).codes.zero_()
            books[name] = book
        books[name].codes[place.head or 0, 0] = vector.to(device)
    return books


def _read_gguf(path: Path) -> tuple[dict[int, Tensor], dict[str, Any]]:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    facts = {name: str(field.contents()) for name in reader.fields if (field := reader.get_field(name))}
    if facts.get("general.architecture") != ARCHITECTURE:
        raise ValueError(f"its architecture is {facts.get('general.architecture')!r}, not {ARCHITECTURE!r}")
    rows: dict[int, Tensor] = {}
    for tensor in reader.tensors:
        name, _, layer = tensor.name.partition(".")
        if name != DIRECTION or not layer.isdecimal() or tensor.data.dtype != np.float32:
            raise ValueError(f"tensor {tensor.name!r} is no {DIRECTION}.N in float32")
        # llama.cpp adds up directions of one layer
        rows[int(layer)] = rows.get(int(layer), 0) + torch.from_numpy(np.array(tensor.data))
    made_of = facts.get("general.description", "")
    return rows, {"model_type": facts.get(f"{ARCHITECTURE}.model_hint", ""), "made_of": made_of}


def _read_safetensors(path: Path) -> tuple[dict[int, Tensor], dict[str, Any]]:
    tensors, words = read_tensors(path)
    if [*tensors] != [TENSOR] or tensors[TENSOR].ndim != 2:
        raise ValueError(f"it holds {', '.join(tensors) or 'nothing'}, not one {TENSOR} of [layer, d_model]")
    rows = dict(enumerate(tensors[TENSOR].float()))
    return rows, {key: words.get(key, "") for key in ("model_type", "made_of")}
