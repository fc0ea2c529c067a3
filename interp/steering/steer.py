"""Steering: texts that a model writes with some of its codes set, added or forbidden."""

from collections.abc import Mapping, Sequence
from typing import SupportsIndex

from interp.bottlenecks.attach import attach
from interp.bottlenecks.base import Bottleneck
from interp.bottlenecks.edits import CodeEdit, Positions
from interp.models import Model


def steer(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    edits: Sequence[CodeEdit],
    prompts: list[str] | str,
    n_tokens: int = 60,
    *,
    positions: Positions = "generated",
    fraction: float | int = 1.0,
    seed: SupportsIndex = 0,
    when: str | None = None,
    error_term: bool = True,
    temperature: float | int = 0.7,
) -> list[str] | str:
    """Continue prompts with codes edited; returns each prompt with what was written behind it.

    >>> texts = steer(model, codebooks, [SetCode("a12.h3", 417)], ["Once upon a time"] * 2, 3)
    >>> texts = steer(model, codebooks, found.adds(40), "Once upon a time", 3)  # found by find_codes

    The same as ``attach(model, codebooks).edit(*edits).generate(prompts, n_tokens)``, without reading other codes.

    Args:
        positions, fraction, seed, when: as of :meth:`~interp.bottlenecks.attach.Attached.edit`; the seed is also that
            of the texts.
        error_term: as of :func:`~interp.bottlenecks.attach.attach`.
        temperature: 0 takes the likeliest token.
    """
    attached = attach(model, codebooks, error_term=error_term, read=False)
    attached.edit(*edits, positions=positions, fraction=fraction, seed=seed, when=when)
    return attached.generate(prompts, n_tokens, seed=seed, temperature=temperature)
