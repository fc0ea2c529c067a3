"""A comparison of steering, read back from the folder of cells that ``benchmarks/steering.py`` wrote."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from interp.bench.store import whole_record
from interp.evaluation.steering import Cell, SteeringConfig
from interp.evaluation.steering_table import CODES, SteeringTable, made_of, steering_table
from interp.steering import load_topic
from interp.tasks.errors import InputError

BASE_FILE = "all--base.json"


@dataclass(frozen=True)
class Steering:
    """
    Attributes:
        left_out: cells of the folder that are of another model, codebooks, finder or settings than the others.
    """

    config: SteeringConfig
    base: Cell
    topics: tuple[str, ...]
    table: SteeringTable
    left_out: int


def read_steering(folder: Path) -> Steering:
    """Read a folder of cells.

    Raises:
        InputError: a cell that is damaged, no base or one of an earlier form, or topics that are not of the package.
    """
    records = {path: _record(path) for path in sorted(folder.glob("*--*.json"))}
    if folder / BASE_FILE not in records:
        raise InputError(f"{folder} has no {BASE_FILE}: run benchmarks/steering.py")
    settings, base = records.pop(folder / BASE_FILE)
    try:
        config, topics = SteeringConfig(**settings["config"]), tuple(base.held)
        prompts, model = load_topic(topics[0]).prompts, settings["made_with"]
    except (KeyError, TypeError, IndexError, AttributeError):
        raise InputError(
            f"{folder / BASE_FILE} is of an earlier form: delete the folder and run benchmarks/steering.py again"
        ) from None
    # whose codes most of the folder is of
    made = Counter(
        (kept.get("made_with"), kept.get("finder")) for kept, cell in records.values() if cell.arm == CODES
    )
    books, finder = made.most_common(1)[0][0] if made else ("", 0)
    kept_as = {"model": model, "books": books, "finder": finder, "config": config}
    cells = {
        (cell.topic, cell.arm): cell
        for kept, cell in records.values()
        if kept == made_of(cell.arm, **kept_as) and set(cell.held) == set(topics)
    }
    table = steering_table(topics, base, cells, len(prompts))
    return Steering(config, base, topics, table, len(records) - len(cells))


def _record(path: Path) -> tuple[dict, Cell]:
    try:
        settings, result = whole_record(path)
        return settings, Cell(**result)
    except (InputError, TypeError) as error:
        raise InputError(f"{error}: delete it and run benchmarks/steering.py again") from None
