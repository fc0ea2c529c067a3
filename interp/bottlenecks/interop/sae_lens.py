"""SAELens' SAEs read as codes, and ours written so that SAELens reads them.

The one module that imports ``sae_lens``; it needs transformer-lens below 4, so import it only where it is used:
``from interp.bottlenecks.interop.sae_lens import …``. Importing it makes ``codebook`` an architecture of SAELens;
without SAELens it raises ``InputError``.

A discrete SAE is exported as SAELens' own ``topk``, which anybody can load; a codebook as ``codebook``, whose
feature activations are the values of the chosen codes and zero elsewhere, [..., group · code]. There a group is a
stretch of the vector, as SAELens hands over the heads of z: flat.
"""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, no_type_check

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from interp.bottlenecks.base import Bottleneck, Codes, Vectors, check_ids, fetch, grouped_rows, id_dtype
from interp.bottlenecks.kinds.codebook import Codebook, CodebookConfig
from interp.bottlenecks.kinds.discrete_sae import DiscreteSAE
from interp.bottlenecks.kmeans import SIMILARITIES
from interp.errors import InputError
from interp.models import parse_site

try:
    from sae_lens import SAE, SAEConfig, TopKSAE, TopKSAEConfig, register_sae_class
    from sae_lens.registry import SAE_CLASS_REGISTRY
    from sae_lens.saes.sae import SAEMetadata
except ImportError as error:
    raise InputError(
        f"SAEs of SAELens need the package sae-lens, which needs transformer-lens below 4: {error}"
    ) from None

_SHARED = ("k", "groups", "selection", "magnitude")  # what a codebook's config says in the same words here and there
_NOT_KEPT, _NOT_FOLDED = "codes alone cannot undo", "is not in its weights: call its {} first"
NORMALISED = {
    "layer_norm": _NOT_KEPT,
    "constant_norm_rescale": _NOT_KEPT,
    "expected_average_only_in": _NOT_FOLDED.format("fold_activation_norm_scaling_factor"),
    "covariance_whitening": _NOT_FOLDED.format("fold_activation_whitening"),
}
"""Why a normalisation is refused: SAELens undoes it with what it keeps from encoding, or expects it in the weights."""


@no_type_check  # SAELens builds it with a plain dictionary as metadata, and mends that afterwards
@dataclass
class CodebookSAEConfig(SAEConfig):
    """See :class:`~interp.bottlenecks.kinds.codebook.CodebookConfig`; here d_in = groups · size of a code."""

    k: int = 1
    groups: int = 1
    selection: Literal["cosine", "matching_pursuit"] = "cosine"
    magnitude: Literal["unit", "scaled"] = "unit"

    @classmethod
    def architecture(cls) -> str:
        return "codebook"


