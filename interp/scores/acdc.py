"""ACDC: greedy pruning of heads or edges, kept when removing them moves the answer by more than a threshold.

Conmy et al. 2023 (arXiv 2304.14997), Algorithm 1, with resample ablation: what is removed carries its value of the
corrupt run. From the logits down, later parts first, each is removed for good when that raises the damage of the graph
so far by less than τ; damage is KL(model ‖ graph) at END in nats, or the fall of the task metric.

- ``level="heads"``: parts are heads (MLPs live, unless ``mlps``), each removed at all positions.
- ``level="edges"``: parts are edges from the embeddings, heads and MLPs into each head's query, key and value, each
  MLP, and the logits (:class:`EdgePatching`); a head's score is its best outgoing edge's.

Thresholds are shares of the damage when everything is removed, so that one setting serves every task. The score is the
largest threshold of the sweep that a part survives, made finer by the rise when it was tried there
(:meth:`Pruner.sweep`). Damage is averaged over pairs before anything is decided: no per-pair scores.

Cost: per threshold and part one forward from the part's layer up, somewhat more where guesses of what goes fail and
less where thresholds stand before the same graph. The 270 heads of SmolLM2 at three thresholds are 470 forwards a pair,
seven minutes for ten pairs on one core. Edges grow with the square of the heads, times three: 745 for a planted model
(seconds, since edges into what nothing reads any more are free), 125,000 for SmolLM2, which is for a GPU.

When it misleads: the order decides among parts that can replace each other (a backup tried first goes, and the mover
then stays); with the task metric parts that work against the answer go first; below the threshold many small parts go
one by one although together they matter.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.metric import Divergence, DivergenceKind
from interp.activations.stream import Activations, Consumer, PairBatch, end_logits
from interp.errors import InputError, whole_number
from interp.models import HookFunction, Model, Site
from interp.models.partial_forward import QKV, Blockwise, output_bias, require_whole_blocks, starting_at
from interp.prompts.pairs import PromptPairs
from interp.scores.component_graph import ComponentGraph, Receiver
from interp.scores.gradients import EMBEDDED
from interp.scores.method import Context, MethodConfig, method
from interp.scores.patching import PATCH_ROWS, components
from interp.scores.result import EdgeScore, Scores


@dataclass(frozen=True)
class ACDCConfig(MethodConfig):
    """
    Attributes:
        level: what is pruned.
        metric: ``kl``, which sees parts that work against the answer too, or ``task``.
        lowest, highest: ends of the sweep, as shares of the damage when everything is removed.
        thresholds: how many of them, evenly spaced in their logarithm.
        mlps: whether MLPs are pruned too, at head level.
    """

    level: Literal["heads", "edges"] = "heads"
    metric: DivergenceKind = "kl"
    lowest: float = 1e-3
    highest: float = 0.1
    thresholds: int = 3
    mlps: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.lowest <= self.highest < float("inf"):
            raise InputError(
                f"lowest {self.lowest}, highest {self.highest}: needs numbers, 0 < lowest ≤ highest"
            )
        whole_number("thresholds", self.thresholds, 1)


class LiveEdges:
    """Tells apart sets of removed edges by the edges from which the logits can still be reached.

    Edges into a component that nothing reads any more make no difference, so they are tried without a forward.
    """

    def __init__(self, graph: ComponentGraph) -> None:
        self.graph = graph
        rows: dict[tuple[str, int, int | None], list[int]] = {}
        for row, receiver in enumerate(graph.receivers[:-1]):
            rows.setdefault((receiver.kind, receiver.layer, receiver.head), []).append(row)
        self._components = [
            (graph.mlp_sender(layer) if head is None else graph.head_sender(layer, head), inputs)
            for (_, layer, head), inputs in reversed(rows.items())
        ]

    def __call__(self, removed: frozenset[int]) -> bytes:
        gone = ~self.graph.exists
        gone.flat[list(removed)] = True
        for sender, inputs in self._components:  # from the last writer down
            if gone[:, sender].all():
                gone[inputs] = True
        return np.packbits(gone).tobytes()


Damage = Callable[[int, list[frozenset[int]]], list[float]]
"""(group, sets of removed parts) -> damage of each set; all parts of the sets lie in this group or earlier ones."""


class Pruner:
    """Greedy pruning of a graph and a sweep of its threshold, whatever is pruned (Conmy et al. 2023, Algorithm 1).

    Nothing here knows a model: parts are numbers, and ``damage`` tells how far the graph without a set of parts is from
    the whole.

    Args:
        groups: parts in the order in which they are tried, cut into groups that ``damage`` can measure together.
        most: sets measured in one call.
        canonical: gives sets of removed parts that leave the same graph the same key.
        advance: told how many parts have just been decided.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        damage: Damage,
        most: int,
        canonical: Callable[[frozenset[int]], Hashable] = lambda removed: removed,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.groups, self.damage, self.most = groups, damage, most
        self.canonical, self.advance = canonical, advance
        self.size = 1 + max(part for group in groups for part in group)
        self._known: dict[Hashable, float] = {}
        """Thresholds of a sweep often stand before the same graph; no graph is measured twice."""

    def prune(self, threshold: float) -> tuple[Bool[np.ndarray, " part"], Float[np.ndarray, " part"]]:
        """Try every part once; return which survive, and the rise of the damage when each was tried.

        A part goes when the rise is below the threshold. Several are tried in one call, each with the ones before it
        gone; from the first that stays on, the guesses are worthless and are made anew.
        """
        rise = np.zeros(self.size)
        kept = np.zeros(self.size, dtype=bool)
        removed: frozenset[int] = frozenset()
        current, ahead = 0.0, 1
        for number, group in enumerate(self.groups):
            begin = 0
            while begin < len(group):
                tried = group[begin : begin + ahead]
                sets = [removed | frozenset(tried[: i + 1]) for i in range(len(tried))]
                for part, trial, value in zip(tried, sets, self._measure(number, sets), strict=True):
                    begin += 1
                    rise[part] = value - current
                    if not rise[part] < threshold:
                        kept[part], ahead = True, 1
                        break
                    removed, current = trial, value
                else:
                    ahead = min(2 * ahead, self.most)
            self.advance(len(group))
        return kept, rise

    def sweep(self, thresholds: Sequence[float]) -> Float[np.ndarray, " part"]:
        """Score of every part: the largest threshold that it survives, made finer by its rise when tried there.

        A part that survives τ_k and not τ_k+1 gets its rise at τ_k (at most τ_k+1); one that survives none gets its
        rise at the smallest threshold, in [0, τ_0). One threshold alone gives the rise when tried.
        """
        ordered, scores = sorted(thresholds), np.empty(0)
        for k, threshold in enumerate(ordered):
            kept, rise = self.prune(threshold)
            above = ordered[k + 1] if k + 1 < len(ordered) else np.inf
            below = np.clip(rise, 0.0, threshold) if k == 0 else scores
            scores = np.where(kept, np.clip(rise, threshold, above), below)
        return scores

    def _measure(self, group: int, sets: list[frozenset[int]]) -> list[float]:
        keys = [self.canonical(trial) for trial in sets]
        unknown = {key: trial for key, trial in zip(keys, sets, strict=True) if key not in self._known}
        if unknown:
            self._known.update(zip(unknown, self.damage(group, list(unknown.values())), strict=True))
        return [self._known[key] for key in keys]


