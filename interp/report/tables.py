"""Result files read back: of codebooks, of steering, of a replication. What is wrong with one is one line."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AliasPath, BaseModel, Field, ValidationError

from interp.bench.plan import whole_record
from interp.errors import InputError, fault
from interp.evaluation import steering
from interp.evaluation.codebook_quality import CONTROLS
from interp.files import read_json
from interp.steering import load_topic

BASE_FILE = "all--base.json"


@dataclass(frozen=True)
class Steering:
    """Cells of a folder; ``left_out`` counts those of another model, codebooks, finder or settings than the others."""

    config: steering.SteeringConfig
    base: steering.SteeringCell
    topics: tuple[str, ...]
    table: steering.SteeringTable
    left_out: int


def read_steering(folder: Path) -> Steering:
    """Read a folder of cells.

    :class:`InputError`: a damaged cell, no base or one of an earlier form, or topics that are not of the package.
    """
    records = {path: _record(path) for path in sorted(folder.glob("*--*.json"))}
    if folder / BASE_FILE not in records:
        raise InputError(f"{folder} has no {BASE_FILE}: run benchmarks/steering.py")
    settings, base = records.pop(folder / BASE_FILE)
    try:
        config, topics = steering.SteeringConfig(**settings["config"]), tuple(base.held)
        prompts, model = load_topic(topics[0]).prompts, settings["made_with"]
    except (KeyError, TypeError, IndexError, AttributeError):
        raise InputError(
            f"{folder / BASE_FILE} is of an earlier form: delete the folder and run benchmarks/steering.py again"
        ) from None
    # whose codes most of the folder is of
    of_codes = [stored for stored, cell in records.values() if cell.arm == steering.CODES]
    counts = Counter((stored.get("made_with"), stored.get("finder")) for stored in of_codes)
    books, finder = counts.most_common(1)[0][0] if counts else ("", 0)
    kept_as = {"model": model, "books": books, "finder": finder, "config": config}
    cells = {}
    for stored, cell in records.values():
        common = {name: value for name, value in stored.items() if name not in steering.OF_TOPIC.values()}
        if cell.topic and common == steering.made_of(cell.arm, **kept_as) and set(cell.held) == set(topics):
            cells[cell.topic, cell.arm] = cell
    table = steering.steering_table(topics, base, cells, len(prompts))
    return Steering(config, base, topics, table, len(records) - len(cells))


def _record(path: Path) -> tuple[dict, steering.SteeringCell]:
    try:
        settings, result = whole_record(path)
        return settings, steering.SteeringCell(**result)
    except (InputError, TypeError) as error:
        raise InputError(f"{error}: delete it and run benchmarks/steering.py again") from None


Rows = TypeVar("Rows")


def read_rows(path: Path, parse: Callable[[Mapping[str, Any]], Rows], again: str) -> Rows:
    """What ``parse`` makes of a JSON file.

    :class:`InputError`: no such file, or one that was damaged; it ends with how the file is made again.
    """
    try:
        return parse(read_json(path))
    except ValidationError as error:
        raise InputError(f"{path} is damaged ({fault(error)}): {again}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}): {again}") from None


class ConditionCosts(BaseModel):
    """The model plain, through its codes, or through a control; means over predicted tokens."""

    name: str = Field(alias="condition")
    n_blocks: int
    # ce, kl: nats a token, KL from the plain model
    ce: float
    # increase, low, high: of the cross-entropy over the same blocks of the plain model, with its 95 % interval
    increase: float = Field(alias="ce_increase")
    low: float = Field(alias="ce_increase_low")
    high: float = Field(alias="ce_increase_high")
    kl: float
    # accuracy, agreement: share of tokens whose likeliest is the next one, and is the plain model's
    accuracy: float
    agreement: float

    @property
    def is_control(self) -> bool:
        return self.name in CONTROLS


class Usage(BaseModel):
    """How books of one k are used; see :meth:`interp.evaluation.codebook_quality.UsageMeter.summary`."""

    explained: float = Field(alias="variance_explained_mean")
    explained_least: float = Field(alias="variance_explained_min")
    explained_sites: dict[str, float] = Field(alias="variance_explained_sites")
    dead_here: float = Field(alias="dead_on_text")
    dead_when_fitted: float
    bits: float = Field(alias="bits_per_token")
    bits_most: float = Field(alias="bits_per_token_most")


class TextQuality(BaseModel):
    """One held-out text; ``usage`` is by k."""

    spec: str
    n_blocks: int
    context: int
    conditions: list[ConditionCosts] = Field(alias="rows")
    usage: dict[int, Usage]

    def codes(self) -> list[tuple[int, ConditionCosts, Usage]]:
        """Of every k, what it costs and how the books are used."""
        costs = {condition.name: condition for condition in self.conditions}
        return [(k, costs[f"codes k={k}"], usage) for k, usage in self.usage.items()]


class Quality(BaseModel):
    """What ``interp codebook eval`` wrote of a folder."""

    model: str | None = Field(validation_alias=AliasPath("model", "spec"))
    sites: list[str]
    n_codes: int = Field(validation_alias=AliasPath("fit", "n_codes"))
    selection: str = Field(validation_alias=AliasPath("fit", "selection"))
    fitted_on: str = Field(validation_alias=AliasPath("fitted_on", "spec"))
    fit_tokens: int = Field(validation_alias=AliasPath("fitted_on", "n_tokens"))
    texts: list[TextQuality] = Field(min_length=1)


def read_quality(path: Path) -> Quality:
    """Read the file; :class:`InputError` of another one, or a damaged one."""

    def parse(result: Mapping[str, Any]) -> Quality:
        quality = Quality.model_validate(result)
        for text in quality.texts:
            text.codes()
        return quality

    return read_rows(path, parse, f"make it again with interp codebook eval {path.parent}")


@dataclass(frozen=True)
class MachineRow:
    """A share right of the finite-state replication: mean over seeds with its 95 % interval."""

    measure: str
    arm: str  # the model that it is of
    mean: float
    low: float
    high: float
    published: float | None  # what the paper has


def read_machine(path: Path) -> tuple[MachineRow, ...]:
    """Read what ``python -m benchmarks.tokfsm seeds --summary`` wrote; errors as of :func:`read_quality`."""

    def parse(values: Any) -> tuple[MachineRow, ...]:
        rows = tuple(MachineRow(**row) for row in values)
        if not rows:
            raise ValueError("it has no rows")
        return rows

    return read_rows(path, parse, "make it again with python -m benchmarks.tokfsm seeds --summary")
