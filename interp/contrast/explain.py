"""The steps of an explanation: answers, both prompts run, nodes chosen, looked at alone, patched, read; arrows."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float, Int

from interp.contrast.explanation import CURVE, ENOUGH, Alone, Arrow, Why
from interp.contrast.prompts import LEAST_DIFFERENCE, read_contrast, token_text
from interp.contrast.reading import read_nodes
from interp.errors import InputError
from interp.interventions.edges import EdgePatcher
from interp.interventions.frozen import SIZES, FrozenContext, Node
from interp.models import Model, describe_model
from interp.progress import Stage, silent

LEAST_MEASURED, MOST_MEASURED = 30, 80
LARGE = 0.02
"""Of the difference: nodes of such an effect are named, and have arrows, though they are not kept."""
DRAWS = 3
"""So often random nodes are drawn."""
DRAWN, ABOVE, SENDERS = 0.1, 0.95, 200
"""Arrows have this share of the smaller node's effect, above this quantile of so many random senders."""


def why(
    model: Model,
    a: str,
    b: str,
    *,
    answer: str | None = None,
    instead: str | None = None,
    stage: Stage = silent,
) -> Why:
    """Which heads at which tokens make the model say one thing after ``a`` and another after ``b``.

    >>> told = why(load_model("planted-induction"), "store ring river store", "park ring river store")
    >>> [str(node) for node in told.nodes], told.sparse
    (["a1.h1 @ 'store' 4", "a0.h3 @ 'ring' 2", "a2.h4 @ 'store' 4"], True)

    Args:
        a, b: prompts of equal length in tokens, or with a common end.
        answer, instead: what is told apart, with the space in front; by default the tokens with the largest terms of
            KL(A ‖ B) and KL(B ‖ A). Of several tokens the first that differs counts.

    Raises:
        InputError: prompts or answers that cannot be compared.
    """
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str, steps: int = 1) -> Iterator[Callable[..., None]]:
        begin = time.perf_counter()
        with stage(name, steps) as done:
            yield done
        seconds[name] = round(time.perf_counter() - begin, 3)

    with timed("answers"):
        contrast = read_contrast(model, a, b, answer, instead)
    with timed("run"):
        context = FrozenContext(model, contrast.a, contrast.b, contrast.first, *contrast.answers)
    estimates, (at_a, at_b) = context.estimates(), context.difference
    if abs(at_a - context.nothing) < LEAST_DIFFERENCE:
        raise InputError(
            "with every head as after B the model still says what it says after A: no head explains it"
        )
    by_size, large = np.argsort(-np.abs(estimates), axis=None), LARGE * abs(at_a - at_b)
    with timed("choice", len(SIZES)) as done:
        chosen = context.grow(done)
    with timed("alone"):
        alone, controls = _alone(context, chosen, by_size)
        sparse = [row.nodes for row in alone if ENOUGH[0] <= row.restored <= ENOUGH[1]]
        kept = sparse[0] if sparse else len(chosen)
        needed = 1 - float(context.shares(~context.arms([chosen[:kept]]))[0, 0])
    with timed("patches"):
        most = min(max(int((np.abs(estimates) >= large).sum()), LEAST_MEASURED), MOST_MEASURED)
        measured = list(dict.fromkeys([*chosen, *context.nodes(by_size[:most])]))[:MOST_MEASURED]
        effect = dict(zip(measured, context.node_effects(measured)[0].tolist(), strict=True))
        others = [node for node in measured[len(chosen) :] if abs(effect[node]) >= large]
        nodes = [*chosen, *sorted(others, key=lambda node: -abs(effect[node]))]
        effects = [effect[node] for node in nodes]
    with timed("reading"):
        estimated = [float(estimates[at.layer, at.position - context.first, at.head]) for at in nodes]
        read = read_nodes(context, nodes, effects, estimated)
    with timed("arrows"):
        ends = [i for i in range(len(nodes)) if i < kept or abs(effects[i]) >= large][: max(CURVE)]
        arrows = _arrows(context, nodes, effects, ends)
    return Why(
        model=describe_model(model)["spec"],
        chat=False,
        tokens=[token_text(model, token) for token in contrast.a],
        tokens_b=[token_text(model, token) for token in contrast.b],
        alone_with_mlps=None,
        with_mlps=None,
        a=a,
        b=b,
        answers=contrast.told,
        difference={"a": at_a, "b": at_b},
        nodes=read,
        kept=kept,
        arrows=arrows,
        alone=[row for row in alone if row.nodes in (*CURVE, kept)],
        controls=controls,
        needed=needed,
        sparse=bool(sparse),
        left=(context.nothing - at_b) / (at_a - at_b),
        notes=contrast.notes,
        seconds=seconds,
    )


