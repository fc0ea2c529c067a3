"""Running a model with only some of its components: the others' outputs are replaced, everything else recomputes.

A *circuit* is a set of heads that are kept; all other heads of the model are ablated at every position. A kept head
is live: it reads the residual stream that the ablated ones left behind. The clean prompt's embeddings are always live,
and so are MLPs, unless the circuits have them too.
With nothing kept and ``resample``, m(∅) is the corrupt run where END holds the same token on both sides:
only attention moves anything between positions.

What a component is replaced by is another question each time, with other answers (Miller et al. 2024, arXiv
2407.08734); numbers by different kinds do not compare:

==================== ==============================================================================================
kind                 value in place of a component's output
==================== ==============================================================================================
``resample``         its own on the pair's corrupt prompt (MIB's "CF", ACDC, edge attribution patching)
``mean``             its mean over all corrupt prompts and all positions, BOS included
``mean-by-position`` its mean over the corrupt prompts of equal length, at each token position (Wang et al. 2022 took
                     it within templates); with few prompts of a length it tends to ``resample``
``zero``             zero: off the distribution, so that later heads may fail for that alone
==================== ==============================================================================================

Many circuits share one forward: the mask [circuit, layer, head] is a batch dimension.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations import stream
from interp.activations.metric import kl_divergence, task_metric
from interp.errors import InputError
from interp.interventions.clean_run import PATCH_ROWS
from interp.models import HookFunction, Model, has_mlps, model_device
from interp.models.partial_forward import starting_at
from interp.prompts.pairs import PromptPairs

Kind = Literal["resample", "mean", "mean-by-position", "zero"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Fill = list[Tensor]  # of heads, layer by layer, then of MLPs; each tensor broadcasts to one batch of pairs


class Corrupt(stream.Consumer):
    """``resample``: every component's output on the corrupt prompts, batch by batch as they came."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, ...], Fill] = {}

    def update(self, batch: stream.PairBatch) -> None:
        self.kept[batch.indices] = [*batch.corrupt.z, *batch.corrupt.mlp]

    def of(self, indices: tuple[int, ...], _length: int) -> Fill:
        return self.kept[indices]


class Zero(stream.Consumer):
    """``zero``: one zero for every component."""

    def __init__(self) -> None:
        self.fill: Fill = []

    def update(self, batch: stream.PairBatch) -> None:
        self.fill = [torch.zeros((), device=z.device) for z in (*batch.clean.z, *batch.clean.mlp)]

    def of(self, _indices: tuple[int, ...], _length: int) -> Fill:
        return self.fill


class MeanByPosition(stream.Consumer):
    """``mean-by-position``: means over the corrupt prompts of each length, [pos, …] a layer."""

    def __init__(self) -> None:
        self.sums: dict[int, Fill] = {}
        self.counts: dict[int, int] = {}

    def update(self, batch: stream.PairBatch) -> None:
        length, n = batch.corrupt.tokens.shape[1], len(batch.indices)
        sums = [z.float().sum(0) for z in (*batch.corrupt.z, *batch.corrupt.mlp)]
        if length in self.sums:
            sums = [a + b for a, b in zip(self.sums[length], sums, strict=True)]
        self.sums[length] = sums
        self.counts[length] = self.counts.get(length, 0) + n

    def of(self, _indices: tuple[int, ...], length: int) -> Fill:
        return [total / self.counts[length] for total in self.sums[length]]


class Mean(MeanByPosition):
    """``mean``: the same over positions and lengths as well, one vector a component."""

    def of(self, _indices: tuple[int, ...], _length: int) -> Fill:
        tokens = sum(length * count for length, count in self.counts.items())
        return [
            torch.stack([total.sum(0) for total in layer]).sum(0) / tokens
            for layer in zip(*self.sums.values(), strict=True)
        ]


FILLS: dict[str, type] = {"resample": Corrupt, "mean": Mean, "mean-by-position": MeanByPosition, "zero": Zero}


