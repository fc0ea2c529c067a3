"""Steering towards seven topics by codes, against its controls, at equal fluency.

    python benchmarks/steering.py [--show] [--topics fire,baby] [--n 200] [--tokens 60] [--out results]
    python benchmarks/steering.py --development --n 96 --arms codes "mean difference, heads"

Every cell is one arm of one topic (``interp/evaluation/steering.py``), kept in a file of its own: a killed run goes on,
topics can be run side by side, and the table is of what is there. Codes are found from the topic's texts; prompts hold
no topic. ``--development``: the topics by which it was chosen how codes are found. ``--times`` and ``--variety``: how
far a dose may go (cells of other bounds belong in a folder of their own). A cell is up to 18,000 tokens, its dose
included: four to five minutes of one core.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from interp.bench.plan import read_record, write_record
from interp.bottlenecks.base import Bottleneck
from interp.bottlenecks.store import Codebooks
from interp.evaluation.steering import BASE, Cell, MeanRate, SteeringConfig, made_of, measure, steering_table
from interp.evaluation.steering_conditions import ARMS, means_of_texts, plan_arms
from interp.models import Model, load_model
from interp.progress import bar
from interp.steering import Topic, load_topic, topic_names
from interp.steering.cache import FINDER, find_or_recall, identity
from interp.steering.find import target_gradients
from interp.steering.target_tokens import find_target
from interp.steering.texts import read_texts, tokenize
from interp.steering.topics import development_topic_names

OUT, DEVELOPMENT = (Path(__file__).parent / "results" / name for name in ("steering", "steering-development"))
console = Console(width=170, highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--codebooks", default="smollm2-135m-instruct-k1", help="name or folder [default: %(default)s]"
    )
    parser.add_argument("--development", action="store_true", help="the topics of development")
    parser.add_argument("--topics", help="to run [default: all]; words of all are counted")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, metavar="ARM", help="to run")
    parser.add_argument("--show", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    numbers = {"n": int, "n_tokens": int, "times": float, "variety": float, "temperature": float, "seed": int}
    for name, kind in numbers.items():
        flag = "tokens" if name == "n_tokens" else name.replace("_", "-")
        parser.add_argument(f"--{flag}", dest=name, type=kind, default=getattr(SteeringConfig, name))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = SteeringConfig(**{name: getattr(given, name) for name in numbers})
    model = load_model()
    books = Codebooks.from_pretrained(given.codebooks, model)
    settings = {
        "model": identity(model, {}),
        "books": identity(model, books),
        "finder": FINDER,
        "config": config,
    }
    names = development_topic_names() if given.development else topic_names()
    given.out = given.out or (DEVELOPMENT if given.development else OUT)
    topics = [load_topic(name) for name in names]
    chosen = given.topics.split(",") if given.topics else names
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"no topic {', '.join(unknown)} here: there are {', '.join(names)}")
    wanted = [topic for topic in topics if topic.name in chosen]
    missing = [t for t in wanted if any(_read(given.out, settings, t, arm) is None for arm in given.arms)]
    if not given.show and (missing or _read(given.out, settings, None, BASE) is None):
        _run(model, books, missing, topics, config, settings, given)
    _print(topics, config, settings, given.out)


def _run(
    model: Model,
    books: Mapping[str, Bottleneck],
    missing: list[Topic],
    topics: list[Topic],
    config: SteeringConfig,
    settings: dict,
    given: argparse.Namespace,
) -> None:
    layer = f"r{model.cfg.n_layers // 2 if config.layer is None else config.layer}"
    with bar("cells", 1 + len(given.arms) * len(missing)) as progress:
        base = _read(given.out, settings, None, BASE)
        if base is None:
            base = measure(model, topics, config)
            _write(given.out, settings, None, BASE, base)
        progress(1)
        planned = []
        for topic in missing:
            means = means_of_texts(model, [*books, layer], topic.positive, topic.negative)
            gains_of = partial(_gains, model, books, topic)
            # those that come with the package, if it is with its codebooks and their seed
            found = find_or_recall(model, books, topic.positive, topic.negative, seed=config.seed, stage=bar)
            planned.append(plan_arms(model, books, found, means, gains_of, layer=layer, seed=config.seed))
        # arm by arm: a run that is cut short has whole arms to compare
        for arms in zip(*planned, strict=True):
            for topic, arm in zip(missing, arms, strict=True):
                if arm.name not in given.arms:
                    continue
                if _read(given.out, settings, topic, arm.name) is None:
                    cell = measure(model, topics, config, arm=arm, topic=topic.name, base=base)
                    _write(given.out, settings, topic, arm.name, cell)
                progress(1)


def _gains(model: Model, books: Mapping[str, Bottleneck], topic: Topic) -> dict[str, Tensor]:
    positive, negative = (tokenize(model, some) for some in (topic.positive, topic.negative))
    kinds = np.zeros(len(topic.negative), dtype=int)
    expected = read_texts(model, {}, negative, kinds).expectation([0])
    return target_gradients(model, books, find_target(positive, negative, expected), negative)


def _path(out: Path, topic: Topic | None, arm: str) -> Path:
    return out / f"{topic.name if topic else 'all'}--{arm.replace(', ', '-').replace(' ', '-')}.json"


def _read(out: Path, settings: dict, topic: Topic | None, arm: str) -> Cell | None:
    kept = read_record(_path(out, topic, arm), made_of(arm, **settings), console.print)
    return None if kept is None else Cell(**kept)


def _write(out: Path, settings: dict, topic: Topic | None, arm: str, cell: Cell) -> None:
    write_record(_path(out, topic, arm), made_of(arm, **settings), cell.to_json())


def _print(topics: list[Topic], config: SteeringConfig, settings: dict, out: Path) -> None:
    cells = {(t.name, arm): _read(out, settings, t, arm) for t in topics for arm in ARMS}
    base = _read(out, settings, None, BASE)
    if base is None:
        raise SystemExit(f"{out} holds no cells with these settings: run it without --show")
    found = steering_table(
        [topic.name for topic in topics],
        base,
        {key: cell for key, cell in cells.items() if cell},
        len(topics[0].prompts),
    )
    every = Table(
        "topic", "arm", "dose", "rate", "95 %", "perplexity", "distinct-2", "codes minus it", box=None
    )
    for row in found.by_topic:
        every.add_row(
            row.topic,
            row.arm,
            f"{row.cell.dose:.2f}",
            f"{row.rate:.0%}",
            f"{row.low:.0%}–{row.high:.0%}",
            f"{row.cell.perplexity:.1f}",
            f"{row.cell.distinct_2:.2f}",
            _text(row.less, "+"),
        )
    console.print(every)
    table = Table(
        "arm",
        "topics",
        "rate",
        "codes, the same topics",
        "codes minus it",
        "± over topics",
        "perplexity",
        "distinct-2",
        box=None,
    )
    table.title = (
        "mean over topics (±: its standard error, topics as draws); doses by perplexity up to "
        f"{config.times:g} × the base's {base.tried[0][1]:.1f} and distinct-2 down to {config.variety:g} × its "
        f"{base.tried[0][2]:.2f}, on other texts; 95 % over prompts"
    )
    for row in found.by_arm:
        error = "" if row.error is None else f"{row.error:.1%}"
        table.add_row(
            row.arm,
            str(len(row.topics)),
            _text(row.rate),
            _text(row.codes),
            _text(row.less, "+"),
            error,
            f"{row.perplexity:.1f}",
            f"{row.distinct_2:.2f}",
        )
    console.print(table)


def _text(rate: MeanRate | None, sign: str = "") -> str:
    return "" if rate is None else f"{rate.rate:{sign}.1%} [{rate.low:{sign}.1%}, {rate.high:{sign}.1%}]"


if __name__ == "__main__":
    main()
