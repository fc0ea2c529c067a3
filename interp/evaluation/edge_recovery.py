"""How well edge scores recover the edges of a published circuit.

The universe is every edge from a head to a head of a later layer: once per q, k and v input where the scores
tell them apart, else once per pair of heads. Edges without a score count as zero. Because most of an edge AUC
is knowing which *heads* matter, the AUC among edges between circuit members stands beside it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from sklearn.metrics import average_precision_score

from interp.circuits.references import Reference
from interp.evaluation.recovery import roc_auc
from interp.models.sites import parse_site
from interp.scores.result import EdgeScore
from interp.tasks.errors import InputError


@dataclass(frozen=True)
class EdgeRecovery:
    """Agreement of edge scores with a reference's edges; ranked by |score|, ties as half.

    Attributes:
        within_roc_auc: ROC AUC among the edges that join two members of the circuit.
        n_scored: edges of the universe that came with a score.
        split: whether q, k and v inputs count apart.
    """

    roc_auc: float | None
    average_precision: float | None
    within_roc_auc: float | None
    n_positive: int
    n_edges: int
    n_scored: int
    split: bool

    def to_dict(self) -> dict:
        """JSON-able values."""
        return asdict(self)


def recover_edges(edges: Sequence[EdgeScore], reference: Reference) -> EdgeRecovery:
    """ROC over directed edges among heads. Edges that touch an MLP, the input or the logits are left out.

    Where a score lacks q, k or v, all are folded to pairs of heads by their largest absolute score.

    Raises:
        InputError: the reference has no edges, a score is not finite, or names a head the model lacks.
    """
    if not reference.head_edges:
        raise InputError(f"reference {reference.name!r} was published without edges")
    among_heads = [e for e in edges if _is_head(e.sender) and _is_head(e.receiver)]
    for edge in among_heads:
        if not np.isfinite(edge.score):
            raise InputError(
                f"the edge {edge.sender} -> {edge.receiver} scores {edge.score}: not a finite number"
            )
    split = all(e.into is not None for e in among_heads)
    shape = (reference.n_layers, reference.n_heads, reference.n_layers, reference.n_heads, 3 if split else 1)
    scores, given, truth = np.zeros(shape), np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for edge in among_heads:
        index = _index(edge.sender, edge.receiver, edge.into, split)
        if any(k >= n for k, n in zip(index, shape, strict=True)) or index[0] >= index[2]:
            raise InputError(f"edge {edge.sender}->{edge.receiver}: {reference.model} has no such edge")
        scores[index] = max(scores[index], abs(edge.score))
        given[index] = True
    for sender, receiver, into in reference.head_edges:
        truth[_index(sender, receiver, into, split)] = True
    layers = np.arange(reference.n_layers)
    causal = np.broadcast_to((layers[:, None] < layers)[:, None, :, None, None], shape)
    member = reference.members()
    within = causal & member[:, :, None, None, None] & member[None, None, :, :, None]
    return EdgeRecovery(
        roc_auc=roc_auc(scores[causal], truth[causal]),
        average_precision=float(average_precision_score(truth[causal], scores[causal])),
        within_roc_auc=roc_auc(scores[within], truth[within]),
        n_positive=int(truth.sum()),
        n_edges=int(causal.sum()),
        n_scored=int(given.sum()),
        split=split,
    )


def _is_head(node: str) -> bool:
    return node.startswith("a") and ".h" in node


def _index(sender: str, receiver: str, into: str | None, split: bool) -> tuple[int, ...]:
    start, end = parse_site(sender), parse_site(receiver)
    return (start.layer, start.head, end.layer, end.head, "qkv".index(into) if split else 0)
