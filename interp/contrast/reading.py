"""What a head at a token looks at, what it writes, and its codes."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.store import Codebooks, pretrained_names
from interp.codesearch.labels import labels_of
from interp.contrast.explanation import WhyNode
from interp.contrast.prompts import token_text
from interp.interventions.frozen import FrozenContext, Node
from interp.models.residual_writes import FinalNorm, ResidualWrites

LOOKED_AT, WRITTEN = 4, 5
"""Tokens that are named of a node."""


def read_nodes(
    context: FrozenContext, nodes: Sequence[Node], effects: Sequence[float], estimates: Sequence[float]
) -> list[WhyNode]:
    """Nodes with what can be read of each."""
    tokens, read = [token_text(context.model, token) for token in context.pairs[0].clean_tokens], []
    written, codes = _writes(context, nodes), _codes(context, nodes)
    for node, effect, estimate, tokens_written, code in zip(
        nodes, effects, estimates, written, codes, strict=True
    ):
        share = context.looks_at(node)
        seen = [
            (tokens[i], i, float(share[i])) for i in np.argsort(-share, kind="stable")[:LOOKED_AT].tolist()
        ]
        at = str(node.site), node.position, tokens[node.position]
        read.append(WhyNode(*at, effect, estimate, seen, *tokens_written, code))
    return read


@torch.no_grad()
def _writes(
    context: FrozenContext, nodes: Sequence[Node]
) -> Sequence[tuple[list[str] | None, list[str] | None]]:
    """Tokens whose logits the head's output in A raises and lowers most through W_O, final norm and unembedding.

    Which tokens these are does not depend on the norm's scale.
    """
    model, wiring = context.model, ResidualWrites.of(context.model)
    if not wiring.known or not nodes:
        return [(None, None)] * len(nodes)
    norm, z = FinalNorm.of(model), context.z[:, 0]
    added = [
        wiring.added_by_heads(model, at.layer, z[at.layer, at.position][None])[0, at.head] for at in nodes
    ]
    logits: Float[Tensor, "node d_vocab"] = norm.norm.direction(torch.stack(added)) @ norm.unembedding

    def names(values: Tensor) -> list[list[str]]:
        return [[token_text(model, i) for i in row] for row in values.topk(WRITTEN).indices.tolist()]

    return list(zip(names(logits), names(-logits), strict=True))


def _codes(context: FrozenContext, nodes: Sequence[Node]) -> list[dict | None]:
    """By the codebooks of heads that come with the package for this model, if any do."""
    opened = (Codebooks.from_pretrained(name, context.model) for name in pretrained_names(context.model))
    books = next((books for books in opened if all(site.startswith("a") for site in books)), None)
    if books is None:
        return [None] * len(nodes)
    labels, codes = labels_of(books), list[dict | None]()
    for node in nodes:
        site, at = str(node.site), (node.layer, 0, node.position, node.head)
        both = torch.stack([context.z[at], context.corrupt_z[at]]).float()
        a, b = books[site].encode(both).ids[:, 0].tolist()
        name_a, name_b = ("" if labels is None else labels.text(site, code) for code in (a, b))
        codes.append({"a": a, "b": b, "name_a": name_a, "name_b": name_b})
    return codes
