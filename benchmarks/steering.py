"""Steering towards seven topics, or three styles, by codes, against controls and prompting, at equal fluency.

    python -m benchmarks.steering [--show] [--topics fire,baby] [--n 200] [--tokens 60] [--out results]
    python -m benchmarks.steering --development --n 96 --arms codes "mean difference, heads"
    python -m benchmarks.steering --styles --n 48 --tokens 40 --tries 3 --workers ray --threads 1

Every cell is one arm of one topic (``interp/evaluation/steering.py``), kept in a file of its own: a killed run goes on,
topics can be run side by side, and the table is of what is there. Codes are found from the topic's texts; prompts hold
no topic. ``--development``: the topics by which it was chosen how codes are found. ``--styles``: those of
``steering_styles.json``. ``--topics``: to run [default: all]; words of all are counted. ``--times`` and ``--variety``:
how far a dose may go (cells of other bounds belong in a folder of their own). ``--show`` prints all cells of a folder
as they were made, and loads no model. ``--workers ray`` spreads cells over a
cluster, with ``--threads`` each (docs/cluster.md). A cell is up to 18,000 tokens, its dose included: four to five
minutes of one core.
"""

import re
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.common import RESULTS, arguments, interval, kept, print_table
from benchmarks.steering_doses import AtDose, SteeringCondition, measure
from interp import DEFAULT_MODEL, Codebooks, attach
from interp.bench.plan import read_record, write_record
from interp.bottlenecks import Codebook
from interp.bottlenecks.base import Bottleneck
from interp.bottlenecks.edits import FIRING, WeightedCode, code_edits
from interp.evaluation.steering import (
    ARMS,
    BASE,
    OF_TOPIC,
    MeanRate,
    SteeringCell,
    SteeringConfig,
    made_of,
    mean_rate,
    steering_table,
)
from interp.evaluation.steering_conditions import SiteMeans, means_of_texts
from interp.executor import Job, JobProgress, Workers, run
from interp.files import read_json
from interp.models import Model, load_model, parse_site
from interp.models.residual_writes import FinalNorm
from interp.progress import bar
from interp.steering import AddCode, Topic, load_topic, topic_names
from interp.steering.cache import FINDER, find_or_recall, identity
from interp.steering.code_set import SCALE, CodeSet
from interp.steering.continuations import encode_prompts
from interp.steering.control_vector import vector_books
from interp.steering.find import target_gradients
from interp.steering.request import random_codes
from interp.steering.target_tokens import find_target
from interp.steering.texts import read_texts, tokenize

STYLES = Path(__file__).parent / "steering_styles.json"
TOPIC_GATE = (
    "token:^ ?(?i:an?|the|his|her|its|their|my|our|your|this|that|some|of|with|by|to|in|on|at|for|from|and|very|big|"
    "little|small|old|new|was|were|had)$"
)
"""Of gated codes: the tokens behind which a noun may come."""


@dataclass(frozen=True)
class Concept(Topic):
    """A topic or a style.

    Attributes:
        against: words of which a text has to hold fewer.
        gate: of gated codes.
        said: what a prompt says.
    """

    against: tuple[str, ...] = ()
    gate: str = TOPIC_GATE
    said: str = ""

    def is_in(self, text: str) -> bool:
        if not self.against:
            return super().is_in(text)
        mine, other = (len(re.findall(rf"(?i)\b({'|'.join(w)})\b", text)) for w in (self.words, self.against))
        return mine > other


def topic(name: str) -> Concept:
    loaded_topic = load_topic(name)
    return Concept(**vars(loaded_topic), said=f"Write a story about {'' if name in PLAIN else 'a '}{name}.")


RANDOM_DOSE = 6.0
"""Tried first for random vectors: they cost little for their length."""
PLAIN = ("fire", "rain")
"""Topics without an article."""


def style(name: str) -> Concept:
    kept = {key: tuple(value) if isinstance(value, list) else value for key, value in read_json(STYLES)[name].items()}
    texts = {"positive": kept.pop("texts"), "negative": kept.pop("others")}
    return Concept(name, prompts=load_topic(topic_names()[0]).prompts, **texts, **kept)