class CodebookSAE(SAE[CodebookSAEConfig]):
    """A :class:`~interp.bottlenecks.kinds.codebook.Codebook` with SAELens' dense feature activations."""

    def initialize_weights(self) -> None:
        # SAELens subtracts and adds this one; a codebook has none
        self.b_dec = torch.nn.Parameter(torch.zeros(self.cfg.d_in, dtype=self.dtype, device=self.device))
        cfg, shared = self.cfg, {name: getattr(self.cfg, name) for name in _SHARED}
        config = CodebookConfig(d_in=cfg.d_in // cfg.groups, n_codes=cfg.d_sae // cfg.groups, **shared)
        self.book = Codebook(config).to(device=self.device, dtype=self.dtype)

    @property
    def W_dec(self) -> Float[Tensor, "code d_in"]:
        """Block diagonal, for SAELens' tools; made anew at each use and as large as the dense matrix."""
        return torch.block_diag(*self.book.codes)

    @property
    def W_enc(self) -> Float[Tensor, "d_in code"]:
        return self.W_dec.T

    def encode(self, x: Tensor) -> Tensor:
        flat = self.process_sae_in(x)
        codes = self.book.encode(flat if self.cfg.groups == 1 else flat.unflatten(-1, (self.cfg.groups, -1)))
        shape = (*flat.shape[:-1], self.cfg.groups, self.cfg.k)
        ids, values = codes.ids.reshape(shape).long(), codes.values.reshape(shape).to(self.dtype)
        acts = values.new_zeros(*shape[:-1], self.cfg.d_sae // self.cfg.groups).scatter_add_(-1, ids, values)
        return self.hook_sae_acts_post(self.hook_sae_acts_pre(acts.flatten(-2)))

    def decode(self, feature_acts: Tensor) -> Tensor:
        acts = feature_acts.unflatten(-1, (self.cfg.groups, -1))
        recons = torch.einsum("...gc,gcd->...gd", acts, self.book.codes).flatten(-2) + self.b_dec
        recons = self.run_time_activation_norm_fn_out(self.hook_sae_recons(recons))
        return self.reshape_fn_out(recons, self.d_head)

    def fold_W_dec_norm(self) -> None:
        raise NotImplementedError("the lengths of codes are what they add: they cannot be folded away")

    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        # not by .data, which passes by the version that tells the book of a change
        with torch.no_grad():
            self.book.codes.div_(scaling_factor)
            self.b_dec.div_(scaling_factor)
        self.cfg.normalize_activations = "none"

    def fold_activation_whitening(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("whitening would change which codes are most similar")


if "codebook" not in SAE_CLASS_REGISTRY:  # a live session may execute this module again
    register_sae_class("codebook", CodebookSAE, CodebookSAEConfig)


def export_to_sae_lens(bottleneck: Bottleneck, folder: Path, *, model_name: str, site: str) -> SAE:
    """Write a codebook or a discrete SAE so that ``SAE.load_from_disk(folder)`` reads it.

    A codebook needs this module imported first. Discrete SAEs of several groups are exported group by group, see
    :meth:`~interp.bottlenecks.kinds.discrete_sae.DiscreteSAE.select`: SAELens has no name for a single head, so one of
    it is written for its layer, to be given that head's vectors.
    """
    place = parse_site(site)
    metadata = SAEMetadata(model_name=model_name, hook_name=place.hook, model_class_name="TransformerBridge")
    # SAELens hands over the heads of z behind each other, where a book has one group a head
    reshape = "hook_z" if place.kind == "attn" and bottleneck.config.groups > 1 else "none"
    if type(bottleneck) is Codebook:  # other kinds of it see more than the vector as it is
        sae = _codebook_sae(bottleneck, metadata, reshape)
    elif isinstance(bottleneck, DiscreteSAE) and bottleneck.config.groups == 1:
        sae = _topk_sae(bottleneck, metadata, reshape)
    else:
        raise InputError(f"SAELens has no form for a {bottleneck.kind} of {bottleneck.config.groups} groups")
    sae.save_model(folder)
    return sae


def _codebook_sae(book: Codebook, metadata: SAEMetadata, reshape: str) -> CodebookSAE:
    config = book.config
    sae = CodebookSAE(
        CodebookSAEConfig(
            d_in=config.groups * config.d_in,
            d_sae=config.groups * config.n_codes,
            dtype=str(book.codes.dtype).removeprefix("torch."),
            apply_b_dec_to_input=False,
            reshape_activations=reshape,
            metadata=metadata,
            **{name: getattr(config, name) for name in _SHARED},
        )
    )
    sae.book.load_state_dict(book.state_dict())
    return sae


def _topk_sae(ours: DiscreteSAE, metadata: SAEMetadata, reshape: str) -> TopKSAE:
    config, weights = ours.config, ours.tensors()
    options = {"reshape_activations": reshape, "metadata": metadata}
    sae = TopKSAE(TopKSAEConfig(d_in=config.d_in, d_sae=config.n_codes, k=config.k, **options))
    sae.load_state_dict(
        {
            "W_enc": weights["encoder"][0].T.contiguous(),
            "b_enc": weights["encoder_bias"][0],
            "W_dec": weights["decoder"][0].T.contiguous(),
            "b_dec": weights["bias"][0],
        }
    )
    return sae


@dataclass(frozen=True)
class SaeLensConfig:
    """Sizes of a SAE, and how many of its active features are read as codes."""

    d_in: int
    n_codes: int
    k: int
    groups: int = 1


class SaeLensCodes(Bottleneck):
    """A SAE of SAELens as a bottleneck: the ``k`` most active features, of either sign, are the codes.

    Active features beyond ``k`` are left out, so ``k`` below the SAE's own number of active features costs accuracy.
    A SAE on z takes all heads of a layer at once: attach it at ``a5``. One on ``hook_resid_pre`` of layer 5 is one on
    ``r4``.

    Transcoders, SAEs that read more than one position, and input normalisations that codes cannot undo or that are not
    in the weights are refused. ``sae`` stays as it is.
    """

    kind = "sae_lens"
    config_class = SaeLensConfig
    config: SaeLensConfig

    def __init__(self, sae: SAE, k: int) -> None:
        kind, normalised = sae.cfg.architecture(), sae.cfg.normalize_activations
        if hasattr(sae.cfg, "d_out"):
            raise InputError(f"a {kind} reads one site and writes another: it is no bottleneck")
        if kind == "temporal":
            raise InputError("a temporal SAE reads earlier positions: codes of one position do not hold them")
        if normalised in NORMALISED:
            reason = NORMALISED[normalised]
            raise InputError(f"the SAE has normalize_activations {normalised!r}, which {reason}")
        if not 1 <= k <= sae.cfg.d_sae:
            raise InputError(f"k {k}: the SAE has {sae.cfg.d_sae} features")
        sae = copy.copy(sae)  # the weights are shared; whether z is reshaped is not
        sae.turn_off_forward_pass_hook_z_reshaping()
        self.sae, self.config = sae, SaeLensConfig(sae.cfg.d_in, sae.cfg.d_sae, k)

    def fit(self, x: Vectors) -> "Bottleneck":  # noqa: ARG002
        raise InputError("a SAE of SAELens is trained by SAELens")

    @torch.no_grad()
    def encode(self, x: Vectors) -> Codes:
        rows = grouped_rows(x, self.config)[0]
        ids, values = [], []
        for part in self._parts(rows):
            acts = self.sae.encode(part).float()
            ids.append(acts.abs().topk(self.config.k, dim=-1).indices)
            values.append(acts.gather(-1, ids[-1]))
        shape = (*x.shape[:-1], self.config.k)
        chosen = torch.cat(ids).to(id_dtype(self.config.n_codes))
        return Codes(chosen.reshape(shape), torch.cat(values).reshape(shape))

    @torch.no_grad()
    def decode(self, codes: Codes) -> Vectors:
        check_ids(codes.ids, self.config.n_codes)
        k = codes.ids.shape[-1]
        ids, values = codes.ids.reshape(-1, k).long(), codes.values.reshape(-1, k)
        values = values * (ids >= 0)
        parts = []
        for part, strength in zip(self._parts(ids.clamp(min=0)), self._parts(values), strict=True):
            acts = strength.new_zeros(len(part), self.config.n_codes).scatter_add_(-1, part, strength)
            parts.append(self.sae.decode(acts.to(self.sae.dtype)))
        return torch.cat(parts).reshape(*codes.ids.shape[:-1], self.config.d_in)

    def tensors(self) -> dict[str, Tensor]:
        return self.sae.state_dict()

    @classmethod
    def restored(cls, config: SaeLensConfig, tensors: Mapping[str, Tensor]) -> "SaeLensCodes":  # noqa: ARG003
        raise InputError("a SAE of SAELens is read with SaeLensCodes.load or SAE.load_from_disk")

    @property
    def trained_at(self) -> str | None:
        """What stands behind a block is what the next one reads."""
        hook = getattr(self.sae.cfg.metadata, "hook_name", None)
        before = re.fullmatch(r"blocks\.([1-9]\d*)\.hook_resid_pre", hook or "")
        return f"blocks.{int(before[1]) - 1}.hook_resid_post" if before else hook

    def to(self, target: torch.device | str) -> "SaeLensCodes":
        self.sae.to(target)
        return self

    def _save_pretrained(self, save_directory: Path) -> None:
        """In SAELens' own format."""
        self.sae.save_model(save_directory)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, k: int = 1, **hub: Any) -> "SaeLensCodes":  # type: ignore[override]
        """Read what SAELens saved, from a folder or from the hub's repository ``owner/name``."""
        try:
            return cls(SAE.load_from_disk(fetch(source, **hub)), k)
        except InputError:
            raise
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise InputError(f"cannot read a SAE of SAELens from {source}: {error}") from None

    def push_to_hub(self, repo_id: str, **_: Any) -> str:
        """Refused: what this package would write on the card could not read it."""
        raise InputError(f"cannot push to {repo_id!r}: use sae_lens.upload_saes_to_huggingface")

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split(max(1, SIMILARITIES // self.config.n_codes))
