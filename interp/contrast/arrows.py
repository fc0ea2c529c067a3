"""Which node tells which: an arrow is what a later node writes otherwise when it reads an earlier one's change.

direct(u → v) = fall of A's metric when v, and nothing else, is recomputed with u's change added to its input
total(u → v)  = the same where everything between u and v is live

What v then writes is put into A. An arrow is drawn where |direct| is at least :data:`DRAWN` of the smaller node's
effect, and above the quantile :data:`ABOVE` of random senders, both estimated: change of what v writes · A's gradient.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from interp.activations.stream import Progress
from interp.contrast.explanation import Arrow
from interp.errors import InputError
from interp.interventions.edges import EdgePatcher
from interp.interventions.frozen import FrozenContext, Node

DRAWN, ABOVE = 0.1, 0.95
RANDOM = 200
"""Random senders of a receiver."""


def measured_arrows(
    context: FrozenContext,
    nodes: Sequence[Node],
    effects: Float[np.ndarray, " node"],
    ends: Sequence[int],
    seed: int,
    progress: Progress,
) -> list[Arrow] | None:
    """Arrows among nodes whose places are in ``ends``; ``None`` where the model's attention or wiring is not known."""
    try:
        edges = EdgePatcher(context)
    except InputError:
        return None
    rng, likely, values = np.random.default_rng(seed), [], []
    every = context.nodes(rng.permutation(int(np.prod(context.shape))))
    for v in ends:
        receiver = nodes[v]
        senders = [u for u in ends if _before(nodes[u], receiver)]
        random = [node for node in every if _before(node, receiver) and node not in nodes][:RANDOM]
        if senders:
            both = [(node.site, node.position) for node in [*(nodes[u] for u in senders), *random]]
            written = edges.at_token(0, receiver.site, receiver.position, both)
            at = receiver.layer, receiver.position - context.first, receiver.head
            falls = (
                context.z[receiver.layer, 0, receiver.position, receiver.head] - written
            ) @ context.gradient[0][at]
            estimates = falls.abs().float().cpu().numpy()
            bar = np.quantile(estimates[len(senders) :], ABOVE) if random else 0.0
            for u, estimate, value in zip(senders, estimates, written, strict=False):
                least = DRAWN * min(abs(effects[u]), abs(effects[v]))
                if estimate > bar and estimate >= least / 2:  # it is measured below
                    likely.append((u, v, least))
                    values.append(value)
        progress(1)
    direct = context.patched([nodes[v] for _, v, _ in likely], values)[0].tolist()
    drawn = [(u, v, fall) for (u, v, least), fall in zip(likely, direct, strict=True) if abs(fall) >= least]
    first = sorted({u for u, _, _ in drawn})
    read = context.patched([nodes[u] for u in first], receivers=nodes)[1]
    ends = [read[v][first.index(u)] for u, v, _ in drawn]
    total = context.patched([nodes[v] for _, v, _ in drawn], ends)[0].tolist()
    return [Arrow(u, v, whole, fall) for (u, v, fall), whole in zip(drawn, total, strict=True)]


def _before(sender: Node, receiver: Node) -> bool:
    return sender.layer < receiver.layer and sender.position <= receiver.position
