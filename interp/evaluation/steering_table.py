"""Cells of steering beside each other: codes minus every other arm, by topic and in the mean of the topics."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import sem

from interp.evaluation.steering import BASE, Cell, MeanRate, SteeringConfig, mean_rate
from interp.evaluation.steering_arms import ARMS, BLIND, VECTORS, WRONG

CODES = "codes"
ORDER = (BASE, *ARMS, WRONG)


def made_of(arm: str, *, model: str, books: str, finder: int, config: SteeringConfig) -> dict[str, Any]:
    """What a cell of this arm depends on, as JSON values: with other codebooks or another finder it is another cell.

    Args:
        model, books: identities of the model alone and with its codebooks.
        finder: the version of how codes, and what they are to do, are found.
    """
    found = {"made_with": model if arm in (BASE, *VECTORS) else books, "config": asdict(config)}
    return found if arm in (BASE, *BLIND) else {**found, "finder": finder}


@dataclass(frozen=True)
class TopicRow:
    """
    Attributes:
        cell: of ``wrong topic`` the next topic's codes.
        low, high: Wilson's 95 % interval over texts.
        less: how much more the topic's codes have, text by text; None for them, and where they were not run.
    """

    topic: str
    arm: str
    cell: Cell
    rate: float
    low: float
    high: float
    less: MeanRate | None


@dataclass(frozen=True)
class ArmRow:
    """
    Attributes:
        topics: of which there are cells of this arm and of codes; the means are theirs.
        codes: of the same topics.
        less: codes less this arm, text by text; None for codes.
        error: standard error of that difference with topics as draws; None for codes, and of a single topic.
        perplexity, distinct_2: means over the topics.
    """

    arm: str
    topics: tuple[str, ...]
    rate: MeanRate
    codes: MeanRate
    less: MeanRate | None
    error: float | None
    perplexity: float
    distinct_2: float


@dataclass(frozen=True)
class SteeringTable:
    by_topic: tuple[TopicRow, ...]
    by_arm: tuple[ArmRow, ...]


def steering_table(
    topics: Sequence[str], base: Cell, cells: Mapping[tuple[str, str], Cell], n_prompts: int
) -> SteeringTable:
    """Compare what there is.

    Args:
        topics: all of them, in the order by which one's codes are another's ``wrong topic``.
        cells: of (topic, arm); some may be missing.
        n_prompts: prompts that were taken in turn; intervals of means and differences resample them.
    """
    known = dict(cells)
    for number, topic in enumerate(topics):
        known[topic, BASE] = base
        if wrong := cells.get((topics[(number + 1) % len(topics)], CODES)):
            known[topic, WRONG] = wrong
    by_topic = [
        _topic_row(topic, arm, known[topic, arm], cells.get((topic, CODES)), n_prompts)
        for topic in topics
        for arm in ORDER
        if (topic, arm) in known
    ]
    by_arm = [
        _arm_row(arm, both, known, n_prompts)
        for arm in ORDER
        if (both := [t for t in topics if (t, arm) in known and (t, CODES) in known])
    ]
    return SteeringTable(tuple(by_topic), tuple(by_arm))


def _topic_row(topic: str, arm: str, cell: Cell, codes: Cell | None, n_prompts: int) -> TopicRow:
    compared = codes is not None and arm != CODES
    less = mean_rate([(codes, topic)], n_prompts, [(cell, topic)]) if compared else None
    return TopicRow(topic, arm, cell, cell.rate(topic), *cell.interval(topic), less)


def _arm_row(
    arm: str, topics: Sequence[str], cells: Mapping[tuple[str, str], Cell], n_prompts: int
) -> ArmRow:
    its, codes = ([(cells[topic, of], topic) for topic in topics] for of in (arm, CODES))
    means = (mean_rate(some, n_prompts) for some in (its, codes))
    fluency = [
        float(np.mean([getattr(cell, name) for cell, _ in its])) for name in ("perplexity", "distinct_2")
    ]
    if arm == CODES:
        return ArmRow(arm, tuple(topics), *means, None, None, *fluency)
    each = [a.rate(topic) - b.rate(topic) for (a, topic), (b, _) in zip(codes, its, strict=True)]
    error = float(sem(each)) if len(each) > 1 else None
    return ArmRow(arm, tuple(topics), *means, mean_rate(codes, n_prompts, its), error, *fluency)
