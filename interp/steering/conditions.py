"""The same prompts continued under several edits, in the same batches: what is compared differs in its codes alone.

Random codes: what a steered text is to be compared with.
"""

from collections.abc import Mapping, Sequence

import torch

from interp.bottlenecks.attach import attach, home_of
from interp.bottlenecks.base import Bottleneck
from interp.bottlenecks.edits import Positions, WeightedCode, code_edits
from interp.errors import InputError
from interp.models import Model
from interp.progress import Stage, silent
from interp.steering.continuations import Continuation, continue_prompts


def random_codes(
    model: Model, codebooks: Mapping[str, Bottleneck], codes: Sequence[WeightedCode], *, seed: int = 0
) -> list[WeightedCode]:
    """As many codes at the same sites with the same weights, drawn at random from those that are not named; none twice
    at a site.

    Raises:
        InputError: a site without a codebook, or one of which no other codes are left.
    """
    generator = torch.Generator().manual_seed(seed)
    left: dict[str, list[int]] = {}
    for site in dict.fromkeys(code.site for code in codes):
        named = [code.code for code in codes if code.site == site]
        n_codes = codebooks[home_of(model, codebooks, site)[0]].config.n_codes
        order = torch.randperm(n_codes, generator=generator).tolist()
        left[site] = [code for code in order if code not in named]
        if len(left[site]) < len(named):
            raise InputError(f"{len(named)} codes at {site}: too few of its {n_codes} are left for a control")
    return [code._replace(code=left[code.site].pop()) for code in codes]


ROWS = 96
"""Texts in one batch, of all arms together."""
STRIDE = 1_000_003
"""From one batch's seed to the next one's: with 1 another ``seed`` would write the same texts in other batches."""


def continue_arms(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    arms: Mapping[str, Sequence[WeightedCode]],
    prompts: Sequence[str],
    n_tokens: int,
    *,
    add: float | int | None = None,
    forbid: bool = False,
    slots: int = 1,
    positions: Positions = "generated",
    fraction: float | int = 1.0,
    error_term: bool = True,
    temperature: float | int = 0.7,
    seed: int = 0,
    chat: bool = False,
    stage: Stage = silent,
) -> dict[str, list[Continuation]]:
    """One text a prompt and arm, by arm in the order of the prompts; for several texts of a prompt name it repeatedly.

    ::

        base, steered = continue_arms(
            model, codebooks, {"base": [], "fire": found.named(10, "added")}, ["The boy"] * 20, 60, add=2.5
        ).values()

    All arms draw from one stream of random numbers, but not the same ones: texts are not paired.

    Args:
        arms: codes by name; none for a text without an edit.
        add, forbid, slots: as of :func:`~interp.bottlenecks.edits.code_edits`: what is done to the codes, the same in
            every arm.
        positions, fraction, error_term: as of :func:`~interp.steering.steer`. Without the error term texts of all arms
            are written on codes, those without an edit as well.

    Raises:
        InputError: no arms, no arm with codes, or as :func:`~interp.steering.steer` and
            :func:`~interp.steering.continuations.continue_prompts`.
    """
    if isinstance(prompts, str) or not prompts:
        raise InputError(f"prompts {prompts!r}: give a list of texts, [prompt] for one")
    if not any(arms.values()):
        raise InputError("no codes in any arm: name some, such as {'base': [], 'steered': codes}")
    texts: dict[str, list[Continuation]] = {name: [] for name in arms}
    at_once = max(1, ROWS // len(arms))
    batches = [prompts[begin : begin + at_once] for begin in range(0, len(prompts), at_once)]
    with stage("writing", n_tokens * len(batches)) as tell:
        for number, some in enumerate(batches):
            edits = [
                edit
                for i, codes in enumerate(arms.values())
                for edit in code_edits(
                    codes, add=add, forbid=forbid, slots=slots, rows=range(i * len(some), (i + 1) * len(some))
                )
            ]
            drawn_by = seed + STRIDE * number
            written = continue_prompts(
                model,
                list(some) * len(arms),
                n_tokens,
                within=attach(model, codebooks, error_term=error_term, read=False).edit(
                    *edits, positions=positions, fraction=fraction, seed=drawn_by
                ),
                temperature=temperature,
                seed=drawn_by,
                chat=chat,
                watch=lambda _tokens: tell(1),
            )
            for i, own in enumerate(texts.values()):
                own += written[i * len(some) : (i + 1) * len(some)]
    return texts
