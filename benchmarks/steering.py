"""Steering towards seven topics by codes, against its controls, at equal perplexity.

    python benchmarks/steering.py [--codebooks DIR] [--topics fire,baby] [--n 200] [--tokens 60] [--out FILE]

Every cell is one arm at one dose (``interp/evaluation/steering.py``); all are kept in the JSON file, and a killed run
goes on from there. Codes are found from the topic's texts; prompts hold no topic. The wrong topic of a topic is the
next one of the list, whose cells are counted for its words: at least two topics are needed for that arm.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from interp.bottlenecks.book_folder import load_codebooks
from interp.evaluation.steering import ARMS, Cell, SteeringConfig, at_perplexity, measure, plan_arms
from interp.evaluation.steering_vectors import site_means
from interp.files import write_json
from interp.models import describe_model, load_model
from interp.progress import bar
from interp.steering import find_codes, load_topic, topic_names
from interp.tasks.errors import InputError

TIMES_BASE = (1.25, 1.5, 2.0, 3.0)
"""Perplexities at which arms are compared, as multiples of the base's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codebooks", type=Path, help="folder [default: those of the package]")
    parser.add_argument("--k", type=int, default=1, help="codes per vector")
    parser.add_argument("--topics", default=",".join(topic_names()))
    parser.add_argument("--by", default="effect", help="effect or detection")
    parser.add_argument("--out", type=Path, default=Path("steering.json"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    numbers = {"n": int, "n_tokens": int, "layer": int, "share": float, "seed": int, "batch_size": int}
    for name, kind in numbers.items():
        default = getattr(SteeringConfig, name)
        parser.add_argument(
            "--tokens" if name == "n_tokens" else f"--{name}", dest=name, type=kind, default=default
        )
    parser.add_argument("--heads", default=",".join(map(str, SteeringConfig.heads)))
    parser.add_argument("--scales", default=",".join(map(str, SteeringConfig.scales)))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = SteeringConfig(
        heads=tuple(map(int, given.heads.split(","))),
        scales=tuple(map(float, given.scales.split(","))),
        **{name: getattr(given, name) for name in numbers},
    )
    topics = [load_topic(name) for name in given.topics.split(",")]
    model = load_model()
    books = load_codebooks(given.codebooks, model, k=given.k)
    # as JSON has it, so that it can be compared with what is stored
    settings = json.loads(
        json.dumps(
            {
                "model": describe_model(model)["spec"],
                "codebooks": str(given.codebooks),
                "k": given.k,
                "by": given.by,
                "config": {key: value for key, value in asdict(config).items() if key != "batch_size"},
                "batch_size": config.batch_size,
                "topics": [topic.name for topic in topics],
            }
        )
    )
    result = _begun(given.out, settings)
    done = {(cell["arm"], cell["topic"], cell["dose"]) for cell in result["cells"]}

    def keep(cell: Cell) -> None:
        result["cells"].append(cell.to_json())
        write_json(given.out, result)

    layer = model.cfg.n_layers // 2 if config.layer is None else config.layer
    per_topic = 3 * len(config.heads) + 3 * len(config.scales)
    with bar("texts", 1 + per_topic * len(topics)) as progress:
        if ("base", None, 0) not in done:
            keep(measure(model, topics, config))
        progress(1)
        for topic in topics:
            found = find_codes(model, books, topic.positive, topic.negative, by=given.by, seed=config.seed)
            result["found"][topic.name] = found.to_json()
            means = site_means(model, [*books, f"r{layer}"], topic.positive, topic.negative)
            for arm, dose, with_books, edits in plan_arms(model, books, found, means, config):
                if (arm, topic.name, dose) not in done:
                    keep(measure(model, topics, config, arm, topic.name, dose, with_books, edits))
                progress(1)
    _print(result)


def _begun(path: Path, settings: dict) -> dict:
    """What an earlier run of the same settings has left."""
    if not path.exists():
        return {"settings": settings, "found": {}, "cells": []}
    result = json.loads(path.read_text(encoding="utf-8"))
    if result["settings"] != settings:
        raise InputError(f"{path} holds a run of other settings: name another file with --out")
    return result


def _print(result: dict) -> None:
    cells = [Cell(**cell) for cell in result["cells"]]
    topics = result["settings"]["topics"]
    (base,) = (cell for cell in cells if cell.arm == "base")
    console = Console(width=130, highlight=False)
    every = Table("topic", "arm", "dose", "rate", "95 %", "perplexity", "distinct-2", box=None)
    for number, topic in enumerate(topics):
        wrong = topics[(number + 1) % len(topics)]
        every.add_row(topic, "base", "", *_numbers(base, topic))
        for arm in ARMS[1:]:
            for cell in _cells(cells, arm, topic, wrong):
                every.add_row(topic, arm, f"{cell.dose:g}", *_numbers(cell, topic))
    console.print(every)

    table = Table("arm", *(f"{times:g} × base" for times in TIMES_BASE), box=None)
    table.title = f"mean rate over topics at a perplexity of so many times the base's {base.perplexity:.1f}"
    for arm in ARMS[1:]:
        row = []
        for times in TIMES_BASE:
            rates = [
                at_perplexity(
                    _cells(cells, arm, topic, topics[(number + 1) % len(topics)]),
                    base,
                    topic,
                    times * base.perplexity,
                )
                for number, topic in enumerate(topics)
            ]
            reached = [rate.rate for rate in rates if rate is not None]
            row.append(f"{sum(reached) / len(reached):.0%} ({len(reached)})" if reached else "–")
        table.add_row(arm, *row)
    console.print(table)
    mean = sum(base.rate(topic) for topic in topics) / len(topics)
    console.print(f"base {mean:.0%}; in brackets how many topics' arms reach the perplexity")


def _cells(cells: list[Cell], arm: str, topic: str, wrong: str) -> list[Cell]:
    if arm == "wrong topic":
        return [cell for cell in cells if cell.arm == "codes" and cell.topic == wrong != topic]
    return [cell for cell in cells if cell.arm == arm and cell.topic == topic]


def _numbers(cell: Cell, topic: str) -> list[str]:
    low, high = cell.interval(topic)
    return [
        f"{cell.rate(topic):.0%}",
        f"{low:.0%}–{high:.0%}",
        f"{cell.perplexity:.1f}",
        f"{cell.distinct_2:.2f}",
    ]


if __name__ == "__main__":
    main()
