"""ACDC: greedy pruning of heads or edges, kept when removing them moves the answer by more than a threshold.

Conmy et al. 2023 (arXiv 2304.14997), Algorithm 1, with resample ablation: what is removed carries its value of the
corrupt run. From the logits down, later parts first, each is removed for good when that raises the damage of the graph
so far by less than τ; damage is KL(model ‖ graph) at END in nats, or the fall of the task metric.

- ``level="heads"``: parts are heads (MLPs live, unless ``mlps``), each removed at all positions.
- ``level="edges"``: parts are edges from the embeddings, heads and MLPs into each head's query, key and value, each
  MLP, and the logits (:mod:`.edge_patching`); a head's score is its best outgoing edge's.

Thresholds are shares of the damage when everything is removed, so that one setting serves every task. The score is the
largest threshold of the sweep that a part survives, made finer by the rise when it was tried there
(:meth:`.greedy.Pruner.sweep`). Damage is averaged over pairs before anything is decided: no per-pair scores.

Cost: per threshold and part one forward from the part's layer up, somewhat more where guesses of what goes fail and
less where thresholds stand before the same graph. The 270 heads of SmolLM2 at three thresholds are 470 forwards a pair,
seven minutes for ten pairs on one core. Edges grow with the square of the heads, times three: 745 for a planted model
(seconds, since edges into what nothing reads any more are free), 125,000 for SmolLM2, which is for a GPU.

When it misleads: the order decides among parts that can replace each other (a backup tried first goes, and the mover
then stays); with the task metric parts that work against the answer go first; below the threshold many small parts go
one by one although together they matter.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from interp.activations.stream import BATCH_SIZE, Consumer, MetricConsumer, Progress, feed
from interp.models import Model, Site, has_mlps
from interp.scores.component_graph import ComponentGraph
from interp.scores.divergence import Divergence, DivergenceKind
from interp.scores.edge_patching import EdgePatching
from interp.scores.greedy import Pruner
from interp.scores.node_patching import NodePatching
from interp.scores.patching import SWAP_ROWS
from interp.scores.percent import percent
from interp.scores.result import Cost, EdgeScore, Scores
from interp.tasks.errors import InputError, check_fields
from interp.tasks.pairs import PromptPairs


@dataclass(frozen=True)
class ACDCConfig:
    """
    Attributes:
        level: what is pruned.
        metric: ``kl``, which sees parts that work against the answer too, or ``task``.
        lowest, highest: ends of the sweep, as shares of the damage when everything is removed.
        thresholds: how many of them, evenly spaced in their logarithm.
        mlps: whether MLPs are pruned too, at head level.
        batch_size: pairs per forward.
    """

    level: Literal["heads", "edges"] = "heads"
    metric: DivergenceKind = "kl"
    lowest: float = 1e-3
    highest: float = 0.1
    thresholds: int = 3
    mlps: bool = False
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.lowest <= self.highest < float("inf"):
            raise InputError(
                f"lowest {self.lowest}, highest {self.highest}: needs numbers, 0 < lowest ≤ highest"
            )
        if self.thresholds < 1:
            raise InputError(f"thresholds {self.thresholds}: it must be at least 1")


def acdc(
    model: Model,
    pairs: PromptPairs,
    config: ACDCConfig = ACDCConfig(),
    *,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score heads, or edges, by a sweep of ACDC's threshold (module docstring).

    Args:
        progress: told hundredths of the whole work.

    Raises:
        InputError: removing everything does no damage, or (edges) the model's attention is not known.
    """
    begin = time.perf_counter()
    divergence, metric = Divergence(config.metric, pairs.metric), MetricConsumer(len(pairs))
    graph = ComponentGraph.of(model)
    if config.level == "heads":
        sites = _sites(model, config.mlps)
        patching: NodePatching | EdgePatching = NodePatching(model, pairs, sites, divergence)
        groups, canonical = _site_groups(sites), frozenset
    else:
        patching = EdgePatching(model, pairs, divergence)
        groups, canonical = _edge_groups(graph), LiveEdges(graph)
    with patching.watching():
        forwards = feed(model, pairs, [patching, metric, *consumers], batch_size=config.batch_size)
    parts = _sweep(config, patching, groups, canonical, progress)
    edges: tuple[EdgeScore, ...] = ()
    if config.level == "edges":
        matrix = parts.reshape(graph.exists.shape)
        edges = graph.edges(np.where(graph.exists, matrix, np.nan))
        by_name = dict(zip(graph.senders, np.where(graph.exists, matrix, 0).max(0), strict=True))
    else:
        by_name = {str(site): score for site, score in zip(sites, parts, strict=True)}
    layers, with_mlps = range(graph.n_layers), "m0" in by_name
    return Scores(
        method="acdc",
        heads=np.array([[by_name[f"a{layer}.h{h}"] for h in range(graph.n_heads)] for layer in layers]),
        mlps=np.array([by_name[f"m{layer}"] for layer in layers]) if with_mlps else None,
        edges=edges,
        signed=False,
        cost=Cost(forwards + patching.forwards, {"acdc": time.perf_counter() - begin}),
        config=asdict(config),
        metric_clean=metric.metric_[0],
        metric_corrupt=metric.metric_[1],
        provenance=pairs.provenance(),
    )


Groups = list[tuple[int, list[int]]]
"""(layer from which a forward must be run, parts in the order in which they are tried)."""


def _sweep(
    config: ACDCConfig,
    patching: NodePatching | EdgePatching,
    groups: Groups,
    canonical: Callable[[frozenset[int]], Hashable],
    progress: Progress | None,
) -> Float[np.ndarray, " part"]:
    """Score every part by the thresholds of the config, as shares of the damage of removing everything."""
    (whole,) = patching.damage(0, [frozenset(part for _, parts in groups for part in parts)])
    if not whole > 0:
        raise InputError(
            f"acdc with metric={config.metric}: removing everything does no damage ({whole:.3g}), "
            "so thresholds have no scale; choose pairs that the model solves"
        )
    done, tell = 0, percent(progress)
    total = config.thresholds * sum(len(parts) for _, parts in groups)

    def advance(decided: int) -> None:
        nonlocal done
        done += decided
        tell(done / total)

    rows = max(len(kept.batch.indices) for kept in patching.kept)
    pruner = Pruner(
        [parts for _, parts in groups],
        lambda group, removed: patching.damage(groups[group][0], removed),
        max(1, SWAP_ROWS // rows),
        canonical,
        advance,
    )
    shares = np.geomspace(config.lowest, config.highest, config.thresholds)
    return pruner.sweep((shares * whole).tolist())


def _sites(model: Model, mlps: bool) -> list[Site]:
    sites = [Site("attn", layer, h) for layer in range(model.cfg.n_layers) for h in range(model.cfg.n_heads)]
    return sites + [Site("mlp", layer) for layer in range(model.cfg.n_layers) if mlps and has_mlps(model)]


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
            (
                graph.mlp_sender(layer) if kind == "mlp" else graph.head_sender(layer, head),
                inputs,
            )
            for (kind, layer, head), inputs in reversed(rows.items())
        ]

    def __call__(self, removed: frozenset[int]) -> bytes:
        gone = ~self.graph.exists
        gone.flat[list(removed)] = True
        for sender, inputs in self._components:  # from the last writer down
            if gone[:, sender].all():
                gone[inputs] = True
        return np.packbits(gone).tobytes()
