"""What a head at a token looks at, what it writes, and its codes."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.store import Codebooks, pretrained_names
from interp.codesearch.labels import labels_of
from interp.contrast.explanation import WhyNode
from interp.contrast.prompts import token_text
from interp.interventions.frozen import FrozenContext, Node
from interp.interventions.patch import Reader, patched_logits
from interp.models.residual_writes import FinalNorm, ResidualWrites

LOOKED_AT, WRITTEN = 4, 5
"""Tokens that are named of a node."""


def read_nodes(
    context: FrozenContext, nodes: Sequence[Node], effects: Sequence[float], estimates: Sequence[float]
) -> list[WhyNode]:
    """Nodes with what can be read of each."""
    tokens = [token_text(context.model, token) for token in context.pairs[0].clean_tokens]
    looks = [
        [(tokens[at], at, float(share[at])) for at in np.argsort(-share, kind="stable")[:LOOKED_AT].tolist()]
        for share in _looks_at(context, nodes)
    ]
    columns = zip(
        nodes, effects, estimates, looks, _writes(context, nodes), _codes(context, nodes), strict=True
    )
    return [
        WhyNode(str(node.site), node.position, tokens[node.position], effect, estimate, seen, *written, code)
        for node, effect, estimate, seen, written, code in columns
    ]


def _looks_at(context: FrozenContext, nodes: Sequence[Node]) -> list[Float[np.ndarray, " pos"]]:
    """Of every node, which share of its attention · |value| in A each position has."""
    norms: dict[int, Float[Tensor, "pos group"]] = {}
    shares: dict[Node, np.ndarray] = {}

    def values(layer: int, v: Tensor) -> None:
        norms[layer] = v[0].float().norm(dim=-1)

    def pattern(layer: int, weights: Tensor) -> None:
        size = norms[layer].repeat_interleave(context.n_heads // norms[layer].shape[1], 1)
        for node in nodes:
            if node.layer == layer:
                share = weights[0, node.head, node.position].float() * size[:, node.head]
                shares[node] = (share / share.sum().clamp_min(1e-30)).cpu().numpy()

    readers: dict[str, list[Reader]] = {}
    for layer in {node.layer for node in nodes}:
        readers[f"blocks.{layer}.attn.hook_v"] = [partial(values, layer)]
        readers[f"blocks.{layer}.attn.hook_pattern"] = [partial(pattern, layer)]
    patched_logits(context.model, context.pairs[0].clean_tokens, [], readers)
    return [shares[node] for node in nodes]


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
