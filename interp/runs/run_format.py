"""What the files of a run hold, checked when one is read.

Keys that are not named here are kept and not looked at. Those with a default may be absent, as earlier versions did not
write them; the default is for this check alone.
"""

import json
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

SiteName = Annotated[str, Field(pattern=r"^(a\d+\.h\d+|m\d+)$")]
Share = Annotated[float, Field(ge=0, le=1)]


class _Read(BaseModel):
    model_config = ConfigDict(strict=True)


class _Part(_Read):
    site: SiteName
    layer: NonNegativeInt
    score: FiniteFloat
    effect: FiniteFloat | None
    effect_low: FiniteFloat | None
    effect_high: FiniteFloat | None
    in_circuit: bool

    @model_validator(mode="after")
    def _members_were_checked(self) -> "_Read":
        if self.in_circuit and None in (self.effect, self.effect_low, self.effect_high):
            raise ValueError(f"{self.site} is in the circuit and has no effect with an interval")
        return self


class _Head(_Part):
    head: NonNegativeInt
    roles: dict[str, FiniteFloat]


class _Edge(_Read):
    from_: str = Field(alias="from")
    to: str
    into: Literal["q", "k", "v"] | None
    score: FiniteFloat
    attribution: FiniteFloat | None = None
    codes: FiniteFloat | None = None
    co_occurrence: FiniteFloat | None = None
    effect: FiniteFloat | None = None
    error: FiniteFloat | None = None
    probability: FiniteFloat | None = None
    measured: NonNegativeInt | None = None


class _Metric(_Read):
    clean: FiniteFloat
    corrupt: FiniteFloat
    name: str = ""


class _Proposed(_Read):
    false_discovery_rate: Share
    heads: list[SiteName]


class _Nulls(_Read):
    random_mean: FiniteFloat | None
    random_sd: FiniteFloat | None
    layer_index: FiniteFloat | None
    layer_mean: FiniteFloat | None

    @model_validator(mode="after")
    def _a_mean_has_a_spread(self) -> "_Read":
        if (self.random_mean is None) != (self.random_sd is None):
            raise ValueError("random_mean and random_sd are known together or not at all")
        return self


class _Stricter(_Read):
    roc_auc: FiniteFloat | None
    average_precision: FiniteFloat | None
    n_positive: NonNegativeInt


class _SharedPairs(_Read):
    shared: NonNegativeInt
    measured: NonNegativeInt


class _Judged(_Stricter):
    spearman: FiniteFloat | None
    n_heads: NonNegativeInt
    interval: tuple[FiniteFloat, FiniteFloat] | None
    nulls: _Nulls
    pairs: _SharedPairs = _SharedPairs(shared=0, measured=0)
    stricter: dict[str, _Stricter] = {}


class _Settings(_Read):
    n_candidates: NonNegativeInt = 0
    mlps: bool = False
    threshold: FiniteFloat = 0.0
    signed: bool = True
    reference: str = ""
    task_class: str = ""
    config: dict[str, Any] = {}


class _Pairs(_Read):
    counterfactual: str | None = None
    bos: bool = True
    dropped: dict[str, NonNegativeInt] = {}
    notes: list[str] = []


class _Model(_Read):
    n_layers: NonNegativeInt
    n_heads: NonNegativeInt
    d_model: NonNegativeInt
    parallel_attn_mlp: bool = False
    dtype: str = ""
    device: str = ""


class _Provenance(_Read):
    pairs: _Pairs = _Pairs()
    model: _Model


class _Result(_Read):
    """``run.json``."""

    model: str | None
    task: str
    method: str
    seed: int
    n_pairs: PositiveInt
    heads: Annotated[list[_Head], Field(min_length=1)]
    mlps: list[_Part]
    edges: list[_Edge]
    left_out: list[str] = []
    metric: _Metric
    universe: str
    seconds: dict[str, FiniteFloat] = {}
    cost: dict[str, FiniteFloat] = {}
    proposed: _Proposed | None = None
    recovery: dict[str, _Judged] = {}
    settings: _Settings = _Settings()
    provenance: _Provenance
    versions: dict[str, str] = {}


