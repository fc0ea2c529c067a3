"""The steps of an explanation: answers, both prompts run, nodes chosen, looked at alone, patched, read; arrows."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float

from interp.contrast.arrows import measured_arrows
from interp.contrast.explanation import CURVE, ENOUGH, Alone, Why
from interp.contrast.prompts import read_contrast
from interp.contrast.reading import read_nodes
from interp.interventions.frozen import SIZES, FrozenContext, Node
from interp.models import Model
from interp.progress import Stage, silent

LEAST_MEASURED, MOST_MEASURED = 30, 80
LARGE = 0.02
"""Of the difference: nodes of such an effect are named, and have arrows, though they are not kept."""
DRAWS = 3
"""So often random nodes are drawn."""


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

    >>> told = why(load_model("planted-induction"), "store ring river store", "park ring river store")
    >>> [str(node) for node in told.nodes], told.sparse
    (["a1.h1 @ 'store' 4", "a0.h3 @ 'ring' 2", "a2.h4 @ 'store' 4"], True)

    Args:
        a, b: prompts of equal length in tokens, or with a common end.
        answer, instead: what is told apart, with the space in front; by default the tokens with the largest terms of
            KL(A ‖ B) and KL(B ‖ A). Of several tokens the first that differs counts.
        seed: of random nodes and senders.
        stage: told of progress.

    Raises:
        InputError: prompts or answers that cannot be compared.
    """
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str, steps: int) -> Iterator[Callable[..., None]]:
        begin = time.perf_counter()
        with stage(name, steps) as done:
            yield done
        seconds[name] = round(time.perf_counter() - begin, 3)

    with timed("answers", 1):
        contrast = read_contrast(model, a, b, answer, instead)
    with timed("run", 1):
        context = FrozenContext(
            model, contrast.a, contrast.b, contrast.first, contrast.answer, contrast.instead
        )
    estimates = context.estimates()
    by_size = np.argsort(-np.abs(estimates), axis=None)
    with timed("choice", len(SIZES)) as done:
        chosen = context.grow(done)
    with timed("alone", len(chosen) + (1 + DRAWS) * len(CURVE) + 2) as done:
        alone, controls, needed, kept = _alone(context, chosen, by_size, seed, done)
    at_a, at_b = context.difference
    large = LARGE * abs(at_a - at_b)
    with timed("patches", 1):
        most = min(max(int((np.abs(estimates) >= large).sum()), LEAST_MEASURED), MOST_MEASURED)
        measured = list(dict.fromkeys([*chosen, *context.nodes(by_size[:most])]))[:MOST_MEASURED]
        effects, _ = context.patched(measured)
        others = [i for i in range(len(chosen), len(measured)) if abs(effects[i]) >= large]
        order = [*range(len(chosen)), *sorted(others, key=lambda i: -abs(effects[i]))]
        nodes, effects = [measured[i] for i in order], effects[order]
    with timed("reading", 1):
        told = [float(estimates[at.layer, at.position - context.first, at.head]) for at in nodes]
        read = read_nodes(context, nodes, effects.tolist(), told)
    with timed("arrows", len(nodes)) as done:
        ends = [i for i in range(len(nodes)) if i < kept or abs(effects[i]) >= large][: max(CURVE)]
        arrows = measured_arrows(context, nodes, effects, ends, seed, done)
    return Why(
        a=a,
        b=b,
        answers=contrast.answers(model),
        difference={"a": at_a, "b": at_b},
        nodes=read,
        kept=kept,
        arrows=arrows,
        alone=[row for row in alone if row.nodes in (*CURVE, kept)],
        controls=controls,
        needed=needed,
        sparse=any(map(_enough, alone)),
        left=(context.nothing - at_b) / (at_a - at_b),
        notes=contrast.notes,
        seconds=seconds,
    )


def _alone(
    context: FrozenContext, chosen: list[Node], by_size: np.ndarray, seed: int, done: Callable[[int], None]
) -> tuple[list[Alone], dict[str, list[Alone]], float, int]:
    """What the first nodes do alone, for every number of them; the controls; what is needed; and how many are kept."""
    rng, most = np.random.default_rng(seed), max(CURVE)
    orders = [by_size, *(rng.permutation(len(by_size)) for _ in range(DRAWS))]
    sets = [chosen[: n + 1] for n in range(len(chosen))]
    sets += [context.nodes(order[:most])[:n] for order in orders for n in CURVE]
    arms = context.arms([*sets, []])
    arms[-1, :, -1] = True  # all heads at END
    shares = context.shares(arms, done)
    controls = shares[:, len(chosen) : -1].reshape(2, 1 + DRAWS, len(CURVE))
    alone, end = _rows(range(1, len(chosen) + 1), shares), _rows([int(arms[-1].sum())], shares[:, -1:])
    told = {
        "by attribution": _rows(CURVE, controls[:, 0]),
        "at random": _rows(CURVE, controls[:, 1:].mean(1)),
        "all heads at END": end,
    }
    kept = next((row.nodes for row in alone if _enough(row)), len(chosen))
    out = context.shares(~context.arms([chosen[:kept]]), done)
    return alone, told, float(1 - out[0, 0]), kept


def _rows(sizes: range | list[int] | tuple[int, ...], shares: Float[np.ndarray, "2 n"]) -> list[Alone]:
    return [Alone(n, restored, kl) for n, restored, kl in zip(sizes, *shares.tolist(), strict=False)]


def _enough(row: Alone) -> bool:
    return ENOUGH[0] <= row.restored <= ENOUGH[1]
