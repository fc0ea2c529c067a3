"""Activation patching of single heads on single pairs, from one pass over the pairs.

:func:`~interp.scores.patching.activation_patching` patches every head on every pair. Who spends patches where they tell
most must be able to ask for (pair, head), look, and ask again. So of the pairs named the residual streams and both
sides' head outputs are kept, from the first differing token on: about 210 KB a position of SmolLM2. A discovery has one
runner: what its method has patched is not patched again when candidates are checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.metric import task_metric
from interp.activations.stream import MetricConsumer, PairBatch, answer_logits
from interp.models import HookFunction, Model
from interp.models.partial_forward import Prefix, starting_at
from interp.prompts.pairs import Metric, PromptPair, PromptPairs
from interp.scores.patching import PATCH_ROWS

MOST_KEPT = 128
"""Pairs whose base runs are kept for patches."""
MOST_BYTES = 4 * 2**30
"""That they may take, on prompts of any length."""
BAND = 10
"""Layers whose patches share a forward: all rows run from the first of these on, each is patched at its own."""


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
    corrupt_mlp: tuple[Float[Tensor, "batch pos d_model"], ...]
    metric: Float[np.ndarray, " batch"]
    metric_name: Metric
    share: float
    """Share of the prompt's positions that a patch runs."""


class PatchRunner(MetricConsumer):
    """Keeps what a pass over the pairs shows, and patches heads afterwards.

    Args:
        wanted: pairs whose runs are kept.
        mlps: whether MLPs can be patched, too: each stands after the heads of its layer, as head :attr:`mlp`.

    Attributes:
        runs: what is kept, one of each batch.
    """

    def __init__(
        self, model: Model, pairs: PromptPairs, wanted: Sequence[int], *, mlps: bool = False
    ) -> None:
        super().__init__(len(pairs))
        self.model, self.metric_name, self.mlps = model, pairs.metric, mlps
        self.mlp = model.cfg.n_heads
        self.needs_hooks = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
        self._wanted = set(wanted)
        self.runs: list[CleanRun] = []
        self._known: Float[np.ndarray, "pair layer head"] = np.full(
            (len(pairs), model.cfg.n_layers, model.cfg.n_heads + mlps), np.nan
        )
        self._where: dict[int, tuple[int, int]] = {}

    @classmethod
    def of_first(cls, model: Model, pairs: PromptPairs, *, mlps: bool = False) -> "PatchRunner":
        """Of as many of the first pairs as :data:`MOST_KEPT` and :data:`MOST_BYTES` allow, at least two."""
        cfg = model.cfg
        a_position = cfg.n_layers * (cfg.d_model * (1 + mlps) + 2 * cfg.n_heads * cfg.d_head)
        longest = max(len(pair.clean_tokens) for pair in pairs)
        most = MOST_BYTES // (longest * a_position * next(model.parameters()).element_size())
        return cls(model, pairs, range(min(len(pairs), MOST_KEPT, max(2, most))), mlps=mlps)

    def update(self, batch: PairBatch) -> None:
        super().update(batch)
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
                tuple(mlp[rows, begin:] for mlp in batch.corrupt.mlp) if self.mlps else (),
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
            count, nor those that a row runs before its own because others of its forward begin there. A patch that
            was asked for before counts again although it is not run again.
        """
        runs = np.array([self._where[int(pair)][0] for pair in pairs], dtype=int)
        shares = np.array([self.runs[run].share for run in runs])
        cost = float((shares * (1 - layers / self.model.cfg.n_layers)).sum())
        known = replacements is None
        found = self._known[pairs, layers, heads] if known else np.full(len(pairs), np.nan)
        missing = np.isnan(found)
        bands = layers // BAND
        for run, band in sorted(set(zip(runs[missing].tolist(), bands[missing].tolist(), strict=True))):
            patches = np.flatnonzero(missing & (runs == run) & (bands == band))
            patches = patches[np.argsort(layers[patches], kind="stable")]
            for begin in range(0, len(patches), PATCH_ROWS):
                some = patches[begin : begin + PATCH_ROWS]
                given = None if replacements is None else [replacements[patch] for patch in some.tolist()]
                found[some] = self._patch(self.runs[run], layers[some], pairs[some], heads[some], given)
        if known:
            self._known[pairs, layers, heads] = found
        return found, cost

    def _patch(
        self,
        run: CleanRun,
        layers: np.ndarray,
        pairs: np.ndarray,
        heads: np.ndarray,
        given: Sequence[Tensor] | None,
    ) -> np.ndarray:
        """One forward of all patches, from the first of their layers on."""
        rows = np.array([self._where[int(pair)][1] for pair in pairs])
        hooks = {}
        for layer in np.unique(layers).tolist():
            for mlp in (False, True):
                here = np.flatnonzero((layers == layer) & ((heads == self.mlp) == mlp))
                if not len(here):
                    continue
                if given is not None:
                    values = torch.stack([given[row] for row in here.tolist()])
                elif mlp:
                    values = run.corrupt_mlp[layer][rows[here]]
                else:
                    values = run.corrupt_z[layer][rows[here], :, heads[here]]
                kind = "hook_mlp_out" if mlp else "attn.hook_z"
                hooks[f"blocks.{layer}.{kind}"] = put(
                    here if mlp else (here, slice(None), heads[here]), values
                )
        first, held = int(layers.min()), rows.tolist()
        patched = tuple(run.pairs[row] for row in held)
        with starting_at(self.model, first, run.resid[first, held]), run.prefix.before(self.model, held):
            logits = answer_logits(self.model, run.tokens[held], patched, run.metric_name, hooks)
        values = task_metric(logits, patched, run.metric_name)
        return run.metric[rows] - values.cpu().numpy()


def put(place: Any, values: Tensor) -> HookFunction:
    """What stands at ``place`` replaced."""

    def patch(output: Tensor) -> Tensor:
        patched = output.clone()
        patched[place] = values.to(output.dtype)
        return patched

    return patch
