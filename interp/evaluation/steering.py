"""Does steering bring up a topic, and is it better than its controls at the same cost in fluency?

A rate says nothing without what it costs: every arm gets to 100 % by writing the word and nothing else. So arms are
compared at doses at which texts are just as fluent as is asked for: their perplexity under the model *without* steering
is at most a multiple of the base's, **and** they have at least a share of the base's different pairs of words.
Perplexity alone would not do: a word repeated to the end is hardly surprising. ``benchmarks/steering.py`` runs the arms
and keeps their cells; here is what is read from these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
from scipy.stats import sem

from interp.errors import InputError, check_fields
from interp.stats import ratio_interval, wilson
from interp.steering.continuations import Continuation

BASE, CODES, WRONG = "base", "codes", "wrong topic"
ARMS = (
    CODES,
    "half of the codes",
    "gated codes",
    "following codes",
    "mean difference, residual",
    "mean difference, heads",
    "mean difference, same heads",
    "random codes",
    "random vectors",
    "prompt",
    "prompt and codes",
)
"""Those that are run for every topic; ``wrong topic`` is the next topic's codes, counted for this one's words."""
ORDER = (BASE, *ARMS, WRONG)
VECTORS = ("mean difference, residual", "mean difference, heads", "prompt")  # those that no codebook has a part in
BLIND = ("mean difference, residual", "prompt")  # those that do not depend on how codes, or the target, are found
OF_TOPIC = {"gated codes": "gate", "prompt": "said", "prompt and codes": "said"}
"""What else a cell of these arms is kept with: a text of its topic, under this name."""


@dataclass(frozen=True)
class SteeringConfig:
    n: int = 200  # texts per arm; prompts are taken in turn
    n_tokens: int = 60  # new tokens per text
    times: float = 2.0  # the perplexity of texts, at most, as a multiple of the base's
    variety: float = 0.75  # their distinct-2, at least, as a share of the base's
    tries: int = 4  # doses tried, at most, on as many texts as there are prompts
    layer: int | None = None  # of the residual stream; None for the middle one
    temperature: float = 0.7
    seed: int = 0
    batch_size: int = 50  # texts per generation

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in (("n", 2), ("n_tokens", 1), ("tries", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} {getattr(self, name)}: it must be at least {least}")
        if not self.times > 1:
            raise InputError(f"times {self.times}: steered texts are compared above the base's perplexity")
        if not 0 <= self.variety < 1:
            raise InputError(f"variety {self.variety}: steered texts have less than the base, 0 to below 1")


@dataclass(frozen=True)
class SteeringCell:
    """One arm at one dose."""

    arm: str
    topic: str | None  # whose codes or means; None for the base
    dose: float
    held: Mapping[str, Sequence[bool]]  # of each topic, which texts hold one of its words
    perplexity: float  # exp of the mean surprise of all new tokens under the model without steering
    distinct_2: float  # share of different pairs of neighbouring words among all of them
    example: str
    # doses and, on the texts by which the dose was found, perplexity and distinct-2; of the base its own
    tried: Sequence[Sequence[float]] = ()

    def rate(self, topic: str) -> float:
        return float(np.mean(self.held[topic]))

    def interval(self, topic: str) -> tuple[float, float]:
        """Wilson's 95 % interval of the rate."""
        return wilson(sum(self.held[topic]), len(self.held[topic]))


def perplexity(texts: Sequence[Continuation]) -> float:
    """exp of the mean surprise of all new tokens."""
    return float(np.exp(np.concatenate([text.surprise for text in texts]).mean()))


def distinct_2(texts: Sequence[str]) -> float:
    """Different pairs of neighbouring words / all pairs (Li et al. 2016, arXiv 1510.03055): low where texts repeat.

    It falls with the number of texts: compare it between equal numbers only.
    """
    pairs = [pair for text in texts for pair in pairwise(text.split())]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


@dataclass(frozen=True)
class MeanRate:
    """Over topics, with a 95 % bootstrap interval over prompts."""

    rate: float
    low: float
    high: float


