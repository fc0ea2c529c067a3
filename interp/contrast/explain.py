"""The steps of an explanation: answers, both prompts run, nodes chosen, looked at alone, patched, read; arrows."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.contrast.explanation import CURVE, ENOUGH, Alone, Arrow, Why, WithMlps
from interp.contrast.prompts import LEAST_DIFFERENCE, read_contrast, token_text
from interp.contrast.reading import read_nodes
from interp.errors import InputError
from interp.interventions.edges import EdgePatcher
from interp.interventions.frozen import SIZES, FrozenContext, Node
from interp.models import Model, describe_model
from interp.progress import Stage, silent, timed

LEAST_MEASURED, MOST_MEASURED = 30, 80
LARGE = 0.02  # of the difference: nodes of such an effect are named, and have arrows, though they are not kept
DRAWS = 3  # so often random nodes are drawn
DRAWN, ABOVE, SENDERS, SENDERS_RUN = 0.1, 0.95, 200, 60
"""Arrows have this share of the smaller node's effect, above this quantile of so many random senders; of fewer where
forwards have to be run for them."""


def why(
    model: Model,
    a: str,
    b: str,
    *,
    answer: str | None = None,
    instead: str | None = None,
    chat: bool = False,
    stage: Stage = silent,
) -> Why:
    """Which heads at which tokens make the model say one thing after ``a`` and another after ``b``.
    :class:`InputError`: prompts or answers that cannot be compared.

    >>> explanation = why(load_model("planted-induction"), "store ring river store", "park ring river store")
    >>> [str(node) for node in explanation.nodes], explanation.sparse
    (["a0.h3 @ 'ring' 2", "a1.h1 @ 'store' 4", "a2.h4 @ 'store' 4"], True)

    Args:
        a, b: prompts of equal length in tokens, or with a common end.
        answer, instead: two answers to compare, with the space in front; by default the tokens of the largest terms of
            KL(A ‖ B) and KL(B ‖ A). Of several tokens the first that differs counts.
        chat: put both into the model's chat template, as a user's message.
    """
    return explain(model, a, b, answer=answer, instead=instead, chat=chat, stage=stage)[0]


def explain(
    model: Model, a: str, b: str, *, answer: str | None, instead: str | None, chat: bool, stage: Stage
) -> tuple[Why, FrozenContext]:
    """:func:`why`, and both prompts as they were run."""
    seconds: dict[str, float] = {}
    measured = timed(stage, seconds)
    with measured("answers"):
        contrast = read_contrast(model, a, b, answer, instead, chat=chat)
    with measured("run"):
        context = FrozenContext(model, contrast.a, contrast.b, contrast.first, *contrast.answers)
    at_a, at_b = context.difference
    if abs(at_a - context.nothing[0]) < LEAST_DIFFERENCE:
        raise InputError("with every head as after B the model still says what it says after A: no head explains it")
    estimates = {mlps: context.estimates(mlps=mlps) for mlps in context.kinds}
    with measured("choice", len(SIZES)) as done:
        orders = context.grow(done)
    with measured("alone"):
        curves = [_alone(context, order, mlps=mlps) for mlps, order in zip(context.kinds, orders, strict=True)]
        controls = _controls(context, estimates[False])
        needed = 1 - float(context.shares(context.without(orders[0][: curves[0].kept]))[0, 0])
    with measured("patches"):
        effects = _effects(context, orders, estimates[False])
        large = LARGE * abs(at_a - at_b)
        others = [node for node in effects if abs(effects[node]) >= large and node.head is not None]
        others = sorted(set(others) - set(orders[0]), key=lambda node: -abs(effects[node]))
        nodes = [*orders[0], *others]
    with measured("reading"):
        shown = list(dict.fromkeys(chain(nodes, *orders)))
        details = read_nodes(context, shown, effects, estimates[context.kinds[-1]])
        read = dict(zip(shown, details, strict=True))
    with measured("arrows"):
        ends = [i for i, node in enumerate(nodes) if i < curves[0].kept or abs(effects[node]) >= large]
        arrows = _arrows(context, nodes, [effects[node] for node in nodes], ends[: max(CURVE)])
    explanation = Why(
        model=describe_model(model)["spec"],
        chat=chat,
        a=a,
        b=b,
        tokens=[token_text(model, token) for token in contrast.a],
        tokens_b=[token_text(model, token) for token in contrast.b],
        answers=contrast.probabilities,
        difference={"a": at_a, "b": at_b},
        nodes=[read[node] for node in nodes],
        kept=curves[0].kept,
        arrows=arrows,
        alone=curves[0].rows,
        alone_with_mlps=curves[1].rows if len(curves) > 1 else None,
        with_mlps=WithMlps([read[node] for node in orders[1]], curves[1].kept, curves[1].sparse)
        if len(curves) > 1
        else None,
        controls=controls,
        needed=needed,
        sparse=curves[0].sparse,
        left=(context.nothing[0] - at_b) / (at_a - at_b),
        notes=contrast.notes,
        seconds=seconds,
        n_heads=model.cfg.n_layers * model.cfg.n_heads,
    )
    return explanation, context


class _Curve(NamedTuple):
    rows: list[Alone]
    kept: int
    sparse: bool


def _alone(context: FrozenContext, order: list[Node], *, mlps: bool) -> _Curve:
    """What the first nodes do alone, and the fewest that are enough, else all."""
    firsts = [order[: n + 1] for n in range(len(order))]
    rows = _rows(range(1, len(order) + 1), context.shares(context.arms(firsts, mlps=mlps), mlps=mlps))
    enough = [row.nodes for row in rows if ENOUGH[0] <= row.restored <= ENOUGH[1]]
    kept = enough[0] if enough else len(order)
    return _Curve([row for row in rows if row.nodes in (*CURVE, kept, len(rows))], kept, bool(enough))


def _controls(context: FrozenContext, estimates: Float[np.ndarray, "layer pos component"]) -> dict[str, list[Alone]]:
    """As many nodes by attribution, random ones, and all heads at END, alone."""
    rng, heads = np.random.default_rng(0), np.flatnonzero(~context.arms([[]])[0])
    orders = [np.argsort(-np.abs(estimates), axis=None), *(rng.permutation(heads) for _ in range(DRAWS))]
    arms = context.arms([*(context.nodes(order[:n]) for order in orders for n in CURVE), []])
    arms[-1, :, -1] = True  # all heads at END
    shares = context.shares(arms)
    several = shares[:, :-1].reshape(2, 1 + DRAWS, len(CURVE))
    return {
        "by attribution": _rows(CURVE, several[:, 0]),
        "at random": _rows(CURVE, several[:, 1:].mean(1)),
        "all heads at END": _rows([context.n_layers * context.n_heads], shares[:, -1:]),
    }


def _rows(sizes: Sequence[int], shares: Float[np.ndarray, "2 n"]) -> list[Alone]:
    return [Alone(n, f, kl) for n, (f, kl) in zip(sizes, shares.T.tolist(), strict=True)]


def _effects(
    context: FrozenContext, orders: Sequence[list[Node]], estimates: Float[np.ndarray, "layer pos component"]
) -> dict[Node, float]:
    """Of all nodes that were put in, and of those heads that are estimated to be large."""
    by_size = np.argsort(-np.abs(estimates), axis=None)
    large = int((np.abs(estimates) >= LARGE * abs(np.subtract(*context.difference))).sum())
    likely = context.nodes(by_size[: min(max(large, LEAST_MEASURED), MOST_MEASURED)])
    measured = list(dict.fromkeys([*orders[0], *likely]))[:MOST_MEASURED]
    measured = list(dict.fromkeys([*measured, *orders[-1]]))
    return dict(zip(measured, context.node_effects(measured)[0].tolist(), strict=True))


def _arrows(
    context: FrozenContext, nodes: Sequence[Node], effects: Sequence[float], ends: Sequence[int]
) -> list[Arrow]:
    """Which node tells which, of those whose places are ``ends``.

    direct(u → v) = fall of A's metric when v, and nothing else, is recomputed with u's change added to its input
    total(u → v)  = the same where everything between u and v is live

    What v then writes is put into A. Random senders are compared by an estimate: change of what v writes · gradient.
    """
    likely, values = [], []
    for v, senders, written in _recomputed(context, nodes, ends):
        change = context.z[nodes[v].layer, 0, nodes[v].position, nodes[v].head] - written
        gradient = context.gradient[0, nodes[v].layer, nodes[v].position - context.first, nodes[v].head]
        estimates = (change @ gradient).abs().float().cpu().numpy()
        random = estimates[len(senders) :]
        bar = np.quantile(random, ABOVE) if len(random) else 0.0
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


def _recomputed(
    context: FrozenContext, nodes: Sequence[Node], ends: Sequence[int]
) -> Iterator[tuple[int, list[int], Float[Tensor, "sender d_head"]]]:
    """Receiver, its senders, and what it writes when it reads what one of them wrote on B; random senders behind them.

    Where attention is not known the model's own forwards say so, with fewer random senders.
    """
    heads = np.flatnonzero(~context.arms([[]])[0])
    random = [node for node in context.nodes(np.random.default_rng(0).permutation(heads)) if node not in nodes]
    senders = {v: [u for u in ends if _before(nodes[u], nodes[v])] for v in ends}
    senders = {v: before for v, before in senders.items() if before}
    try:
        edges = EdgePatcher(context)
    except InputError:
        rows = [*(nodes[u] for u in ends), *random[:SENDERS_RUN]]
        written = context.direct(rows, [nodes[v] for v in senders])
        for (v, before), values in zip(senders.items(), written, strict=True):
            others = [row for row in range(len(ends), len(rows)) if _before(rows[row], nodes[v])]
            yield v, before, values[[*(ends.index(u) for u in before), *others]]
        return
    for v, before in senders.items():
        drawn = islice((node for node in random if _before(node, nodes[v])), SENDERS)
        places = [(node.site, node.position) for node in chain((nodes[u] for u in before), drawn)]
        yield v, before, edges.at_token(0, nodes[v].site, nodes[v].position, places)


def _before(sender: Node, receiver: Node) -> bool:
    return sender.layer < receiver.layer and sender.position <= receiver.position