class Ablator:
    """The pairs of one task, run once, and the metric of any circuit on them.

    With ``resample`` it holds every component's output on all corrupt prompts: pairs × positions × layers × d_model
    numbers; as many for the residual stream of the empty circuit, where circuits that keep no early head begin, and for
    that of the model, where circuits that lack none begin (in float32, 100 pairs of 20 tokens: 0.15 GB each for GPT-2
    small, 0.3 for SmolLM2). :class:`InputError`: an unknown kind.

    Args:
        batch_size: pairs whose forwards share a batch.
        mlps: whether circuits say of MLPs, too, if they are kept: each stands after the heads of its layer.
        run: feeds consumers with a pass over the pairs, in batches of that size, and tells what that cost.

    Attributes:
        shape: of a circuit, (layers, heads), or one more with MLPs.
        metric_clean, metric_corrupt: the untouched model's task metric, [pair].
        forwards: what was spent so far, in forward passes of one prompt.
    """

    def __init__(
        self,
        model: Model,
        pairs: PromptPairs,
        kind: str = "resample",
        *,
        batch_size: int = stream.BATCH_SIZE,
        mlps: bool = False,
        progress: stream.Progress | None = None,
        run: Callable[[Sequence[stream.Consumer]], float] | None = None,
    ) -> None:
        if kind not in KINDS:
            raise InputError(f"ablation {kind!r}: choose {', '.join(KINDS)}")
        self.model, self.pairs, self.kind, self.batch_size = model, pairs, kind, batch_size
        self.mlps = mlps and has_mlps(model)
        self.shape = (model.cfg.n_layers, model.cfg.n_heads + self.mlps)
        consumers = metrics, fills = stream.MetricConsumer(len(pairs)), FILLS[kind]()
        if run is None:
            self.forwards = stream.feed(model, pairs, consumers, batch_size=batch_size, progress=progress)
        else:
            self.forwards = run(consumers)
        self.metric_clean, self.metric_corrupt = metrics.metric_
        self._fills = fills
        self._resid: dict[tuple[tuple[int, ...], bool], list[Tensor]] = {}
        self._untouched: dict[tuple[int, ...], Tensor] = {}

    def metric(
        self, keep: Bool[np.ndarray, "circuit layer component"], *, progress: stream.Progress | None = None
    ) -> Float[np.ndarray, "circuit pair"]:
        """Task metric of every clean prompt under every circuit, of the components that stay live; circuits given twice
        are run once. ``progress`` is told how many circuit × pair values have just become known."""
        return self._measured(keep, progress, with_kl=False)[0]

    def metric_and_kl(
        self, keep: Bool[np.ndarray, "circuit layer component"], *, progress: stream.Progress | None = None
    ) -> tuple[Float[np.ndarray, "circuit pair"], Float[np.ndarray, "circuit pair"]]:
        """:meth:`metric`, and the KL divergence at END from the untouched model to each circuit, in nats."""
        metric, kl = self._measured(keep, progress, with_kl=True)
        return metric, kl

    def _measured(
        self, keep: np.ndarray, progress: stream.Progress | None, *, with_kl: bool
    ) -> Float[np.ndarray, "measure circuit pair"]:
        if keep.shape[1:] != self.shape:
            layers, heads = self.shape
            raise InputError(f"circuits of shape {keep.shape[1:]}: the model has {layers} layers of {heads} heads")
        distinct, inverse = np.unique(keep.reshape(len(keep), -1), axis=0, return_inverse=True)
        values = np.zeros((1 + with_kl, len(distinct), len(self.pairs)))
        values[0, distinct.all(1)] = self.metric_clean
        # circuits that begin late share a forward, which begins late too
        kept, lacking = (self._first(masks) for masks in (distinct, ~distinct))
        order = np.argsort(-np.maximum(kept, lacking), kind="stable")
        order = order[~distinct[order].all(1)]
        times = np.bincount(inverse.reshape(-1), minlength=len(distinct))
        if progress is not None:
            progress(int(times[distinct.all(1)].sum()) * len(self.pairs))
        for indices in stream.equal_length_batches(self.pairs, self.batch_size):
            together = max(1, max(PATCH_ROWS, self.batch_size) // len(indices))
            for begin in range(0, len(order), together):
                rows = order[begin : begin + together]
                empty = bool(kept[rows].min() > lacking[rows].min())
                start = int((kept if empty else lacking)[rows].min())
                measured = self._run(indices, distinct[rows], start, empty=empty, with_kl=with_kl)
                values[:, rows[:, None], list(indices)] = measured
                self.forwards += measured[0].size * (1 - start / self.shape[0])
                if progress is not None:
                    progress(int(times[rows].sum()) * len(indices))
        return values[:, inverse.reshape(-1)]

    def _first(self, masks: Bool[np.ndarray, "circuit component"]) -> np.ndarray:
        """The lowest layer with a component of the mask."""
        layers = np.any(masks.reshape(-1, *self.shape), axis=2)
        return np.where(layers.any(1), layers.argmax(1), self.shape[0] - 1)

    @torch.no_grad()
    def _run(
        self, indices: tuple[int, ...], masks: np.ndarray, start: int, *, empty: bool, with_kl: bool
    ) -> Float[np.ndarray, "measure circuit batch"]:
        """Of one batch of pairs under some circuits; ``start`` is the layer below which all of them keep everything, or
        nothing if ``empty``."""
        rows, copies, device = [self.pairs[i] for i in indices], len(masks), model_device(self.model)
        tokens = torch.tensor([row.clean_tokens for row in rows], device=device).repeat(copies, 1)
        live = torch.from_numpy(masks).reshape(copies, *self.shape).to(device)
        hooks = self._hooks(indices, live, start)
        if start > 0:
            resid = self._resid_of(indices, empty)[start].repeat(copies, 1, 1)
            with starting_at(self.model, start, resid):
                logits = stream.end_logits(self.model, tokens, hooks)
        else:
            logits = stream.end_logits(self.model, tokens, hooks)
        values = [task_metric(logits, rows * copies, self.pairs.metric)]
        if with_kl:
            untouched = self._log_p(indices).repeat(copies, 1)
            values.append(kl_divergence(untouched, logits.float().log_softmax(-1)))
        return torch.stack(values).reshape(-1, copies, len(rows)).cpu().double().numpy()

    def _hooks(
        self, indices: tuple[int, ...], live: Bool[Tensor, "circuit layer component"], start: int
    ) -> dict[str, HookFunction]:
        """Ablates what is not live, from a layer on; what every circuit keeps whole needs no hook."""
        layers, n_heads = self.shape[0], self.shape[1] - self.mlps
        fill = self._fills.of(indices, len(self.pairs[indices[0]].clean_tokens))
        hooks = {}
        for layer in range(start, layers):
            heads, mlp = live[:, layer, :n_heads, None], live[:, layer, n_heads:]
            if not heads.all():
                hooks[f"blocks.{layer}.attn.hook_z"] = _replace(heads, fill[layer])
            if not mlp.all():
                hooks[f"blocks.{layer}.hook_mlp_out"] = _replace(mlp, fill[layers + layer])
        return hooks

    def _log_p(self, indices: tuple[int, ...]) -> Float[Tensor, "batch d_vocab"]:
        """Log-probabilities of the untouched model after the clean prompts; run once."""
        if indices not in self._untouched:
            self._untouched[indices] = self._whole(indices, {}).float().log_softmax(-1)
        return self._untouched[indices]

    def _resid_of(self, indices: tuple[int, ...], empty: bool) -> list[Tensor]:
        """The residual stream at every layer's input with nothing kept, or with everything; run once."""
        if (indices, empty) not in self._resid:
            kept: list[Tensor] = []
            nothing = torch.zeros(1, *self.shape, dtype=torch.bool, device=model_device(self.model))
            hooks = self._hooks(indices, nothing, 0) if empty else {}
            for layer in range(self.shape[0]):
                hooks[f"blocks.{layer}.hook_resid_pre"] = lambda resid: kept.append(resid.clone())
            self._whole(indices, hooks)
            self._resid[indices, empty] = kept
        return self._resid[indices, empty]

    def _whole(self, indices: tuple[int, ...], hooks: dict[str, HookFunction]) -> Float[Tensor, "batch d_vocab"]:
        """Logits of a whole forward of a batch's clean prompts."""
        tokens = [self.pairs[i].clean_tokens for i in indices]
        self.forwards += len(indices)
        return stream.end_logits(self.model, torch.tensor(tokens, device=model_device(self.model)), hooks)


def _replace(live: Bool[Tensor, "circuit ..."], fill: Tensor) -> HookFunction:
    """A hook on [circuit × batch, pos, …] that keeps what is live and puts ``fill`` in place of the rest."""

    def hook(activation: Tensor) -> Tensor:
        split = activation.unflatten(0, (len(live), -1))
        # over batch and positions
        return torch.where(live[:, None, None], split, fill.to(split.dtype)).flatten(0, 1)

    return hook


def all_or_none(shape: Sequence[int]) -> Bool[np.ndarray, "circuit layer head"]:
    """The two circuits every share is measured by: nothing kept, and everything."""
    return np.stack([np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)])
