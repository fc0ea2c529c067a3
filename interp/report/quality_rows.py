"""What codebooks cost a model, read back from ``quality.json`` of ``interp codebook eval``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.evaluation.codebook_quality import CONTROLS
from interp.report.reading import read_rows


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
    """How books of one k are used; see :meth:`interp.evaluation.code_usage.UsageMeter.summary`."""

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
