"""Activation patching of single heads on single pairs, from one pass over the pairs.

:func:`~interp.scores.patching.activation_patching` patches every head on every pair. Who spends patches where they tell
most must be able to ask for (pair, head), look, and ask again. So of the pairs named the residual streams and both
sides' head outputs are kept, from the first differing token on: about 210 KB a position of SmolLM2. A discovery has one
runner: what its method has patched is not patched again when candidates are checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from interp.activations.metric import task_metric
from interp.activations.stream import Hooks, MetricConsumer, PairBatch, answer_logits, end_logits
from interp.models import HookFunction, Model, model_device
from interp.models.partial_forward import Prefix, starting_at, takes_prefix
from interp.prompts.pairs import PromptPairs
from interp.scores.patching import PATCH_ROWS

MOST_KEPT = 128
"""Pairs whose base runs are kept for patches."""
MOST_BYTES = 4 * 2**30
"""That they may take, on prompts of any length."""
NEAR, TOGETHER = 2, 4096
"""Positions by which first differences of pairs that share forwards may differ, and tokens of their prefixes."""
OVERHEAD = 45
"""Positions of a layer that cost as much as one forward of it costs beside its positions."""


@dataclass
class CleanRun:
    """What patches of some pairs need; positions from ``begin`` on, before which no pair's prompts differ.

    Shorter prompts are padded behind END, which no attention of theirs reads.
    """

    model: Model
    indices: tuple[int, ...]
    pairs: PromptPairs
    begin: int

    def __post_init__(self) -> None:
        n, device = len(self.pairs), model_device(self.model)
        tokens = [torch.tensor(pair.clean_tokens, device=device) for pair in self.pairs]
        whole = pad_sequence(tokens, batch_first=True)
        self.tokens: Int[Tensor, "pair pos"] = whole[:, self.begin :]
        self._before: Int[Tensor, "pair before"] = whole[:, : self.begin]
        self.last = torch.tensor([len(one) - 1 - self.begin for one in tokens], device=device)
        """Where END stands."""
        self.metric, self.share = np.zeros(n), np.zeros(n)
        """Of the clean prompts; and the share of their positions that a patch has to run."""
        self.resid: Float[Tensor, "layer pair pos d_model"]
        self.z: Float[Tensor, "layer pair pos head d_head"]
        self.corrupt_z: Float[Tensor, "layer pair pos head d_head"]
        self.corrupt_mlp: Float[Tensor, "layer pair pos d_model"]

    def keep(self, rows: list[int], places: list[int], **kept: Sequence[Tensor]) -> None:
        """Rows of a batch, layer by layer, as pairs at these places."""
        for name, layers in kept.items():
            if not hasattr(self, name):
                shape = len(layers), *self.tokens.shape, *layers[0].shape[2:]
                setattr(self, name, layers[0].new_zeros(shape))
            for stored, layer in zip(getattr(self, name), layers, strict=True):
                stored[places, : layer.shape[1] - self.begin] = layer[rows, self.begin :]

    @cached_property
    def prefix(self) -> Prefix:
        return Prefix(self.model, self._before, partial(end_logits, self.model) if self.begin else None)

    def answers(
        self, rows: Sequence[int], first: int, resid: Float[Tensor, "row pos d_model"], hooks: Hooks
    ) -> Float[Tensor, " row"]:
        """The metric of some clean prompts, each as often as it is named, from a layer and its input on."""
        held, pairs = list(rows), tuple(self.pairs[row] for row in rows)
        tokens, last = self.tokens[held, : resid.shape[1]], self.last[held]
        prefix = self.prefix  # made before the model starts in the middle
        with starting_at(self.model, first, resid), prefix.before(self.model, held):
            logits = answer_logits(self.model, tokens, pairs, self.pairs.metric, hooks, last)
        return task_metric(logits, pairs, self.pairs.metric)


class PatchRunner(MetricConsumer):
    """Keeps what a pass over the pairs shows, and patches heads afterwards.

    Args:
        wanted: pairs whose runs are kept.
        mlps: whether MLPs can be patched, too: each stands after the heads of its layer, as head :attr:`mlp`.

    Attributes:
        kept: the pairs whose base runs are kept; ``runs`` has those whose patches share forwards together.
    """

    def __init__(
        self, model: Model, pairs: PromptPairs, wanted: Sequence[int], *, mlps: bool = False
    ) -> None:
        super().__init__(len(pairs))
        self.model, self.mlps = model, mlps
        self.mlp, self.kept = model.cfg.n_heads, frozenset(wanted)
        self.needs_hooks = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
        self._first = [pair.first_difference if takes_prefix(model) else 0 for pair in pairs]
        groups: list[list[int]] = []
        for i in sorted(wanted, key=lambda i: self._first[i]):
            begin = self._first[groups[-1][0]] if groups else 0
            if not groups or self._first[i] > begin + NEAR or begin * len(groups[-1]) >= TOGETHER:
                groups.append([])
            groups[-1].append(i)
        self.runs = [
            CleanRun(model, tuple(some), pairs.subset(some), self._first[some[0]]) for some in groups
        ]
        self._known: Float[np.ndarray, "pair layer head"] = np.full(
            (len(pairs), model.cfg.n_layers, model.cfg.n_heads + mlps), np.nan
        )
        self._where = {
            i: (number, place) for number, run in enumerate(self.runs) for place, i in enumerate(run.indices)
        }

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
        places: dict[int, list[tuple[int, int]]] = {}
        for row, index in enumerate(batch.indices):
            if index in self._where:
                number, place = self._where[index]
                places.setdefault(number, []).append((row, place))
        skipped = min((self._first[i] for i in batch.indices if i in self._where), default=0)
        clean, corrupt = batch.clean, batch.corrupt
        resid = [batch.tape[name].detach() for name in self.needs_hooks]
        mlps = {"corrupt_mlp": corrupt.mlp} if self.mlps and corrupt.mlp else {}
        for number, some in places.items():
            run, (rows, held) = self.runs[number], (list(part) for part in zip(*some, strict=True))
            run.keep(rows, held, resid=resid, z=clean.z, corrupt_z=corrupt.z, **mlps)
            run.metric[held] = clean.metric[rows].cpu().numpy()
            run.share[held] = 1 - skipped / clean.tokens.shape[1]

    def prefix_cost(self, pairs: Sequence[int]) -> float:
        """Forward-pass equivalents of what the base runs of some pairs ran once more: their prefixes."""
        return float(sum(1 - self._share(pairs)))

    def share(self, pairs: Sequence[int]) -> float:
        """Mean share of the prompts' positions that a run of some pairs runs."""
        return float(np.mean(self._share(pairs)))

    def _share(self, pairs: Sequence[int] | Int[np.ndarray, " patch"]) -> Float[np.ndarray, " patch"]:
        where = [self._where[int(pair)] for pair in pairs]
        return np.array([self.runs[number].share[place] for number, place in where])

    def cost(self, pairs: Sequence[int]) -> Float[np.ndarray, " layer"]:
        """Forward-pass equivalents of one patch at each layer, on an average one of some pairs."""
        layers = self.model.cfg.n_layers
        return self.share(pairs) * (1 - np.arange(layers) / layers)

    def first_position(self, pair: int) -> int:
        """Position in the prompt of the first one kept."""
        run, _ = self._where[pair]
        return self.runs[run].begin

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
        cost = float((self._share(pairs) * (1 - layers / self.model.cfg.n_layers)).sum())
        known = replacements is None
        found = self._known[pairs, layers, heads] if known else np.full(len(pairs), np.nan)
        missing = np.isnan(found)
        for number in np.unique(runs[missing]).tolist():
            patches = np.flatnonzero(missing & (runs == number))
            patches = patches[np.argsort(layers[patches], kind="stable")]
            run = self.runs[number]
            lengths = run.last.cpu().numpy()[[self._where[int(pair)][1] for pair in pairs[patches]]] + 1
            for some in np.split(patches, _cuts(self.model.cfg.n_layers - layers[patches], lengths)):
                given = None if replacements is None else [replacements[patch] for patch in some.tolist()]
                found[some] = self._patch(run, layers[some], pairs[some], heads[some], given)
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
        held, hooks = rows.tolist(), {}
        length = int(run.last[held].max()) + 1
        for layer in np.unique(layers).tolist():
            for mlp in (False, True):
                here = np.flatnonzero((layers == layer) & ((heads == self.mlp) == mlp))
                if not len(here):
                    continue
                if given is not None:
                    values = pad_sequence([given[row] for row in here.tolist()], batch_first=True)
                    values = torch.nn.functional.pad(values, (0, 0, 0, length - values.shape[1]))
                elif mlp:
                    values = run.corrupt_mlp[layer][rows[here], :length]
                else:
                    values = run.corrupt_z[layer][rows[here], :length, heads[here]]
                place = here if mlp else (here, slice(None), heads[here])
                hooks[f"blocks.{layer}.{'hook_mlp_out' if mlp else 'attn.hook_z'}"] = put(place, values)
        first = int(layers.min())
        values = run.answers(held, first, run.resid[first, rows, :length], hooks)
        return run.metric[rows] - values.cpu().numpy()


def _cuts(layers: Int[np.ndarray, " row"], lengths: Int[np.ndarray, " row"]) -> list[int]:
    """Where rows are parted into forwards such that all together cost least.

    Args:
        layers: that each row has to run, the most first; a forward runs those of its first row.
        lengths: positions of each row; a forward runs those of its longest.
    """
    best, begins = [0.0], [0]
    for end in range(1, len(layers) + 1):
        first = max(0, end - PATCH_ROWS)
        longest = np.maximum.accumulate(lengths[first:end][::-1])[::-1]
        costs = best[first:] + layers[first:end] * (OVERHEAD + np.arange(end - first, 0, -1) * longest)
        begins.append(first + int(costs.argmin()))
        best.append(float(costs.min()))
    cuts, end = [], len(layers)
    while end := begins[end]:
        cuts.append(end)
    return cuts[::-1]


def put(place: Any, values: Tensor) -> HookFunction:
    """What stands at ``place`` replaced."""

    def patch(output: Tensor) -> Tensor:
        patched = output.clone()
        patched[place] = values.to(output.dtype)
        return patched

    return patch