def main() -> None:
    numbers = {
        name: getattr(SteeringConfig, name) for name in ("n", "tries", "times", "variety", "temperature", "seed")
    }
    given = arguments(
        __doc__,
        codebooks="smollm2-135m-instruct-k1",
        model=DEFAULT_MODEL,
        development=False,
        styles=False,
        topics=str,
        arms={"nargs": "+", "choices": ARMS, "default": ARMS, "metavar": "ARM"},
        show=False,
        out=Path,
        threads=torch.get_num_threads(),
        workers="serial",
        tokens=SteeringConfig.n_tokens,
        **numbers,
    )
    config = SteeringConfig(**{name: getattr(given, name) for name in numbers}, n_tokens=given.tokens)
    if given.styles:
        folder, names = "steering-styles", [name for name in read_json(STYLES) if name != "about"]
    elif given.development:
        folder, names = "steering-development", topic_names("development")
    else:
        folder, names = "steering", topic_names("topics")
    folder = given.out or RESULTS / folder
    topics = [style(name) if given.styles else topic(name) for name in names]
    if given.show:
        show(topics, config, Cells(folder, None))
        return
    model = load_model(given.model)
    books = Codebooks.from_pretrained(given.codebooks, model)
    settings = {"model": identity(model, {}), "books": identity(model, books), "finder": FINDER, "config": config}
    cells = Cells(folder, settings)
    chosen = given.topics.split(",") if given.topics else names
    if unknown := [name for name in chosen if name not in names]:
        raise SystemExit(f"no topic {', '.join(unknown)} here: there are {', '.join(names)}")
    wanted = [topic for topic in topics if topic.name in chosen]
    missing = [topic for topic in wanted if any(cells.read(topic, arm) is None for arm in given.arms)]
    if missing or cells.read(None, BASE) is None:
        _run(missing, Desk(given.model, given.codebooks, topics, config, cells, (model, books), {}), given)
    show(topics, config, cells)


@dataclass(frozen=True)
class Cells:
    """The cells in a folder that were made with these settings, a file each; all cells there if there are none."""

    folder: Path
    settings: dict | None

    def read(self, topic: Concept | None, arm: str) -> SteeringCell | None:
        path = self._path(topic, arm)
        if self.settings is None:
            result = kept(path, {"result": None})["result"]
        else:
            result = read_record(path, self._made_of(topic, arm), print)
        return None if result is None else SteeringCell(**result)

    def write(self, topic: Concept | None, arm: str, cell: SteeringCell) -> None:
        write_record(self._path(topic, arm), self._made_of(topic, arm), cell.to_json())

    def _path(self, topic: Concept | None, arm: str) -> Path:
        name = f"{topic.name if topic else 'all'}--{arm.replace(', ', '-')}".replace(" ", "-")
        return self.folder / f"{name}.json"

    def _made_of(self, topic: Concept | None, arm: str) -> dict:
        more = OF_TOPIC.get(arm)
        of_topic = {} if more is None else {more: getattr(topic, more)}
        return made_of(arm, **self.settings) | of_topic


def _run(missing: list[Concept], desk: "Desk", given: Namespace) -> None:
    # arm by arm: a run that is cut short has whole arms to compare
    cells = [
        Job(f"{topic.name}, {arm}", Desk.cell, (topic, arm), (topic.name,))
        for arm in given.arms
        for topic in missing
        if desk.cells.read(topic, arm) is None
    ]
    base = [Job(BASE, Desk.base)] if desk.cells.read(None, BASE) is None else []
    jobs = deque(base or cells)
    with bar("cells", len(base) + len(cells)) as progress:
        workers, log = Workers(given.workers, given.threads), desk.cells.folder / "log.jsonl"
        for job, _ in run(desk, jobs, workers=workers, advance=progress, log=log):
            if job.name == BASE:  # with which the others are compared
                jobs.extend(cells)


@dataclass
class Desk:
    """What cells have in common. Each worker loads the model once, and plans a topic's arms once."""

    model: str
    codebooks: str
    topics: list[Concept]
    config: SteeringConfig
    cells: Cells
    loaded: tuple[Model, Codebooks] | None
    planned: dict[str, dict[str, SteeringCondition]]

    def __getstate__(self) -> dict:
        return vars(self) | {"loaded": None, "planned": {}}

    def load(self) -> tuple[Model, Codebooks]:
        if self.loaded is None:
            model = load_model(self.model)
            self.loaded = model, Codebooks.from_pretrained(self.codebooks, model)
        return self.loaded

    def base(self, _progress: JobProgress) -> None:
        model, _ = self.load()
        self.cells.write(None, BASE, measure(model, self.topics, self.config))

    def cell(self, topic: Concept, arm: str, _progress: JobProgress) -> None:
        model, _ = self.load()
        if topic.name not in self.planned:
            self.planned[topic.name] = self.plan(topic)
        base, planned = self.cells.read(None, BASE), self.planned[topic.name][arm]
        cell = measure(model, self.topics, self.config, arm=planned, topic=topic.name, base=base)
        self.cells.write(topic, arm, cell)

    def plan(self, topic: Concept) -> dict[str, SteeringCondition]:
        model, books = self.load()
        seed, layer = self.config.seed, self.config.layer
        layer = f"r{model.cfg.n_layers // 2 if layer is None else layer}"
        means = means_of_texts(model, [*books, layer], topic.positive, topic.negative)
        # those that come with the package, if it is with its codebooks and their seed
        code_set = find_or_recall(model, books, topic.positive, topic.negative, seed=seed, stage=bar)
        options = {"layer": layer, "gate": topic.gate, "rewrite_prompt": partial(_said, model, topic), "seed": seed}
        arms = plan_arms(model, books, code_set, means, partial(gains_of_texts, model, books, topic), **options)
        return {arm.name: arm for arm in arms}


