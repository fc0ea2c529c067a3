"""Runs of the clean prompts with any set of components removed: each carries its value of the corrupt run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.stream import PairBatch, end_logits
from interp.models import Model, Site, hooked
from interp.models.start import starting_at
from interp.scores.divergence import Divergence
from interp.tasks.pairs import PromptPairs


@dataclass(frozen=True)
class _Kept:
    batch: PairBatch
    resid: tuple[Float[Tensor, "batch pos d_model"], ...]
    """The clean prompts' residual stream at each layer's input."""
    logits: Float[Tensor, "batch d_vocab"]


class NodePatching:
    """A consumer that keeps what removals need, and then measures them.

    Args:
        sites: the components that can be removed; sets name them by their index here.
    """

    needs_gradients = False
    needs_patterns = False

    def __init__(
        self, model: Model, pairs: PromptPairs, sites: Sequence[Site], divergence: Divergence
    ) -> None:
        self.model, self.pairs, self.sites, self.divergence = model, pairs, tuple(sites), divergence
        self.kept: list[_Kept] = []
        self.forwards = 0.0
        self._resid: dict[int, Tensor] = {}
        layers = range(model.cfg.n_layers)
        # the clean prompts are run last, and overwrite the corrupt ones
        self._watching = {f"blocks.{layer}.hook_resid_pre": self._watch(layer) for layer in layers}

    def watching(self):
        """The context in which the batches must be run."""
        return hooked(self.model, self._watching)

    def _watch(self, layer: int):
        return lambda x: self._resid.__setitem__(layer, x.detach().clone())

    def update(self, batch: PairBatch) -> None:
        resid = tuple(self._resid[layer] for layer in range(self.model.cfg.n_layers))
        last = len(resid) - 1
        with torch.no_grad(), starting_at(self.model, last, resid[last]):
            logits = end_logits(self.model, batch.clean.tokens)
        self.forwards += len(batch.indices) / len(resid)
        self.kept.append(_Kept(batch, resid, logits))

    def damage(self, layer: int, removed: Sequence[frozenset[int]]) -> list[float]:
        """Mean damage over pairs of each set of removed components, all at ``layer`` or above."""
        return (sum(self._damage(kept, layer, removed) for kept in self.kept) / len(self.pairs)).tolist()

    @torch.no_grad()
    def _damage(self, kept: _Kept, layer: int, removed: Sequence[frozenset[int]]) -> Float[Tensor, " set"]:
        n, copies = len(kept.batch.indices), len(removed)
        hooks = {}
        for above in range(layer, len(kept.resid)):
            gone = {kind: self._gone(kind, above, removed) for kind in ("attn", "mlp")}
            if gone["attn"].any():
                hooks[f"blocks.{above}.attn.hook_z"] = _swap(
                    gone["attn"][:, None, None, :, None], kept.batch.corrupt.z[above]
                )
            if gone["mlp"].any():
                hooks[f"blocks.{above}.hook_mlp_out"] = _swap(
                    gone["mlp"][:, None], kept.batch.corrupt.mlp[above]
                )
        with starting_at(self.model, layer, kept.resid[layer].repeat(copies, 1, 1)):
            logits = end_logits(self.model, kept.batch.clean.tokens.repeat(copies, 1), hooks)
        self.forwards += copies * n * (1 - layer / len(kept.resid))
        values = self.divergence(kept.logits.repeat(copies, 1), logits, kept.batch.pairs * copies)
        return values.view(copies, n).sum(1).cpu()

    def _gone(self, kind: str, layer: int, removed: Sequence[frozenset[int]]) -> Tensor:
        """[set, head] (or [set, 1] for the MLP]: whether the set removes it."""
        gone = torch.zeros(len(removed), self.model.cfg.n_heads if kind == "attn" else 1, dtype=torch.bool)
        for row, trial in enumerate(removed):
            for part in trial:
                site = self.sites[part]
                if (site.kind, site.layer) == (kind, layer):
                    gone[row, site.head or 0] = True
        return gone


def _swap(gone: Tensor, corrupt: Tensor):
    """A hook that puts the corrupt value where ``gone`` says so; the batch is set × pair."""

    def hook(activation: Tensor) -> Tensor:
        split = activation.unflatten(0, (len(gone), len(corrupt)))
        mask = gone.to(activation.device).view(len(gone), *[1] * (split.dim() - gone.dim()), *gone.shape[1:])
        return torch.where(mask, corrupt.to(activation.dtype), split).flatten(0, 1)

    return hook
