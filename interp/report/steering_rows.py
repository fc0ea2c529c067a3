"""A comparison of steering, read back from the folder of cells that ``benchmarks/steering.py`` wrote."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.evaluation.steering import BASE, Cell, SteeringConfig
from interp.evaluation.steering_table import SteeringTable, steering_table
from interp.steering import load_topic
from interp.tasks.errors import InputError

BASE_FILE = "all--base.json"
_FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)


@dataclass(frozen=True)
class Steering:
    """
    Attributes:
        left_out: cells of the folder that were made with other settings than its base.
    """

    config: SteeringConfig
    base: Cell
    topics: tuple[str, ...]
    table: SteeringTable
    left_out: int


def read_steering(folder: Path) -> Steering:
    """Read a folder of cells.

    Raises:
        InputError: a cell that is damaged, no base, or topics that are not of the package.
    """
    path = folder / BASE_FILE
    try:
        settings, base = _record(path)
        config, topics = SteeringConfig(**settings["config"]), tuple(base.held)
        cells, left_out = {}, 0
        for path in sorted(folder.glob("*--*.json")):
            made, cell = _record(path)
            if cell.arm == BASE:
                continue
            if made["config"] != settings["config"] or set(cell.held) != set(topics):
                left_out += 1
            else:
                cells[cell.topic, cell.arm] = cell
        prompts = load_topic(topics[0]).prompts
        return Steering(config, base, topics, steering_table(topics, base, cells, len(prompts)), left_out)
    except _FAULTS as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {error}): delete it and run benchmarks/steering.py again"
        ) from None


def _record(path: Path) -> tuple[dict[str, Any], Cell]:
    kept = json.loads(path.read_text(encoding="utf-8"))
    return kept["settings"], Cell(**kept["result"])