@dataclass(frozen=True)
class _Kept:
    batch: PairBatch
    blocks: Blockwise
    clean: Float[Tensor, "batch pos sender d_model"]
    corrupt: Float[Tensor, "batch pos sender d_model"]
    logits: Float[Tensor, "batch d_vocab"]


class EdgePatching(Consumer):
    """Keeps every component's output on both sides, and then measures the clean prompts with any set of edges removed.

    Path patching of many edges at once (Conmy et al. 2023, section 3; Wang et al. 2022 for one):

        input of v = (its input in the corrupt run) + Σ over kept edges u → v of (u's output now − u's corrupt output)

    So a removed edge carries the fixed corrupt run and a kept one what its sender does *now*, after the removals below
    it. Heads read queries, keys and values from inputs of their own, per query head
    (:mod:`interp.models.partial_forward`). Edges are numbered by their place in ``graph.exists`` (receiver × sender,
    flattened).

    Raises:
        InputError: the model's blocks cannot be run apart; on the first batch, when attention is of a kind that is
            not known (see ``Blockwise``).
    """

    needs_hooks = needs_corrupt_hooks = (EMBEDDED,)
    purpose = "edge-level acdc"

    def __init__(self, model: Model, pairs: PromptPairs, divergence: Divergence) -> None:
        self.model, self.pairs, self.divergence = model, pairs, divergence
        self.wiring = require_whole_blocks(model, self.purpose)
        self.graph = ComponentGraph.of(model)
        self.kept: list[_Kept] = []
        self.forwards = 0.0
        self._blocks = cache(lambda length: Blockwise(model, length, self.purpose))

    def update(self, batch: PairBatch) -> None:
        kept = _Kept(
            batch,
            self._blocks(batch.clean.tokens.shape[1]),
            self._written(batch.tape[EMBEDDED].detach(), batch.clean),
            self._written(batch.tape.corrupt[EMBEDDED], batch.corrupt),
            self._logits(batch.clean.resid_end),
        )
        nothing = torch.zeros(1, *self.graph.exists.shape, dtype=torch.bool)
        kept.blocks.check(self.end_residual(kept, 0, nothing)[0], batch.clean.resid_end)
        self.kept.append(kept)

    def damage(self, layer: int, removed: Sequence[frozenset[int]]) -> list[float]:
        """Mean damage over pairs of each set of removed edges, whose receivers all lie at ``layer`` or above."""
        gone = torch.zeros(len(removed), self.graph.exists.size, dtype=torch.bool)
        for row, trial in enumerate(removed):
            gone[row, list(trial)] = True
        gone = gone.view(len(removed), *self.graph.exists.shape)
        total = reduce(torch.add, (self.values(kept, layer, gone).sum(1) for kept in self.kept))
        return (total / len(self.pairs)).tolist()

    @torch.no_grad()
    def values(
        self, kept: _Kept, layer: int, gone: Bool[Tensor, "set receiver sender"]
    ) -> Float[Tensor, "set batch"]:
        """Damage to every pair of a batch by each set of removed edges."""
        logits = self._logits(self.end_residual(kept, layer, gone)).flatten(0, 1)
        n, copies = len(kept.batch.indices), len(gone)
        self.forwards += copies * n * (1 - layer / self.graph.n_layers)
        before, pairs = kept.logits.repeat(copies, 1), kept.batch.pairs * copies
        return self.divergence(before, logits, pairs).view(copies, n).cpu()

    @torch.no_grad()
    def end_residual(
        self, kept: _Kept, layer: int, gone: Bool[Tensor, "set receiver sender"]
    ) -> Float[Tensor, "set batch d_model"]:
        """The final residual stream at END, as the logits see it; layers below ``layer`` are as in the clean run."""
        graph, blocks, corrupt = self.graph, kept.blocks, kept.corrupt
        keep = (~gone).to(corrupt.device, corrupt.dtype)
        moved = (kept.clean - corrupt).expand(len(gone), *corrupt.shape).clone()
        rows = {receiver: row for row, receiver in enumerate(graph.receivers)}

        def inputs(receivers: list) -> Float[Tensor, "set_batch pos receiver d_model"]:
            count = graph.reads(receivers[0])
            kept_edges = keep[:, [rows[r] for r in receivers], :count]
            changed = torch.einsum("cru,cbpud->cbprd", kept_edges, moved[:, :, :, :count])
            base = corrupt[:, :, :count].sum(2) + self._biases(receivers[0])
            return (base[:, :, None] + changed).flatten(0, 1)

        for above in range(layer, graph.n_layers):
            heads = [r for r in graph.receivers if (r.kind, r.layer) == ("attn", above)]
            # [set × batch, pos, head, q/k/v, d_model]
            reads = inputs(heads).unflatten(2, (graph.n_heads, 3))
            q, k, v = (blocks.read(above, into, reads[:, :, :, i]) for i, into in enumerate(QKV))
            out = blocks.write(above, blocks.attend(q, k, v)).unflatten(0, moved.shape[:2])
            first = graph.head_sender(above, 0)
            those = slice(first, first + graph.n_heads)
            moved[:, :, :, those] = out - corrupt[:, :, those]
            if graph.mlps:
                own = graph.mlp_sender(above)
                mlp = [r for r in graph.receivers if (r.kind, r.layer) == ("mlp", above)]
                out = blocks.mlp(above, inputs(mlp)[:, :, 0]).unflatten(0, moved.shape[:2])
                moved[:, :, :, own] = out - corrupt[:, :, own]
        return inputs([graph.receivers[-1]])[:, -1, 0].unflatten(0, moved.shape[:2])

    def _biases(self, receiver: Receiver) -> Tensor | float:
        """Sum of the attention layers' output biases that the receiver reads; they belong to no head."""
        own = receiver.kind == "mlp" and self.graph.sequential
        layers = range(receiver.layer + own)
        return sum((output_bias(self.model, layer) for layer in layers), 0.0)

    def _written(self, embedded: Tensor, side: Activations) -> Float[Tensor, "batch pos sender d_model"]:
        parts = [embedded[:, :, None]]
        for layer, z in enumerate(side.z):
            parts.append(torch.einsum("bphd,hdm->bphm", z, self.model.blocks[layer].attn.W_O))
            if side.mlp:
                parts.append(side.mlp[layer][:, :, None])
        return torch.cat(parts, 2)

    @torch.no_grad()
    def _logits(self, resid: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_vocab"]:
        flat = resid.reshape(-1, 1, resid.shape[-1])
        return self.wiring.logits(self.model, self.model.ln_final(flat)).view(*resid.shape[:-1], -1)


@dataclass(frozen=True)
class _KeptNodes:
    batch: PairBatch
    resid: tuple[Float[Tensor, "batch pos d_model"], ...]
    """The clean prompts' residual stream at each layer's input."""
    logits: Float[Tensor, "batch d_vocab"]


class NodePatching(Consumer):
    """Keeps what removals of components need, and then measures them: each carries its value of the corrupt run.

    Args:
        sites: the components that can be removed; sets name them by their index here.
    """

    def __init__(
        self, model: Model, pairs: PromptPairs, sites: Sequence[Site], divergence: Divergence
    ) -> None:
        self.model, self.pairs, self.sites, self.divergence = model, pairs, tuple(sites), divergence
        self.kept: list[_KeptNodes] = []
        self.forwards = 0.0
        self.needs_hooks = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]

    def update(self, batch: PairBatch) -> None:
        resid = tuple(batch.tape[name].detach() for name in self.needs_hooks)
        last = len(resid) - 1
        with torch.no_grad(), starting_at(self.model, last, resid[last]):
            logits = end_logits(self.model, batch.clean.tokens)
        self.forwards += len(batch.indices) / len(resid)
        self.kept.append(_KeptNodes(batch, resid, logits))

    def damage(self, layer: int, removed: Sequence[frozenset[int]]) -> list[float]:
        """Mean damage over pairs of each set of removed components, all at ``layer`` or above."""
        total = reduce(torch.add, (self._damage(kept, layer, removed) for kept in self.kept))
        return (total / len(self.pairs)).tolist()

    @torch.no_grad()
    def _damage(
        self, kept: _KeptNodes, layer: int, removed: Sequence[frozenset[int]]
    ) -> Float[Tensor, " set"]:
        n, copies = len(kept.batch.indices), len(removed)
        hooks = {}
        for above in range(layer, len(kept.resid)):
            gone = {kind: self._gone(kind, above, removed) for kind in ("attn", "mlp")}
            if gone["attn"].any():
                hooks[f"blocks.{above}.attn.hook_z"] = _patch(
                    gone["attn"][:, None, None, :, None], kept.batch.corrupt.z[above]
                )
            if gone["mlp"].any():
                hooks[f"blocks.{above}.hook_mlp_out"] = _patch(
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


def _patch(gone: Tensor, corrupt: Tensor) -> HookFunction:
    """A hook that puts the corrupt value where ``gone`` says so; the batch is set × pair."""

    def hook(activation: Tensor) -> Tensor:
        split = activation.unflatten(0, (len(gone), len(corrupt)))
        mask = gone.to(activation.device).view(len(gone), *[1] * (split.dim() - gone.dim()), *gone.shape[1:])
        return torch.where(mask, corrupt.to(activation.dtype), split).flatten(0, 1)

    return hook


@method(config=ACDCConfig, most_pairs=10, most_seeds=3)
def acdc(context: Context) -> Scores:
    """Score heads, or edges, by a sweep of ACDC's threshold (module docstring).

    Raises:
        InputError: removing everything does no damage, or (edges) the model's attention is not known.
    """
    model, pairs, config = context.model, context.pairs, context.config
    divergence, graph = Divergence(config.metric, pairs.metric), ComponentGraph.of(model)
    edges: tuple[EdgeScore, ...] = ()
    if config.level == "heads":
        sites = components(model, mlps=config.mlps)
        parts = _sweep(context, NodePatching(model, pairs, sites, divergence), _site_groups(sites), frozenset)
        by_name = {str(site): score for site, score in zip(sites, parts, strict=True)}
    else:
        parts = _sweep(context, EdgePatching(model, pairs, divergence), _edge_groups(graph), LiveEdges(graph))
        matrix = parts.reshape(graph.exists.shape)
        edges = graph.edges(np.where(graph.exists, matrix, np.nan))
        by_name = dict(zip(graph.senders, np.where(graph.exists, matrix, 0).max(0), strict=True))
    layers = range(graph.n_layers)
    return Scores(
        np.array([[by_name[f"a{layer}.h{head}"] for head in range(graph.n_heads)] for layer in layers]),
        mlps=np.array([by_name[f"m{layer}"] for layer in layers]) if "m0" in by_name else None,
        edges=edges,
        signed=False,
    )


Groups = list[tuple[int, list[int]]]
"""(layer from which a forward must be run, parts in the order in which they are tried)."""


def _sweep(
    context: Context,
    patching: NodePatching | EdgePatching,
    groups: Groups,
    canonical: Callable[[frozenset[int]], Hashable],
) -> Float[np.ndarray, " part"]:
    """Score every part by the thresholds of the config, as shares of the damage of removing everything."""
    config = context.config
    context.run(patching, share=0.0)
    (whole,) = patching.damage(0, [frozenset(part for _, parts in groups for part in parts)])
    if not whole > 0:
        raise InputError(
            f"acdc with metric={config.metric}: removing everything does no damage ({whole:.3g}), "
            "so thresholds have no scale; choose pairs that the model solves"
        )
    rows = max(len(kept.batch.indices) for kept in patching.kept)
    pruner = Pruner(
        [parts for _, parts in groups],
        lambda group, removed: patching.damage(groups[group][0], removed),
        max(1, PATCH_ROWS // rows),
        canonical,
        context.steps(config.thresholds * sum(len(parts) for _, parts in groups)),
    )
    shares = np.geomspace(config.lowest, config.highest, config.thresholds)
    scores = pruner.sweep((shares * whole).tolist())
    context.forwards += patching.forwards
    return scores


def _site_groups(sites: Sequence[Site]) -> Groups:
    """From the last layer down, its MLP first, later heads before earlier ones."""
    groups: Groups = []
    for layer in range(max(site.layer for site in sites), -1, -1):
        for kind in ("mlp", "attn"):
            own = [part for part, site in enumerate(sites) if (site.layer, site.kind) == (layer, kind)]
            if own:
                groups.append((layer, own[::-1]))
    return groups


def _edge_groups(graph: ComponentGraph) -> Groups:
    """One receiver after the other, from the logits down; into each, later senders before earlier ones."""
    n = len(graph.senders)
    return [
        (receiver.layer, [row * n + sender for sender in range(graph.reads(receiver) - 1, -1, -1)])
        for row, receiver in reversed(list(enumerate(graph.receivers)))
    ]