class _Example(_Read):
    clean: Annotated[list[str], Field(min_length=1)]
    corrupt: Annotated[list[str], Field(min_length=1)]
    answers: list[str]
    wrong_answers: list[str]
    positions: dict[str, NonNegativeInt]
    metric: _Metric

    @model_validator(mode="after")
    def _positions_are_tokens(self) -> "_Read":
        for role, position in self.positions.items():
            if position >= min(len(self.clean), len(self.corrupt)):
                raise ValueError(f"position {position} of {role} is beyond the prompt's last token")
        return self


class _Writes(_Read):
    top: list[tuple[str, FiniteFloat]]
    bottom: list[tuple[str, FiniteFloat]]


class _Codes(_Read):
    clean: list[tuple[int, FiniteFloat]]
    corrupt: list[tuple[int, FiniteFloat]]


class _Change(_Read):
    role: str
    clean: int
    corrupt: int
    share: FiniteFloat
    attribution: FiniteFloat


class _Evidence(_Read):
    effect: FiniteFloat
    error: FiniteFloat
    probability: FiniteFloat
    p_value: FiniteFloat
    patched: NonNegativeInt
    changes: list[_Change]
    set_codes: FiniteFloat | None
    whole: FiniteFloat | None


class _Member(_Read):
    pattern: list[list[FiniteFloat]] = []
    direct: FiniteFloat = 0.0
    writes: _Writes = _Writes(top=[], bottom=[])
    codes: _Codes = _Codes(clean=[], corrupt=[])
    evidence: _Evidence | None = None

    @model_validator(mode="after")
    def _pattern_is_square(self) -> "_Read":
        if any(len(row) != len(self.pattern) for row in self.pattern):
            raise ValueError("its pattern is not square")
        return self


class _Details(_Read):
    """``details.json``."""

    examples: list[_Example] = []
    members: dict[SiteName, _Member] = {}


def fault_of_result(result: dict) -> str | None:
    """What makes ``run.json`` unreadable for what follows, or ``None``."""
    return _fault(_Result, result)


def fault_of_details(details: object) -> str | None:
    """The same of ``details.json``."""
    return _fault(_Details, details)


def fault_of_arrays(result: dict, arrays: dict[str, np.ndarray]) -> str | None:
    """The same of ``scores.safetensors``, by what ``run.json`` says, which is whole."""
    heads, n_pairs = result["heads"], result["n_pairs"]
    grid = tuple(1 + max(head[key] for head in heads) for key in ("layer", "head"))
    checked = sum(part["effect"] is not None for part in (*heads, *result["mlps"]))
    shapes = {
        "heads": grid,
        "heads_per_pair": (n_pairs, *grid),
        "mlps_per_pair": (n_pairs, len(result["mlps"])),
        "effects": (n_pairs, checked),
        "metric_clean": (n_pairs,),
        "metric_corrupt": (n_pairs,),
    }
    # not every method has scores per pair; an interval was drawn from them
    drawn = any(judged["interval"] is not None for judged in result.get("recovery", {}).values())
    lacking = [name for name in ("heads", *["heads_per_pair"] * drawn) if name not in arrays]
    if lacking:
        return f"lacks {' and '.join(lacking)}"
    for name in shapes.keys() & arrays.keys():
        if arrays[name].shape != shapes[name]:
            return f"{name}: of shape {arrays[name].shape}, and run.json implies {shapes[name]}"
        if not np.isfinite(arrays[name]).all():
            return f"{name}: not all finite numbers"
    return None


def _fault(kind: type[_Read], value: object) -> str | None:
    try:
        kind.model_validate_json(json.dumps(value))  # in JSON a list may be a tuple, in Python not if strict
    except ValidationError as error:
        first, others = error.errors(include_url=False)[0], error.error_count() - 1
        # a key of a damaged file may hold anything, and a fault is one line
        where = " ".join(".".join(str(step) for step in first["loc"]).split()) or "all of it"
        what = first["msg"].removeprefix("Value error, ")
        fault = f"lacks {where}" if first["type"] == "missing" else f"{where}: {what}"
        return fault + (f", and {others} more" if others else "")
    return None
