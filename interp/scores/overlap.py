"""Discrete-SAE code overlap: a head is in the circuit if it has codes that only positive prompts use.

O'Neill & Bui 2024 (arXiv 2405.12522), as its published code runs it:

1. Reduce each head's output over positions and give every head one code per prompt (:mod:`.head_codes`).
2. score(head) = number of distinct codes that it has on some positive (clean) prompt and on no negative
   (corrupt) one. There a softmax over heads follows; it changes no order, so here the counts are kept.
3. score(head i, head j) = the same for pairs of codes that the two heads have on one and the same prompt.

When it misleads: it is a correlation with the corruption, not a cause; a single negative prompt deletes a
code; the count grows with the number of prompts, with the dictionary and with plain noise in a head's codes,
so a head whose codes are scattered scores high. Scores are small integers with many ties.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.activations.means import HeadMeans, Positions, output_weights
from interp.activations.stream import BATCH_SIZE, Consumer, MetricConsumer, Progress, feed
from interp.models import Model, Site
from interp.scores.code_pairs import edge_overlap, top_edges
from interp.scores.head_codes import HeadCodes, HeadCodesConfig, fit_head_codes
from interp.scores.result import Cost, EdgeScore, Scores
from interp.tasks.pairs import PromptPairs

PUBLISHED_L1 = {"ioi": 0.02, "greater-than": 0.02, "docstring": 0.05}
"""λ of each task's recorded runs, probably tuned against the very circuits that the results are scored on."""

BEST_EDGES = 200
"""Edges kept in the result; :func:`~interp.scores.code_pairs.edge_overlap` gives them all."""


@dataclass(frozen=True)
class OverlapConfig(HeadCodesConfig):
    """
    Attributes:
        positions: what a head's output is reduced to; only ``mean`` was published (``last`` is in the code).
        include_bos: whether ``mean`` includes the BOS position, as published.
        normalise: divide each head's count by its number of distinct codes; off in all published runs.
        batch_size: pairs per forward.
        edges: whether edges are scored too.
    """

    positions: Positions = "mean"
    include_bos: bool = True
    normalise: bool = False
    batch_size: int = BATCH_SIZE
    edges: bool = True


def means_of(model: Model, pairs: PromptPairs, config: OverlapConfig) -> HeadMeans:
    """The consumer that the config asks for; a tokenizer may have no BOS to leave out."""
    with_bos = pairs.bos and getattr(model.tokenizer, "bos_token_id", None) is not None
    return HeadMeans(pairs, config.positions, first=int(with_bos and not config.include_bos))


def overlap(
    model: Model,
    pairs: PromptPairs,
    config: OverlapConfig = OverlapConfig(),
    *,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score heads (and edges between them) by codes unique to the clean prompts (module docstring).

    Args:
        consumers: fed by the same forward passes.
        progress: told how many pairs have just been run; the dictionary comes after that.
    """
    begin = time.perf_counter()
    means, metrics = (
        means_of(model, pairs, config),
        MetricConsumer(len(pairs)),
    )
    forwards = feed(
        model, pairs, [means, metrics, *consumers], batch_size=config.batch_size, progress=progress
    )
    seconds = {"forward": time.perf_counter() - begin}
    codes = fit_head_codes(means, output_weights(model), config)
    seconds["codes"] = codes.seconds
    begin = time.perf_counter()
    heads = head_overlap(codes, normalise=config.normalise)
    edges = top_edges(head_edges(codes), *heads.shape, BEST_EDGES) if config.edges else ()
    seconds["scores"] = time.perf_counter() - begin
    return Scores(
        method="overlap",
        heads=heads,
        signed=False,
        cost=Cost(forwards, seconds),
        config=asdict(config),
        edges=edges,
        metric_clean=metrics.metric_[0],
        metric_corrupt=metrics.metric_[1],
        provenance=pairs.provenance() | {"train_indices": list(codes.train_indices)},
        codes=codes,
    )


def head_overlap(codes: HeadCodes, *, normalise: bool = False) -> Float[np.ndarray, "layer head"]:
    """Number of distinct codes of each head that occur on clean prompts only, summed over slots.

    Args:
        normalise: divide by the number of distinct codes of the head on either side.
    """
    used = np.zeros((*codes.ids.shape[:1], *codes.ids.shape[2:], codes.n_codes), dtype=bool)
    side, _, slot, layer, head = np.indices(codes.ids.shape, sparse=True)
    used[side, slot, layer, head, codes.ids] = True
    clean, corrupt = used
    unique = (clean & ~corrupt).sum((0, -1)).astype(np.float64)
    return unique / (clean | corrupt).sum((0, -1)) if normalise else unique


def head_edges(codes: HeadCodes) -> Int[np.ndarray, "head other"]:
    """:func:`~interp.scores.code_pairs.edge_overlap` of all heads in reading order, summed over slots."""
    clean, corrupt = codes.ids.reshape(*codes.ids.shape[:3], -1)
    return sum(
        edge_overlap(clean[:, slot], corrupt[:, slot], codes.n_codes) for slot in range(clean.shape[1])
    )


def edges_among(codes: HeadCodes, sites: Sequence[Site]) -> tuple[EdgeScore, ...]:
    """Edges from an earlier to a later layer among some heads, best first."""
    layers, heads = codes.ids.shape[-2:]
    inside = np.zeros(layers * heads, dtype=bool)
    inside[[site.layer * heads + site.head for site in sites if site.kind == "attn"]] = True
    matrix = np.where(inside[:, None] & inside[None, :], head_edges(codes), 0)
    return top_edges(matrix, layers, heads, int(inside.sum()) ** 2)
