"""Which node tells which: an arrow is what a later node writes otherwise when it reads an earlier one's change.

direct(u → v) = fall of A's metric when v, and nothing else, is recomputed with u's change added to its input
total(u → v)  = the same where everything between u and v is live

The receiver's new output is then put into A. An arrow is drawn where |direct| is at least :data:`DRAWN` of the smaller
node's effect, and above the quantile :data:`ABOVE` of random senders, both estimated with A's gradient: (what v writes
− what it then writes) · gradient, which costs no forward.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from interp.activations.stream import Progress
from interp.contrast.explanation import Arrow
from interp.errors import InputError
from interp.interventions.edges import EdgePatcher
from interp.interventions.frozen import FrozenContext, Node

DRAWN = 0.1
ABOVE = 0.95
RANDOM = 200
"""Random senders of a receiver."""


def measured_arrows(
    context: FrozenContext,
    nodes: Sequence[Node],
    effects: Float[np.ndarray, " node"],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Arrow] | None:
    """Arrows among some nodes; ``None`` where attention or wiring of the model are not known."""
    try:
        edges = EdgePatcher(context)
    except InputError:
        return None
    rng, likely, values = np.random.default_rng(seed), [], []
    for v, receiver in enumerate(nodes):
        senders = [u for u, sender in enumerate(nodes) if _before(sender, receiver)]
        if senders:
            random = _random_senders(context, receiver, set(nodes), rng)
            told = [(node.site, node.position) for node in [*(nodes[u] for u in senders), *random]]
            written = edges.at_token(0, receiver.site, receiver.position, told)
            at = receiver.layer, receiver.position - context.first, receiver.head
            fall = (context.z[receiver.layer, 0, receiver.position, receiver.head] - written) @ context.gradient[0][at]
            sizes = fall.abs().float().cpu().numpy()
            bar = np.quantile(sizes[len(senders) :], ABOVE) if random else 0.0
            for row, u in enumerate(senders):
                least = DRAWN * min(abs(effects[u]), abs(effects[v]))
                # half of it, since it is an estimate of what is measured below
                if sizes[row] > bar and sizes[row] >= least / 2:
                    likely.append((u, v, least))
                    values.append(written[row])
        if progress is not None:
            progress(1)
    direct = context.effects_with([nodes[v] for _, v, _ in likely], values)
    drawn = [(u, v, fall) for (u, v, least), fall in zip(likely, direct.tolist(), strict=True) if abs(fall) >= least]
    if not drawn:
        return []
    first, last = (sorted({arrow[end] for arrow in drawn}) for end in (0, 1))
    written = context.without([nodes[u] for u in first], [nodes[v] for v in last])
    ends = [written[first.index(u), last.index(v)] for u, v, _ in drawn]
    total = context.effects_with([nodes[v] for _, v, _ in drawn], ends)
    return [Arrow(u, v, whole, fall) for (u, v, fall), whole in zip(drawn, total.tolist(), strict=True)]


def _before(sender: Node, receiver: Node) -> bool:
    return sender.layer < receiver.layer and sender.position <= receiver.position


def _random_senders(
    context: FrozenContext, receiver: Node, nodes: set[Node], rng: np.random.Generator
) -> list[Node]:
    shape = receiver.layer, receiver.position - context.first + 1, context.shape[2]
    places = rng.permutation(int(np.prod(shape)))[: RANDOM + len(nodes)]
    layers, positions, heads = np.unravel_index(places, shape)
    every = [
        Node(*map(int, at)) for at in zip(layers, positions + context.first, heads, strict=True)
    ]
    return [node for node in every if node not in nodes][:RANDOM]
