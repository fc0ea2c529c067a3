"""What a head at a token looks at, what it writes, and its codes."""

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.store import Codebooks, pretrained_names
from interp.codesearch.labels import Labels, labels_of
from interp.contrast.explanation import WhyNode
from interp.contrast.prompts import token_text
from interp.interventions.frozen import FrozenContext, Node
from interp.models import Model
from interp.models.residual_writes import FinalNorm, ResidualWrites

LOOKED_AT, WRITTEN = 4, 5  # tokens that are named of a node
_shipped: WeakKeyDictionary[Model, list[tuple[Codebooks, Labels | None]]] = WeakKeyDictionary()


def shipped_codebooks(model: Model) -> list[tuple[Codebooks, Labels | None]]:
    """Codebooks that come with the package for a model, and their labels: read once."""
    if model not in _shipped:
        opened = [Codebooks.from_pretrained(name, model) for name in pretrained_names(model)]
        _shipped[model] = [(books, labels_of(books)) for books in opened]
    return _shipped[model]


def read_nodes(
    context: FrozenContext,
    nodes: Sequence[Node],
    effects: Mapping[Node, float],
    estimates: Float[np.ndarray, "layer pos component"],
) -> list[WhyNode]:
    tokens, read = [token_text(context.model, token) for token in context.pairs[0].clean_tokens], []
    written, codes = _writes(context, nodes), _codes(context, nodes)
    for node, tokens_written, code in zip(nodes, written, codes, strict=True):
        looks_at = []
        if node.head is not None:
            share = context.looks_at(node)
            order = np.argsort(-share, kind="stable")[:LOOKED_AT].tolist()
            looks_at = [(tokens[i], i, float(share[i])) for i in order]
        at = str(node.site), node.position, tokens[node.position]
        estimate = float(estimates[context.place(node)])
        read.append(WhyNode(*at, effects[node], estimate, looks_at, *tokens_written, code))
    return read


@torch.no_grad()
def _writes(context: FrozenContext, nodes: Sequence[Node]) -> Sequence[tuple[list[str] | None, list[str] | None]]:
    """Tokens whose logits the node's output in A raises and lowers most through W_O, final norm and unembedding.

    Which tokens these are does not depend on the norm's scale.
    """
    model, wiring = context.model, ResidualWrites.of(context.model)
    if not wiring.known or not nodes:
        return [(None, None)] * len(nodes)
    norm, z = FinalNorm.of(model), context.z[:, 0]
    added = [
        context.mlp[at.layer, 0, at.position]
        if at.head is None
        else wiring.added_by_heads(model, at.layer, z[at.layer, at.position][None])[0, at.head]
        for at in nodes
    ]
    logits: Float[Tensor, "node d_vocab"] = norm.norm.direction(torch.stack(added)) @ norm.unembedding

    def names(values: Tensor) -> list[list[str]]:
        return [[token_text(model, i) for i in row] for row in values.topk(WRITTEN).indices.tolist()]

    return list(zip(names(logits), names(-logits), strict=True))


def _codes(context: FrozenContext, nodes: Sequence[Node]) -> list[dict | None]:
    """By the codebooks that come with the package for this model, if any do."""
    codes: list[dict | None] = []
    for node in nodes:
        site = str(node.site)
        shipped = next((entry for entry in shipped_codebooks(context.model) if site in entry[0]), None)
        if shipped is None:
            codes.append(None)
            continue
        books, labels = shipped
        in_a = (context.mlp if node.head is None else context.z)[node.layer, 0, node.position]
        values = torch.stack([in_a if node.head is None else in_a[node.head], context.on_b(node)]).float()
        a, b = books[site].encode(values).ids[:, 0].tolist()
        name_a, name_b = ("" if labels is None else labels.both_texts(site, code) for code in (a, b))
        codes.append({"a": a, "b": b, "name_a": name_a, "name_b": name_b})
    return codes
