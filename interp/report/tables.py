"""Result files read back: of codebooks, of steering, of a replication. What is wrong with one is one line."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from interp.bench.plan import whole_record
from interp.errors import InputError
from interp.evaluation.codebook_quality import CONTROLS
from interp.evaluation.steering import CODES, Cell, SteeringConfig, SteeringTable, made_of, steering_table
from interp.files import read_json
from interp.steering import load_topic

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
        if cell.topic and kept == made_of(cell.arm, **kept_as) and set(cell.held) == set(topics)
    }
    table = steering_table(topics, base, cells, len(prompts))
    return Steering(config, base, topics, table, len(records) - len(cells))


def _record(path: Path) -> tuple[dict, Cell]:
    try:
        settings, result = whole_record(path)
        return settings, Cell(**result)
    except (InputError, TypeError) as error:
        raise InputError(f"{error}: delete it and run benchmarks/steering.py again") from None


Rows = TypeVar("Rows")


def read_rows(path: Path, parse: Callable[[Mapping[str, Any]], Rows], again: str) -> Rows:
    """What ``parse`` makes of a JSON file.

    Args:
        again: how the file is made again, as the message ends.

    Raises:
        InputError: no such file, or one that was damaged.
    """
    try:
        return parse(read_json(path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}): {again}") from None


@dataclass(frozen=True)
class Condition:
    """The model plain, through its codes, or through a control; means over predicted tokens.

    Attributes:
        ce, kl: nats a token, KL from the plain model.
        increase, low, high: of the cross-entropy over the same blocks of the plain model, with its 95 % interval.
        accuracy, agreement: share of tokens whose likeliest is the next one, and is the plain model's.
    """

    name: str
    n_blocks: int
    ce: float
    increase: float
    low: float
    high: float
    kl: float
    accuracy: float
    agreement: float

    @property
    def is_control(self) -> bool:
        return self.name in CONTROLS


@dataclass(frozen=True)
class Usage:
    """How books of one k are used; see :meth:`interp.evaluation.codebook_quality.UsageMeter.summary`."""

    k: int
    explained: float
    explained_least: float
    explained_sites: Mapping[str, float]
    dead_here: float
    dead_when_fitted: float
    bits: float
    bits_most: float
    entropy: float


@dataclass(frozen=True)
class TextQuality:
    """One held-out text."""

    spec: str
    n_blocks: int
    context: int
    conditions: Sequence[Condition]
    usage: Sequence[Usage]

    def codes(self) -> list[tuple[Condition, Usage]]:
        """Of every k, what it costs and how the books are used."""
        costs = {condition.name: condition for condition in self.conditions}
        return [(costs[f"codes k={usage.k}"], usage) for usage in self.usage]


@dataclass(frozen=True)
class Quality:
    """
    Attributes:
        fitted_on: the text that the books were made from, in words.
    """

    model: str
    n_sites: int
    n_codes: int
    selection: str
    fitted_on: str
    texts: Sequence[TextQuality]


def read_quality(path: Path) -> Quality:
    """Read the file.

    Raises:
        InputError: not such a file, or one that was damaged.
    """
    return read_rows(path, _read, f"make it again with interp codebook eval {path.parent}")


def _read(result: Mapping[str, Any]) -> Quality:
    text = result["fitted_on"]
    quality = Quality(
        str(result["model"]["spec"]),
        len(result["sites"]),
        int(result["fit"]["n_codes"]),
        str(result["fit"]["selection"]),
        f"{int(text['n_tokens']):,} tokens of {text['spec']}",
        tuple(_text(entry) for entry in result["texts"]),
    )
    if not quality.texts:
        raise ValueError("no text was measured")
    for entry in quality.texts:
        entry.codes()
    return quality


def _text(entry: Mapping[str, Any]) -> TextQuality:
    return TextQuality(
        str(entry["spec"]),
        int(entry["n_blocks"]),
        int(entry["context"]),
        tuple(_condition(row) for row in entry["rows"]),
        tuple(_usage(int(k), usage) for k, usage in entry["usage"].items()),
    )


def _condition(row: Mapping[str, Any]) -> Condition:
    names = ("ce", "ce_increase", "ce_increase_low", "ce_increase_high", "kl", "accuracy", "agreement")
    return Condition(str(row["condition"]), int(row["n_blocks"]), *(float(row[name]) for name in names))


def _usage(k: int, found: Mapping[str, Any]) -> Usage:
    return Usage(
        k,
        float(found["variance_explained_mean"]),
        float(found["variance_explained_min"]),
        {str(site): float(value) for site, value in found["variance_explained_sites"].items()},
        float(found["dead_on_text"]),
        float(found["dead_when_fitted"]),
        float(found["bits_per_token"]),
        float(found["bits_per_token_most"]),
        float(found["entropy_bits"]),
    )


@dataclass(frozen=True)
class RateRow:
    """A kind of bottleneck at a rate, at heads or MLP outputs.

    Attributes:
        bits: of a vector, as stored.
        kl: nats a token with codes in place, of all texts together, with its 95 % interval.
        effect: share of the heads' effects that codes carry, by task.
    """

    kind: str
    part: str
    bits: float
    kl: float
    low: float
    high: float
    explained: float
    effect: Mapping[str, float]


def read_rates(path: Path) -> tuple[RateRow, ...]:
    """Read what ``interp bottlenecks bench`` wrote.

    Raises:
        InputError: not such a file, or one that was damaged.
    """

    def parse(rows: Any) -> tuple[RateRow, ...]:
        found = []
        for row in rows["rows"]:
            for part, cell in row["parts"].items():
                kl, low, high = (
                    sum(text["kl"][i] for text in cell["texts"].values()) / len(cell["texts"])
                    for i in range(3)
                )
                effects = {str(task): float(one["share"]) for task, one in cell.get("effects", {}).items()}
                found.append(
                    RateRow(
                        str(row["kind"]),
                        part,
                        float(cell["bits"]),
                        kl,
                        low,
                        high,
                        float(cell["explained"]),
                        effects,
                    )
                )
        if not found:
            raise ValueError("it has no rows")
        return tuple(found)

    return read_rows(path, parse, "make it again with interp bottlenecks bench")


@dataclass(frozen=True)
class MachineRow:
    """A share right of the finite-state replication: mean over seeds with its 95 % interval.

    Attributes:
        arm: the model that it is of.
        published: what the paper has.
    """

    measure: str
    arm: str
    mean: float
    low: float
    high: float
    published: float | None


def read_machine(path: Path) -> tuple[MachineRow, ...]:
    """Read what ``python -m benchmarks.tokfsm seeds --summary`` wrote.

    Raises:
        InputError: not such a file, or one that was damaged.
    """

    def parse(rows: Any) -> tuple[MachineRow, ...]:
        if not rows:
            raise ValueError("it has no rows")
        return tuple(MachineRow(**row) for row in rows)

    return read_rows(path, parse, "make it again with python -m benchmarks.tokfsm seeds --summary")