def _alone(
    context: FrozenContext, chosen: list[Node], by_size: Int[np.ndarray, " node"]
) -> tuple[list[Alone], dict[str, list[Alone]]]:
    """What the first nodes do alone, for every number of them; and the controls."""
    rng = np.random.default_rng(0)
    orders = [by_size, *(rng.permutation(len(by_size)) for _ in range(DRAWS))]
    firsts = [chosen[: n + 1] for n in range(len(chosen))]
    arms = context.arms([*firsts, *(context.nodes(order[:n]) for order in orders for n in CURVE), []])
    arms[-1, :, -1] = True  # all heads at END
    shares = context.shares(arms)
    controls = shares[:, len(chosen) : -1].reshape(2, 1 + DRAWS, len(CURVE))

    def rows(sizes: Sequence[int], shares: Float[np.ndarray, "2 n"]) -> list[Alone]:
        return [Alone(n, *both) for n, both in zip(sizes, shares.T.tolist(), strict=True)]

    return rows(range(1, len(chosen) + 1), shares[:, : len(chosen)]), {
        "by attribution": rows(CURVE, controls[:, 0]),
        "at random": rows(CURVE, controls[:, 1:].mean(1)),
        "all heads at END": rows([int(arms[-1].sum())], shares[:, -1:]),
    }


def _arrows(
    context: FrozenContext, nodes: Sequence[Node], effects: Sequence[float], ends: Sequence[int]
) -> list[Arrow] | None:
    """Which node tells which, of those whose places are ``ends``; ``None`` where attention or wiring are not known.

    direct(u → v) = fall of A's metric when v, and nothing else, is recomputed with u's change added to its input
    total(u → v)  = the same where everything between u and v is live

    What v then writes is put into A. Random senders are compared by an estimate: change of what v writes · gradient.
    """
    try:
        edges = EdgePatcher(context)
    except InputError:
        return None
    likely, values = [], []
    every = context.nodes(np.random.default_rng(0).permutation(int(np.prod(context.shape))))
    for v in ends:
        receiver = nodes[v]
        senders = [u for u in ends if _before(nodes[u], receiver)]
        random = [node for node in every if _before(node, receiver) and node not in nodes][:SENDERS]
        if senders:
            both = [(node.site, node.position) for node in [*(nodes[u] for u in senders), *random]]
            written = edges.at_token(0, receiver.site, receiver.position, both)
            change = context.z[receiver.layer, 0, receiver.position, receiver.head] - written
            gradient = context.gradient[0, receiver.layer, receiver.position - context.first, receiver.head]
            estimates = (change @ gradient).abs().float().cpu().numpy()
            bar = np.quantile(estimates[len(senders) :], ABOVE) if random else 0.0
            for u, estimate, value in zip(senders, estimates, written, strict=False):
                least = DRAWN * min(abs(effects[u]), abs(effects[v]))
                if estimate > bar and estimate >= least / 2:  # it is measured below
                    likely.append((u, v, least))
                    values.append(value)
    direct = context.node_effects([nodes[v] for _, v, _ in likely], values)[0].tolist()
    drawn = [(u, v, fall) for (u, v, least), fall in zip(likely, direct, strict=True) if abs(fall) >= least]
    first = sorted({u for u, _, _ in drawn})
    read = context.node_effects([nodes[u] for u in first], receivers=nodes)[1]
    written_live = [read[v][first.index(u)] for u, v, _ in drawn]
    total = context.node_effects([nodes[v] for _, v, _ in drawn], written_live)[0].tolist()
    return [Arrow(u, v, whole, fall) for (u, v, fall), whole in zip(drawn, total, strict=True)]


def _before(sender: Node, receiver: Node) -> bool:
    return sender.layer < receiver.layer and sender.position <= receiver.position
