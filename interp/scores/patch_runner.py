"""Activation patching of single heads on single pairs, from one pass over the pairs.

:func:`~interp.scores.patching.activation_patching` patches every head on every pair. A finder that spends its patches
where they tell most must be able to ask for (pair, head), look, and ask again. So of the pairs named the residual
streams and both sides' head outputs are kept, from the first differing token on: about 210 KB a position of SmolLM2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.metric import task_metric
from interp.activations.stream import Consumer, PairBatch, end_logits
from interp.models import Model
from interp.models.partial_forward import Prefix, starting_at
from interp.prompts.pairs import Metric, PromptPair, PromptPairs
from interp.scores.patching import PATCH_ROWS


@dataclass(frozen=True)
class CleanRun:
    """What patches of a batch of pairs need; positions from the prefix on."""

    indices: tuple[int, ...]
    pairs: tuple[PromptPair, ...]
    tokens: Int[Tensor, "batch pos"]
    prefix: Prefix
    resid: Float[Tensor, "layer batch pos d_model"]
    z: Float[Tensor, "layer batch pos head d_head"]
    corrupt_z: Float[Tensor, "layer batch pos head d_head"]
    metric: Float[np.ndarray, " batch"]
    metric_name: Metric
    share: float
    """Share of the prompt's positions that a patch runs."""


class PatchRunner(Consumer):
    """Keeps what a pass over the pairs shows, and patches heads afterwards.

    Args:
        wanted: pairs whose runs are kept.

    Attributes:
        runs: what is kept, one of each batch.
    """

    def __init__(self, model: Model, pairs: PromptPairs, wanted: Sequence[int]) -> None:
        self.model, self.metric_name = model, pairs.metric
        self.needs_hooks = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
        self._wanted = set(wanted)
        self.runs: list[CleanRun] = []
        self._known: Float[np.ndarray, "pair layer head"] = np.full(
            (len(pairs), model.cfg.n_layers, model.cfg.n_heads), np.nan
        )
        self._where: dict[int, tuple[int, int]] = {}

    def update(self, batch: PairBatch) -> None:
        rows = [row for row, index in enumerate(batch.indices) if index in self._wanted]
        if not rows:
            return
        pairs = tuple(batch.pairs[row] for row in rows)
        resid = torch.stack([batch.tape[name].detach()[rows] for name in self.needs_hooks])
        clean = batch.clean.tokens[rows]
        prefix = Prefix(self.model, clean[:, : min(pair.first_difference for pair in pairs)])
        begin = prefix.length
        for row, pair in enumerate(rows):
            self._where[batch.indices[pair]] = (len(self.runs), row)
        self.runs.append(
            CleanRun(
                tuple(batch.indices[row] for row in rows),
                pairs,
                clean[:, begin:],
                prefix,
                resid[:, :, begin:],
                torch.stack([z[rows, begin:] for z in batch.clean.z]),
                torch.stack([z[rows, begin:] for z in batch.corrupt.z]),
                batch.clean.metric[rows].cpu().numpy(),
                self.metric_name,
                1 - begin / clean.shape[1],
            )
        )

    def keeps(self, pair: int) -> bool:
        """Whether the pair's base run is kept."""
        return pair in self._where

    def prefix_cost(self, pairs: Sequence[int]) -> float:
        """Forward-pass equivalents of what the base runs of some pairs ran once more: their prefixes."""
        return sum(1 - self.runs[self._where[pair][0]].share for pair in pairs)

    def share(self, pairs: Sequence[int]) -> float:
        """Mean share of the prompts' positions that a run of some pairs runs."""
        return float(np.mean([self.runs[self._where[pair][0]].share for pair in pairs]))

    def cost(self, pairs: Sequence[int]) -> Float[np.ndarray, " layer"]:
        """Forward-pass equivalents of one patch at each layer, on an average one of some pairs."""
        layers = self.model.cfg.n_layers
        return self.share(pairs) * (1 - np.arange(layers) / layers)

    def clean(self, pair: int, layer: int, head: int) -> Float[Tensor, "pos d_head"]:
        """A head's clean output from the first kept position on."""
        run, row = self._where[pair]
        return self.runs[run].z[layer, row, :, head]

    def corrupt(self, pair: int, layer: int, head: int) -> Float[Tensor, "pos d_head"]:
        """A head's corrupt output from the first kept position on."""
        run, row = self._where[pair]
        return self.runs[run].corrupt_z[layer, row, :, head]

    def first_position(self, pair: int) -> int:
        """Position in the prompt of the first one kept."""
        run, _ = self._where[pair]
        return self.runs[run].prefix.length

    @torch.no_grad()
    def effects(
        self,
        pairs: Int[np.ndarray, " patch"],
        layers: Int[np.ndarray, " patch"],
        heads: Int[np.ndarray, " patch"],
        replacements: Sequence[Float[Tensor, "_ d_head"]] | None = None,
    ) -> tuple[Float[np.ndarray, " patch"], float]:
        """Fall of the metric when a head's clean output is replaced, one patch a row.

        Args:
            replacements: what by, from the pair's first kept position on; the heads' corrupt outputs if not given.

        Returns:
            The effects, and what they cost in forward-pass equivalents. Layers and positions that are not run do not
            count; a patch that was asked for before counts again although it is not run again.
        """
        runs = np.array([self._where[int(pair)][0] for pair in pairs], dtype=int)
        shares = np.array([self.runs[run].share for run in runs])
        cost = float((shares * (1 - layers / self.model.cfg.n_layers)).sum())
        known = replacements is None
        found = self._known[pairs, layers, heads] if known else np.full(len(pairs), np.nan)
        missing = np.isnan(found)
        for run, layer in sorted(set(zip(runs[missing].tolist(), layers[missing].tolist(), strict=True))):
            patches = np.flatnonzero(missing & (runs == run) & (layers == layer))
            for begin in range(0, len(patches), PATCH_ROWS):
                some = patches[begin : begin + PATCH_ROWS]
                given = [
                    self.corrupt(int(pairs[patch]), layer, int(heads[patch]))
                    if replacements is None
                    else replacements[patch]
                    for patch in some
                ]
                found[some] = self._patch(self.runs[run], layer, pairs[some], heads[some], given)
        if known:
            self._known[pairs, layers, heads] = found
        return found, cost

    def _patch(
        self, run: CleanRun, layer: int, pairs: np.ndarray, heads: np.ndarray, given: Sequence[Tensor]
    ) -> np.ndarray:
        rows = [self._where[int(pair)][1] for pair in pairs]

        def patch(z: Tensor) -> Tensor:
            patched = z.clone()
            for row, (head, value) in enumerate(zip(heads, given, strict=True)):
                patched[row, :, head] = value.to(z.dtype)
            return patched

        with starting_at(self.model, layer, run.resid[layer, rows]), run.prefix.before(self.model, rows):
            logits = end_logits(self.model, run.tokens[rows], {f"blocks.{layer}.attn.hook_z": patch})
        values = task_metric(logits, tuple(run.pairs[row] for row in rows), run.metric_name)
        return run.metric[rows] - values.cpu().numpy()