def plan_arms(
    model: Model,
    codebooks: Mapping[str, Codebook],
    code_set: CodeSet,
    means: SiteMeans,
    gains_of: Callable[[], Mapping[str, Tensor]],
    *,
    layer: str,
    gate: str,
    rewrite_prompt: Callable[[str], str],
    seed: int,
) -> tuple[SteeringCondition, ...]:
    """The arms of a topic, in the order of :data:`ARMS`.

    Args:
        code_set: by difference.
        gains_of: the gradients at the heads of the codebooks (:func:`~interp.steering.find.target_gradients`), from
            the texts that the means are of.
        layer: of the residual stream, such as ``r15``.
        gate: of ``gated codes``.
        rewrite_prompt: a prompt with what is wanted in it.
    """
    codes = code_set.named(len(code_set), "added")
    others = random_codes(model, codebooks, codes, seed=seed)

    @cache
    def best_half() -> list[WeightedCode]:
        scores = output_scores(model, codebooks, codes, load_topic(topic_names()[0]).prompts[1:9:2])
        return [codes[i] for i in np.argsort(-scores)[: len(codes) // 2]]

    added: dict[str, Tensor] = {}
    for site, code, weight in codes:
        added[site] = added.get(site, 0) + weight * from_mean(codebooks, site, code)
    generator = torch.Generator().manual_seed(seed)
    random = {site: _random_direction(vector, generator) for site, vector in added.items()}

    def adding(chosen: Sequence[WeightedCode], when: str | None = None) -> AtDose:
        return lambda scale: attach(model, codebooks, read=False).edit(
            *code_edits(chosen, "added", scale=scale), seed=seed, when=when
        )

    def vectors(at_sites: Callable[[], Mapping[str, Tensor]]) -> AtDose:
        once = cache(at_sites)  # some take gradients, and a run that goes on may not need them

        def at(scale: float) -> AbstractContextManager:
            edits = [AddCode(site, 0, scale) for site in once()]
            return attach(model, vector_books(model, once()), read=False).edit(*edits, seed=seed)

        return at

    return (
        SteeringCondition("codes", adding(codes), SCALE),
        SteeringCondition("half of the codes", lambda scale: adding(best_half())(scale), SCALE),
        SteeringCondition("gated codes", adding(codes, gate), 2 * SCALE),
        SteeringCondition("following codes", adding(codes, FIRING), 4 * SCALE),
        SteeringCondition("mean difference, residual", vectors(lambda: {layer: means.difference(layer)}), 2.0),
        SteeringCondition("mean difference, heads", vectors(lambda: helpful_heads(model, means, gains_of())), 1.0),
        SteeringCondition(
            "mean difference, same heads", vectors(lambda: {site: means.difference(site) for site in added}), SCALE
        ),
        SteeringCondition("random codes", adding(others), SCALE),
        SteeringCondition("random vectors", vectors(lambda: random), RANDOM_DOSE),
        SteeringCondition("prompt", lambda _scale: nullcontext(), 0.0, rewrite_prompt),
        SteeringCondition("prompt and codes", adding(codes), SCALE, rewrite_prompt),
    )


def helpful_heads(
    model: Model, means: SiteMeans, gains: Mapping[str, Float[Tensor, "head d_head"]]
) -> dict[str, Float[Tensor, " d_head"]]:
    """Differences of means of the heads at which adding them raises the target, to first order."""
    at = [(f"{layer}.h{head}", gains[layer][head]) for layer in gains for head in range(model.cfg.n_heads)]
    return {site: means.difference(site) for site, gain in at if means.difference(site) @ gain > 0}


def _random_direction(length: Float[Tensor, " d_in"], generator: torch.Generator) -> Float[Tensor, " d_in"]:
    """A vector as long as this one in a random direction."""
    drawn = torch.randn(len(length), generator=generator)
    return drawn * (length.norm() / drawn.norm())


@torch.no_grad()
def from_mean(codebooks: Mapping[str, Codebook], site: str, code: int) -> Float[Tensor, " d_in"]:
    """What ``AddCode(site, code, from_mean=True)`` adds."""
    book = codebooks[site] if site in codebooks else codebooks[site.partition(".")[0]]
    group = parse_site(site).head if book.config.groups > 1 else 0
    return (book.codes[group, code].float() - book.means()[group, code]).cpu()


@torch.no_grad()
def output_scores(
    model: Model, books: Mapping[str, Bottleneck], codes: Sequence[WeightedCode], prompts: Sequence[str], n: int = 10
) -> np.ndarray:
    """By how many nats each code raises, added alone, the n tokens that its own vector says most, in the mean over what
    comes behind neutral prompts: the output score of Arad, Mueller & Belinkov 2025 (arXiv 2505.20063), in log p.
    """
    final, says = FinalNorm.of(model), []
    for site, code, _ in codes:
        place = parse_site(site)
        written = from_mean(books, site, code) @ model.blocks[place.layer].attn.W_O[place.head].float()
        says.append((final.norm.direction(written) @ final.unembedding).topk(n).indices)
    edits = [
        edit
        for row, weighted_code in enumerate(codes)
        for edit in code_edits([weighted_code], "added", scale=4 * SCALE, rows=[row])
    ]
    total = torch.zeros(len(codes))
    for ids in encode_prompts(model, prompts):
        tokens = torch.tensor([ids])
        plain = model(tokens)[0, -1].log_softmax(-1)
        with attach(model, books, read=False).edit(*edits):
            steered = model(tokens.expand(len(codes), -1))[:, -1].log_softmax(-1)
        total += (steered - plain).gather(1, torch.stack(says)).mean(1)
    return (total / len(prompts)).numpy()


def _said(model: Model, topic: Concept, prompt: str) -> str:
    """The prompt as the beginning of the answer to a request."""
    message = [{"role": "user", "content": f"{topic.said} Begin with: {prompt}"}]
    text = model.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    return text.removeprefix(model.tokenizer.bos_token) + prompt


def gains_of_texts(model: Model, books: Mapping[str, Bottleneck], topic: Topic) -> dict[str, Tensor]:
    positive, negative = (tokenize(model, texts) for texts in (topic.positive, topic.negative))
    kinds = np.zeros(len(topic.negative), dtype=int)
    expected = read_texts(model, {}, negative, kinds).expectation([0])
    return target_gradients(model, books, find_target(positive, negative, expected), negative)


def show(topics: list[Concept], config: SteeringConfig, known: Cells) -> None:
    cells = {(topic.name, arm): known.read(topic, arm) for topic in topics for arm in ARMS}
    base, n_prompts = known.read(None, BASE), len(topics[0].prompts)
    if base is None:
        raise SystemExit(f"{known.folder} holds no cells: run it without --show")
    measured = {key: cell for key, cell in cells.items() if cell}
    table = steering_table([topic.name for topic in topics], base, measured, n_prompts)
    rows: list[tuple] = []
    for row in table.by_topic:
        rate, ends = f"{row.rate:.0%}", f"{row.low:.0%}–{row.high:.0%}"
        fluency = f"{row.cell.perplexity:.1f}", f"{row.cell.distinct_2:.2f}"
        rows.append((row.topic, row.arm, f"{row.cell.dose:.2f}", rate, ends, *fluency, _text(row.less, "+")))
    columns = ("dose", "rate", "95 %", "perplexity", "distinct-2", "codes minus it")
    print_table(("topic", "arm", *columns), rows, left=2)
    rows = []
    for row in table.by_arm:
        rates = _text(row.rate), _text(row.codes), _text(row.less, "+")
        error = None if row.error is None else f"{row.error:.1%}"
        fluency = f"{row.perplexity:.1f}", f"{row.distinct_2:.2f}"
        rows.append((row.arm, len(row.topics), *rates, error, *fluency))
    if not table.by_arm:  # without codes there is nothing to compare with
        for arm in (arm for arm in ARMS if all(cells[topic.name, arm] for topic in topics)):
            rate = mean_rate([(cells[topic.name, arm], topic.name) for topic in topics], n_prompts)
            rows.append((arm, len(topics), _text(rate)))
    title = (
        "mean over topics (±: its standard error, topics as draws); doses by perplexity up to "
        f"{config.times:g} × the base's {base.tried[0][1]:.1f} and distinct-2 down to {config.variety:g} × its "
        f"{base.tried[0][2]:.2f}, on other texts; 95 % over prompts"
    )
    columns = ("codes, the same topics", "codes minus it", "± over topics", "perplexity", "distinct-2")
    print_table(("arm", "topics", "rate", *columns), rows, title)


def _text(rate: MeanRate | None, sign: str = "") -> str | None:
    return None if rate is None else interval(rate.rate, rate.low, rate.high, f"{sign}.1%")


if __name__ == "__main__":
    main()
