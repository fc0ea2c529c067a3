"""The steps of an explanation, in order: answers, run, choice of nodes, what they do alone, patches, reading, arrows."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from interp.contrast.arrows import measured_arrows
from interp.contrast.explanation import CURVE, ENOUGH, Alone, Why
from interp.contrast.prompts import Contrast, read_contrast, token_text
from interp.contrast.reading import read_nodes
from interp.interventions.frozen import SIZES, FrozenContext, Node
from interp.models import Model
from interp.progress import Stage, silent

LEAST_MEASURED, MOST_MEASURED = 30, 80
LARGE = 0.02
"""Of the difference: nodes of such an effect are named though they are not kept."""
DRAWS = 3
"""Random nodes are drawn as often, and the mean is told."""


def why(
    model: Model,
    a: str,
    b: str,
    *,
    answer: str | None = None,
    instead: str | None = None,
    seed: int = 0,
    stage: Stage = silent,
) -> Why:
    """Which heads at which tokens make the model say one thing after ``a`` and another after ``b``.

    >>> planted = load_model("planted-inhibition")
    >>> found = why(planted, "Mary and John went to the store . John gave a ring to",
    ...             "Mary and John went to the store . Mary gave a ring to")
    >>> [str(node) for node in found.nodes[: found.kept]], found.sparse
    (["a3.h5 @ 'to' 13"], False)

    Args:
        a, b: prompts of equal length in tokens, or with a common end.
        answer, instead: what is told apart, with the space in front; by default the tokens with the largest terms of
            KL(A ‖ B) and KL(B ‖ A).
        seed: of random nodes and senders.
        stage: told of progress.

    Raises:
        InputError: prompts or answers that cannot be compared.
    """
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - begin, 3)

    with timed("answers"):
        contrast = read_contrast(model, a, b, answer, instead)
    with timed("run"), stage("running both prompts", 1) as done:
        context = FrozenContext(
            model, contrast.a, contrast.b, contrast.first, contrast.answer, contrast.instead
        )
        estimates = context.estimates()
        done(1)
    with timed("choice"), stage("choosing nodes", len(SIZES)) as done:
        chosen = context.grow(progress=done)
    with timed("alone"):
        alone, controls, kept = _alone(context, chosen, estimates, seed, stage)
    with timed("patches"), stage("patching nodes", 1) as done:
        measured = _to_measure(context, chosen, estimates)
        effects = context.effects_of(measured)
        outside = context.arms([[]])
        outside[0] = True
        for node in chosen[:kept]:
            outside[0, node.layer, node.position - context.first, node.head] = False
        needed = float(1 - context.shares(outside)[0][0])
        done(1)
    with timed("reading"):
        order = list(range(len(chosen)))
        others = np.flatnonzero(np.abs(effects) >= LARGE * abs(np.subtract(*context.difference)))
        order += sorted(set(others.tolist()) - set(order), key=lambda i: -abs(effects[i]))
        nodes = read_nodes(context, [measured[i] for i in order], effects[order], estimates)
    with timed("arrows"), stage("measuring arrows", kept) as done:
        arrows = measured_arrows(context, measured[:kept], effects[:kept], seed=seed, progress=done)
    met, first = context.difference, alone[-1] if alone else None
    return Why(
        a,
        b,
        _answers(model, contrast),
        {"a": met[0], "b": met[1]},
        nodes,
        kept,
        arrows,
        [row for row in alone if row.nodes in (*CURVE, kept)],
        controls,
        needed,
        any(ENOUGH[0] <= row.restored <= ENOUGH[1] for row in alone),
        (context.nothing - met[1]) / (met[0] - met[1]),
        seconds,
        contrast.notes,
    )


def _answers(model: Model, contrast: Contrast) -> dict:
    (a, b), (other_a, other_b) = contrast.probabilities
    return {
        "answer": {"token": token_text(model, contrast.answer), "id": contrast.answer, "a": a, "b": b},
        "instead": {
            "token": token_text(model, contrast.instead),
            "id": contrast.instead,
            "a": other_a,
            "b": other_b,
        },
        "uncovered": contrast.uncovered,
    }


def _alone(
    context: FrozenContext, chosen: list[Node], estimates: np.ndarray, seed: int, stage: Stage
) -> tuple[list[Alone], dict[str, list[Alone]], int]:
    """What the first nodes do alone, for every number of them; the controls; and how many are kept."""
    rng, total = np.random.default_rng(seed), estimates.size
    end = context.length - 1
    at_end = [Node(layer, end, head) for layer in range(context.shape[0]) for head in range(context.shape[2])]
    by_size = _nodes(context, np.argsort(-np.abs(estimates), axis=None)[: max(CURVE)])
    random = [_nodes(context, rng.permutation(total)[: max(CURVE)]) for _ in range(DRAWS)]
    sets = [chosen[:n] for n in range(1, len(chosen) + 1)]
    sets += [order[:n] for order in (by_size, *random) for n in CURVE]
    with stage("running nodes alone", len(sets) + 1) as done:
        shares = np.stack(context.shares(context.arms([*sets, at_end]), done))
    own, others = shares[:, : len(chosen)], shares[:, len(chosen) : -1].reshape(2, 1 + DRAWS, len(CURVE))
    rows = [Alone(n + 1, *map(float, own[:, n])) for n in range(len(chosen))]
    controls = {
        "by attribution": [Alone(n, *map(float, others[:, 0, i])) for i, n in enumerate(CURVE)],
        "at random": [Alone(n, *map(float, others[:, 1:, i].mean(1))) for i, n in enumerate(CURVE)],
        "all heads at END": [Alone(len(at_end), *map(float, shares[:, -1]))],
    }
    enough = (row.nodes for row in rows if ENOUGH[0] <= row.restored <= ENOUGH[1])
    return rows, controls, next(enough, len(chosen))


def _nodes(context: FrozenContext, places: np.ndarray) -> list[Node]:
    layers, positions, heads = np.unravel_index(places, context.shape)
    return [Node(*map(int, at)) for at in zip(layers, positions + context.first, heads, strict=True)]


def _to_measure(context: FrozenContext, chosen: list[Node], estimates: np.ndarray) -> list[Node]:
    """The chosen nodes, then those of the largest estimates."""
    large = int((np.abs(estimates) >= LARGE * abs(np.subtract(*context.difference))).sum())
    most = min(max(large, LEAST_MEASURED), MOST_MEASURED)
    by_size = _nodes(context, np.argsort(-np.abs(estimates), axis=None)[:most])
    return list(dict.fromkeys([*chosen, *by_size]))[: max(most, len(chosen))]