def mean_rate(
    cells: Sequence[tuple[SteeringCell, str]], n_prompts: int, less: Sequence[tuple[SteeringCell, str]] = ()
) -> MeanRate:
    """The mean over topics of the rate, or of how much it is above another arm's, text by text. ``cells``: of each
    topic the arm's cell, and the topic whose words count. ``n_prompts``: prompts that were taken in turn, two at least;
    all texts of one are resampled together. ``less``: of the same topics."""
    rates = np.mean([cell.held[topic] for cell, topic in cells], axis=0)
    if less:
        rates = rates - np.mean([cell.held[topic] for cell, topic in less], axis=0)
    by_prompt = [rates[i::n_prompts] for i in range(min(n_prompts, len(rates)))]
    sums, counts = (np.array([reduce(of_prompt) for of_prompt in by_prompt]) for reduce in (np.sum, len))
    return MeanRate(float(rates.mean()), *ratio_interval(sums, counts, 0))


def made_of(arm: str, *, model: str, books: str, finder: int, config: SteeringConfig) -> dict[str, Any]:
    """What a cell of this arm depends on, as JSON values: with other codebooks or another finder it is another cell.
    ``model``, ``books``: identities of the model alone and with its codebooks. ``finder``: the version of how codes,
    and what they are to do, are found."""
    sources = {"made_with": model if arm in (BASE, *VECTORS) else books, "config": asdict(config)}
    return sources if arm in (BASE, *BLIND) else {**sources, "finder": finder}


@dataclass(frozen=True)
class TopicRow:
    """An arm of a topic, with Wilson's 95 % interval over texts."""

    topic: str
    arm: str
    cell: SteeringCell  # of ``wrong topic`` the next topic's codes
    rate: float
    low: float
    high: float
    # how much more the topic's codes have, text by text; None for them, and where they were not run
    less: MeanRate | None


@dataclass(frozen=True)
class ConditionRow:
    """Means over the topics of which there are cells of this arm and of codes."""

    arm: str
    topics: tuple[str, ...]
    rate: MeanRate
    codes: MeanRate  # of the same topics
    less: MeanRate | None  # codes less this arm, text by text; None for codes
    error: float | None  # standard error of that difference with topics as draws; None for codes, and of a single topic
    perplexity: float
    distinct_2: float


@dataclass(frozen=True)
class SteeringTable:
    by_topic: tuple[TopicRow, ...]
    by_arm: tuple[ConditionRow, ...]


def steering_table(
    topics: Sequence[str], base: SteeringCell, cells: Mapping[tuple[str, str], SteeringCell], n_prompts: int
) -> SteeringTable:
    """Compare what there is. ``topics``: all of them, in the order by which one's codes are another's ``wrong topic``.
    ``cells``: of (topic, arm); some may be missing. ``n_prompts``: prompts that were taken in turn; intervals of means
    and differences resample them."""
    all_cells = dict(cells)
    for number, topic in enumerate(topics):
        all_cells[topic, BASE] = base
        if wrong := cells.get((topics[(number + 1) % len(topics)], CODES)):
            all_cells[topic, WRONG] = wrong
    by_topic = []
    for topic, arm in product(topics, ORDER):
        if cell := all_cells.get((topic, arm)):
            codes = None if arm == CODES else all_cells.get((topic, CODES))
            less = mean_rate([(codes, topic)], n_prompts, [(cell, topic)]) if codes else None
            by_topic.append(TopicRow(topic, arm, cell, cell.rate(topic), *cell.interval(topic), less))
    by_arm = [
        _arm_row(arm, in_both, all_cells, n_prompts)
        for arm in ORDER
        if (in_both := [t for t in topics if (t, arm) in all_cells and (t, CODES) in all_cells])
    ]
    return SteeringTable(tuple(by_topic), tuple(by_arm))


def _arm_row(
    arm: str, topics: Sequence[str], cells: Mapping[tuple[str, str], SteeringCell], n_prompts: int
) -> ConditionRow:
    arm_cells, code_cells = ([(cells[topic, of], topic) for topic in topics] for of in (arm, CODES))
    rate, of_codes = (mean_rate(topic_cells, n_prompts) for topic_cells in (arm_cells, code_cells))
    differences = [a.rate(topic) - b.rate(topic) for (a, topic), (b, _) in zip(code_cells, arm_cells, strict=True)]
    less = None if arm == CODES else mean_rate(code_cells, n_prompts, arm_cells)
    error = float(sem(differences)) if less and len(differences) > 1 else None
    fluency = (float(np.mean([getattr(cell, of) for cell, _ in arm_cells])) for of in ("perplexity", "distinct_2"))
    return ConditionRow(arm, tuple(topics), rate, of_codes, less, error, *fluency)
