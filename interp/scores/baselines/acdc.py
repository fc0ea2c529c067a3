"""ACDC: greedy pruning of heads or edges, kept when removing them moves the answer by more than a threshold.

Conmy et al. 2023 (arXiv 2304.14997), Algorithm 1, with resample ablation: what is removed carries its value of the
corrupt run. From the logits down, later parts first, each is removed for good when that raises the damage of the graph
so far by less than τ; damage is KL(model ‖ graph) at END in nats, or the fall of the task metric.

- ``level="heads"``: parts are heads (MLPs live, unless ``mlps``), each removed at all positions.
- ``level="edges"``: parts are edges from the embeddings, heads and MLPs into each head's query, key and value, each
  MLP, and the logits (:class:`~interp.interventions.edges.EdgeSets`); a head's score is its best outgoing edge's.

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
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float

from interp.activations.metric import Divergence, DivergenceKind
from interp.activations.stream import Consumer
from interp.errors import InputError
from interp.interventions.ablation import Ablator
from interp.interventions.clean_run import PATCH_ROWS
from interp.interventions.edges import ComponentGraph, EdgeScore, EdgeSets
from interp.models import Site
from interp.models.sites import components
from interp.scores.method import Context, MethodConfig, method
from interp.scores.result import Scores


@dataclass(frozen=True)
class ACDCConfig(MethodConfig):
    level: Literal["heads", "edges"] = "heads"  # what is pruned
    metric: DivergenceKind = "kl"  # `kl`, which sees parts that work against the answer too, or `task`
    # lowest, highest: ends of the sweep, as shares of the damage when everything is removed
    lowest: Annotated[float, Gt(0)] = 1e-3
    highest: Annotated[float, Gt(0)] = 0.1
    thresholds: Annotated[int, Ge(1)] = 3  # how many of them, evenly spaced in their logarithm
    mlps: bool = False  # whether MLPs are pruned too, at head level

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lowest > self.highest:
            raise InputError(f"lowest {self.lowest}, highest {self.highest}: it must be lowest ≤ highest")


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
    the whole. Parts are tried in the order of their ``groups``, which ``damage`` can measure together, at most ``most``
    sets at once. ``canonical`` gives sets that leave the same graph the same key; ``advance`` is told how many parts
    have been decided.
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


@method(config=ACDCConfig, most_pairs=10, most_seeds=3)
def acdc(context: Context) -> Scores:
    """Score heads, or edges, by a sweep of ACDC's threshold (module docstring). Raises :class:`InputError` where
    removing everything does no damage, or (edges) the model's attention is not known."""
    model, pairs, config = context.model, context.pairs, context.config
    graph, edges = ComponentGraph.of(model), tuple[EdgeScore, ...]()
    if config.level == "heads":
        sites = components(model, mlps=config.mlps)
        removals = Removals(context, sites)
        parts = _sweep(context, removals.damage, _site_groups(sites), frozenset)
        context.forwards += removals.ablator.forwards
        by_name = {str(site): score for site, score in zip(sites, parts, strict=True)}
    else:
        patching = EdgeSets(model, pairs, Divergence(config.metric, pairs.metric), "edge-level acdc")
        context.run(patching, share=0.0)
        parts = _sweep(context, patching.damage, _edge_groups(graph), LiveEdges(graph))
        context.forwards += patching.forwards
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


class Removals:
    """Sets of ``sites`` removed together, named by their index: each carries its value of the corrupt run."""

    def __init__(self, context: Context, sites: Sequence[Site]) -> None:
        self.kind, self.sites = context.config.metric, sites

        def run(consumers: Sequence[Consumer]) -> float:
            context.run(*consumers, share=0.0)
            return 0.0  # the context has counted it

        self.ablator = Ablator(
            context.model,
            context.pairs,
            batch_size=context.config.batch_size,
            mlps=any(site.kind == "mlp" for site in sites),
            run=run,
        )

    def damage(self, _layer: int, removed: Sequence[frozenset[int]]) -> list[float]:
        """Mean damage over pairs of each set."""
        keep = np.ones((len(removed), *self.ablator.shape), dtype=bool)
        for row, parts in enumerate(removed):
            for site in (self.sites[part] for part in parts):
                keep[row, site.layer, -1 if site.head is None else site.head] = False
        if self.kind == "kl":
            return self.ablator.metric_and_kl(keep)[1].mean(1).tolist()
        return (self.ablator.metric_clean - self.ablator.metric(keep)).mean(1).tolist()


Groups = list[tuple[int, list[int]]]
"""(layer from which a forward must be run, parts in the order in which they are tried)."""


def _sweep(
    context: Context,
    damage: Callable[[int, Sequence[frozenset[int]]], list[float]],
    groups: Groups,
    canonical: Callable[[frozenset[int]], Hashable],
) -> Float[np.ndarray, " part"]:
    """Score every part by the thresholds of the config, as shares of the damage of removing everything."""
    config = context.config
    (whole,) = damage(0, [frozenset(part for _, parts in groups for part in parts)])
    if not whole > 0:
        raise InputError(
            f"acdc with metric={config.metric}: removing everything does no damage ({whole:.3g}), "
            "so thresholds have no scale; choose pairs that the model solves"
        )
    pruner = Pruner(
        [parts for _, parts in groups],
        lambda group, removed: damage(groups[group][0], removed),
        max(1, PATCH_ROWS // min(config.batch_size, len(context.pairs))),
        canonical,
        context.steps(config.thresholds * sum(len(parts) for _, parts in groups)),
    )
    shares = np.geomspace(config.lowest, config.highest, config.thresholds)
    return pruner.sweep((shares * whole).tolist())


def _site_groups(sites: Sequence[Site]) -> Groups:
    """From the last layer down, its MLP first, later heads before earlier ones."""
    groups: Groups = []
    for layer in range(max(site.layer for site in sites), -1, -1):
        for kind in ("mlp", "attn"):
            parts = [part for part, site in enumerate(sites) if (site.layer, site.kind) == (layer, kind)]
            if parts:
                groups.append((layer, parts[::-1]))
    return groups


def _edge_groups(graph: ComponentGraph) -> Groups:
    """One receiver after the other, from the logits down; into each, later senders before earlier ones."""
    n = len(graph.senders)
    return [
        (receiver.layer, [row * n + sender for sender in range(graph.reads(receiver) - 1, -1, -1)])
        for row, receiver in reversed(list(enumerate(graph.receivers)))
    ]
