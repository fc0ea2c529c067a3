"""What a head at a token looks at, what it writes, and its codes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.store import Codebooks, pretrained_names
from interp.codesearch.labels import Labels, labels_of
from interp.contrast.explanation import NodeCode, WhyNode
from interp.contrast.prompts import token_text
from interp.interventions.frozen import FrozenContext, Node
from interp.models import Model
from interp.models.residual_writes import FinalNorm, ResidualWrites

LOOKED_AT = 4
WRITTEN = 5
"""Tokens that are named of a node."""


def read_nodes(
    context: FrozenContext,
    nodes: Sequence[Node],
    effects: Float[np.ndarray, " node"],
    estimates: Float[np.ndarray, "layer pos head"],
) -> list[WhyNode]:
    """Nodes with what can be read of each."""
    tokens = [token_text(context.model, token) for token in context.pairs[0].clean_tokens]
    looks, writes, books = context.looks_at(nodes), _written(context, nodes), _books(context.model)
    read = []
    for node, effect, share, raised in zip(nodes, effects.tolist(), looks, writes, strict=True):
        most = np.argsort(-share, kind="stable")[:LOOKED_AT].tolist()
        raises, lowers = (None, None) if raised is None else raised
        read.append(
            WhyNode(
                str(node.site),
                node.position,
                tokens[node.position],
                effect,
                float(estimates[node.layer, node.position - context.first, node.head]),
                [(tokens[at], at, float(share[at])) for at in most],
                raises,
                lowers,
                _code(context, node, books),
            )
        )
    return read


@torch.no_grad()
def _written(
    context: FrozenContext, nodes: Sequence[Node]
) -> list[tuple[list[str], list[str]] | None]:
    """Tokens whose logits the head's output in A raises and lowers most through W_O, final norm and unembedding.

    Which tokens these are does not depend on the norm's scale at that position.
    """
    model, wiring = context.model, ResidualWrites.of(context.model)
    if not wiring.known:
        return [None] * len(nodes)
    norm = FinalNorm.of(model)
    added = [
        wiring.added_by_heads(model, node.layer, context.z[node.layer, 0, node.position][None])[0, node.head]
        for node in nodes
    ]
    logits: Float[Tensor, "node d_vocab"] = norm.norm.direction(torch.stack(added)) @ norm.unembedding

    def names(values: Tensor) -> list[list[str]]:
        return [[token_text(model, i) for i in row] for row in values.topk(WRITTEN).indices.tolist()]

    return list(zip(names(logits), names(-logits), strict=True))


@dataclass(frozen=True)
class _Books:
    codebooks: Codebooks
    labels: Labels | None


def _books(model: Model) -> _Books | None:
    """The codebooks of heads that come with the package for this model."""
    for name in pretrained_names(model):
        codebooks = Codebooks.from_pretrained(name, model)
        if all(site.startswith("a") for site in codebooks):
            return _Books(codebooks, labels_of(codebooks))
    return None


def _code(context: FrozenContext, node: Node, books: _Books | None) -> NodeCode | None:
    site = str(node.site)
    if books is None or site not in books.codebooks:
        return None
    both = torch.stack([side[node.layer, 0, node.position, node.head] for side in (context.z, context.corrupt_z)])
    a, b = books.codebooks[site].encode(both.float()).ids[:, 0].tolist()
    name_a, name_b = ("" if books.labels is None else books.labels.text(site, code) for code in (a, b))
    return NodeCode(a, b, name_a, name_b)
