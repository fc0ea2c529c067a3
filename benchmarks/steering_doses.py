"""An arm of the steering table: its dose, at which texts are as fluent as is asked for, and the texts written at it."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from interp.errors import InputError
from interp.evaluation.steering import BASE, SteeringCell, SteeringConfig, distinct_2, perplexity
from interp.models import Model
from interp.steering import Topic
from interp.steering.continuations import Continuation, continue_prompts, encode_prompts, surprise

_NEAR = 0.1
"""How far from 1 the strain of a dose may be."""

AtDose = Callable[[float], AbstractContextManager]


@dataclass(frozen=True)
class SteeringCondition:
    """
    Attributes:
        at: what the model runs within, at a dose.
        first: the dose to try first, 0 where there is none.
        rewrite_prompt: what a prompt becomes.
    """

    name: str
    at: AtDose
    first: float
    rewrite_prompt: Callable[[str], str] | None = None


def strain(perplexity: float, distinct_2: float, base: tuple[float, float], config: SteeringConfig) -> float:
    """How far texts are from the base's fluency to the least that is asked for: 0 as fluent as the base, 1 just at it.

    Args:
        base: its perplexity and distinct-2, on as many texts.
    """
    surprise = float(np.log(perplexity / base[0]) / np.log(config.times))
    return max(surprise, (1 - distinct_2 / base[1]) / (1 - config.variety))


def find_dose(strain_at: Callable[[float], float], first: float, tries: int) -> float:
    """The dose tried whose strain comes nearest to 1.

    Between a dose below and one above (0 has no strain) the next is by straight line; while all are below, twice the
    largest. Where no strain can be told, as of texts that end at once, the dose was too large.
    """
    off: dict[float, float] = {0.0: -1.0}
    dose = first
    for _ in range(tries):
        excess = strain_at(dose) - 1
        off[dose] = math.inf if math.isnan(excess) else excess
        best = min((d for d in off if d > 0), key=lambda d: (abs(off[d]), d))
        if abs(off[best]) <= _NEAR:
            break
        above = min((d for d in off if off[d] > 0), default=None)
        below = max(d for d in off if off[d] <= 0 and (above is None or d < above))
        if above is None:
            dose = 2 * below
        else:
            # not quite to the ends, which are known already
            share = np.clip(off[below] / (off[below] - off[above]), 0.1, 0.9) if off[above] < math.inf else 0.5
            dose = float(below + share * (above - below))
    return best


def write(
    model: Model,
    prompts: Sequence[str],
    n: int,
    config: SteeringConfig,
    within: Callable[[], AbstractContextManager] | None = None,
    seed: int = 0,
    rewrite_prompt: Callable[[str], str] | None = None,
) -> list[Continuation]:
    """``n`` texts that go on from the prompts in turn, or from what these become; told and judged without that."""
    given = [prompts[i % len(prompts)] for i in range(n)]
    written: list[Continuation] = []
    for begin in range(0, n, config.batch_size):
        batch = given[begin : begin + config.batch_size]
        texts = continue_prompts(
            model,
            batch if rewrite_prompt is None else [rewrite_prompt(prompt) for prompt in batch],
            config.n_tokens,
            within=within() if within else None,
            temperature=config.temperature,
            seed=seed + begin,
        )
        if rewrite_prompt is not None:
            surprises = surprise(model, encode_prompts(model, batch), [text.tokens for text in texts])
            texts = [
                replace(text, prompt=prompt, surprise=text_surprise)
                for text, prompt, text_surprise in zip(texts, batch, surprises, strict=True)
            ]
        written += texts
    return written


def measure(
    model: Model,
    topics: Sequence[Topic],
    config: SteeringConfig,
    *,
    arm: SteeringCondition | None = None,
    topic: str | None = None,
    base: SteeringCell | None = None,
) -> SteeringCell:
    """Find an arm's dose, generate its texts, and count the words of every topic in them.

    Args:
        topics: whose words are counted; the prompts are those of the first.
        arm: None for the base.
        topic: whose arm it is.
        base: with which an arm is compared.

    Raises:
        InputError: fewer than two prompts.
    """
    prompts, tried = topics[0].prompts, list[tuple[float, float, float]]()
    if len(prompts) < 2:
        raise InputError(f"topic {topics[0].name}: of {len(prompts)} prompts there is no interval, give 2 or more")

    def fluency(dose: float) -> tuple[float, float]:
        # texts by which a dose was chosen would flatter it
        apart = config.seed + config.n + 1
        within = partial(arm.at, dose) if arm else None
        texts = write(model, prompts, len(prompts), config, within, apart, rewrite_prompt)
        tried.append((dose, perplexity(texts), distinct_2([text.text for text in texts])))
        return tried[-1][1:]

    dose = 0.0
    rewrite_prompt = arm.rewrite_prompt if arm is not None else None
    if arm is None:
        fluency(dose)
    elif arm.first:
        assert base is not None
        _, known, variety = base.tried[0]
        dose = find_dose(lambda d: strain(*fluency(d), (known, variety), config), arm.first, config.tries)
    within = partial(arm.at, dose) if arm else None
    written = write(model, prompts, config.n, config, within, config.seed, rewrite_prompt)
    return SteeringCell(
        BASE if arm is None else arm.name,
        topic,
        dose,
        {t.name: [t.is_in(text.text) for text in written] for t in topics},
        perplexity(written),
        distinct_2([text.text for text in written]),
        written[0].prompt + written[0].text,
        tried,
    )
