"""Reference circuits: what a discovery is judged against, under one name each.

Published lists (``ioi/wang`` …) are data in ``data/published.json``; papers disagree about the same
circuit, so every list keeps its own name and an AUC is meaningless without it.

Measured references: exact effects of every head, as ground truth where no circuit was published.

The effect of a component on a pair is the fall of the task metric when its output on the clean prompt, at
all positions, is patched with its output on the corrupt prompt (resample ablation, nothing else frozen):
positive = it helps. One file holds one task on one model; what depends on a threshold is computed when asked.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import save_file

from interp import THRESHOLD
from interp.errors import InputError, fault
from interp.files import atomic_path, parse_json, read_json, read_tensors
from interp.models import Model, describe_model
from interp.models.sites import parse_site
from interp.prompts.pairs import PromptPairs

_ALIASES = {"gpt2-small": "gpt2", "openai-community/gpt2": "gpt2", "neelnanda/attn_only_4l512w_c4_code": "attn-only-4l"}
"""Other specs under which a model of a published list is loaded."""
_WITH_FOLDER = "attn-only-4l"


@dataclass(frozen=True)
class Reference:
    """One published circuit."""

    name: str
    task: str
    model: str
    n_layers: int
    n_heads: int
    heads: dict[str, str]  # site (``a9.h9``) -> role, as the source groups them (``unnamed`` where it gives no role)
    # (sender, receiver, into), with ``into`` one of q, k, v for heads and ``None`` for MLPs and the logits. Senders and
    # receivers are sites, ``input`` (the embedding) and ``logits``. Empty where none was published
    edges: tuple[tuple[str, str, str | None], ...]
    citation: str
    note: str

    def members(self) -> Bool[np.ndarray, "layer head"]:
        """True where a head belongs to the circuit."""
        mask = np.zeros((self.n_layers, self.n_heads), dtype=bool)
        for text in self.heads:
            site = parse_site(text)
            mask[site.layer, site.head] = True
        return mask

    @property
    def head_edges(self) -> tuple[tuple[str, str, str | None], ...]:
        """The edges from one head to another."""
        return tuple(e for e in self.edges if e[0].startswith("a") and e[1].startswith("a"))

    def roles(self) -> dict[str, list[str]]:
        """Role -> its heads, in the source's order."""
        grouped: dict[str, list[str]] = {}
        for site, role in self.heads.items():
            grouped.setdefault(role, []).append(site)
        return grouped


def written_reference(name: str, model: Model) -> Reference:
    """The circuit that was written into the weights of a planted model, whose task has the same name."""
    from interp.planted.models import planted_truth  # no other run needs planted models

    truth = planted_truth(name)
    shape, citation = (model.cfg.n_layers, model.cfg.n_heads), "written into the weights"
    return Reference(f"{name}/written", name, name, *shape, truth.heads, truth.edges, citation, "")


_TOLERANCE = 1e-3  # largest rounding error of a stored effect, as a share of the gap


class _Provenance(BaseModel, strict=True, extra="allow"):
    fingerprints: list[str] = []


class _Header(BaseModel, strict=True):
    """Of a file of exact effects."""

    kind: Literal["measured reference"]
    format: Literal[1]
    name: str
    task: str
    model: str
    scales: dict[str, float]
    provenance: _Provenance


@dataclass(frozen=True)
class ExactEffects:
    """Exact effects of all heads (and MLPs) of one model on one task."""

    name: str
    task: str
    model: str
    # heads, mlps: effect of each component on each pair, in units of the metric; ``mlps`` is ``None`` for
    # attention-only models
    heads: Float[np.ndarray, "pair layer head"]
    mlps: Float[np.ndarray, "pair layer"] | None
    # metric_clean, metric_corrupt: the task metric of the untouched model on both prompts of each pair
    metric_clean: Float[np.ndarray, " pair"]
    metric_corrupt: Float[np.ndarray, " pair"]
    provenance: dict  # model, task, counterfactual, seed, bos, n_pairs, fingerprints of the pairs, versions; JSON-able

    @property
    def n_layers(self) -> int:
        return self.heads.shape[1]

    @property
    def n_heads(self) -> int:
        return self.heads.shape[2]

    @property
    def n_pairs(self) -> int:
        return self.heads.shape[0]

    @property
    def gap(self) -> float:
        """Mean metric on clean minus mean metric on corrupt prompts."""
        return float(self.metric_clean.mean() - self.metric_corrupt.mean())

    def effects(self) -> Float[np.ndarray, "layer head"]:
        """Mean effect of every head."""
        return self.heads.mean(axis=0)

    def members(self, threshold: float = THRESHOLD) -> Bool[np.ndarray, "layer head"]:
        """Heads whose absolute mean effect is at least ``threshold`` of the gap."""
        if self.gap <= 0:
            raise InputError(
                f"reference {self.name!r} has gap {self.gap:.3g}: "
                "the metric must fall from clean to corrupt prompts for a head to be a member"
            )
        return np.abs(self.effects()) >= threshold * self.gap

    def shared(self, pairs: PromptPairs) -> int | None:
        """How many of ``pairs`` are among those measured; ``None`` where the file does not say which those were."""
        measured = self.provenance.get("fingerprints")
        return None if measured is None else sum(pair.fingerprint in measured for pair in pairs)

    def check_made_as(self, pairs: PromptPairs, model: Model, path: str) -> None:
        """Raise :class:`InputError` unless it is of this model, task and kind of pairs, and has a gap."""
        made = self.provenance
        agree = {
            "model": (canonical_model(describe_model(model)["spec"] or ""), canonical_model(self.model)),
            "shape": ((model.cfg.n_layers, model.cfg.n_heads), (self.n_layers, self.n_heads)),
            "metric": (pairs.metric, made.get("metric", pairs.metric)),
            "counterfactual": (pairs.counterfactual, made.get("counterfactual")),
            "prompts": tuple("with BOS" if bos else "without BOS" for bos in (pairs.bos, made.get("bos"))),
        }
        # the same prompts can lie in several files, as a run's own
        if not {Path(pairs.task).suffix, Path(self.task).suffix} <= {".json", ".jsonl"}:
            agree = {"task": (pairs.task, self.task), **agree}
        for name, (wanted, stored) in agree.items():
            if wanted != stored:
                raise InputError(f"reference {path} is of the {name} {stored}, not of {wanted}")
        self.members()

    def measures(self, pairs: PromptPairs) -> bool:
        """Whether its effects are of the same kind of exchange as effects on ``pairs`` would be: corrupt prompts of
        another kind, or prompts without BOS, ask for another quantity."""
        made = self.provenance
        return (made["counterfactual"], made["bos"]) == (pairs.counterfactual, pairs.bos)

    def save(self, path: Path | str) -> None:
        """Write one safetensors file, provenance in its header.

        Effects are stored as int16 with one scale per tensor, an error of at most 1/65,534 of the largest;
        where that could exceed a thousandth of the gap they are stored as float32.
        """
        metrics = {"metric_clean": self.metric_clean, "metric_corrupt": self.metric_corrupt}
        tensors = {name: np.ascontiguousarray(values, np.float32) for name, values in metrics.items()}
        scales = {}
        for key, values in (("heads", self.heads), ("mlps", self.mlps)):
            if values is not None:
                tensors[key], scales[key] = _pack(values, tolerance=_TOLERANCE * abs(self.gap))
        header = {"kind": "measured reference", "format": 1, "scales": scales}
        header |= {name: getattr(self, name) for name in ("name", "task", "model", "provenance")}
        with atomic_path(Path(path)) as temporary:
            save_file(tensors, temporary, metadata={"interp": json.dumps(header, allow_nan=False)})

    @classmethod
    def load(cls, path: Path | str) -> "ExactEffects":
        """Read what :meth:`save` wrote."""
        try:
            tensors, words = read_tensors(path, "numpy")
            header = _Header.model_validate(parse_json(words["interp"]))
            scales = {"metric_clean": 1.0, "metric_corrupt": 1.0, **header.scales}
            values = {
                name: tensors[name].astype(np.float64) * scales[name]
                for name in ("heads", "mlps", "metric_clean", "metric_corrupt")
                if name in tensors or name != "mlps"
            }
        except ValidationError as error:
            raise InputError(f"{path}: not a measured reference: {fault(error)}") from None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{path}: not a measured reference ({error})") from None
        shape = values["heads"].shape
        fit = {"heads": shape, "mlps": shape[:2], "metric_clean": shape[:1], "metric_corrupt": shape[:1]}
        if len(shape) != 3 or 0 in shape or any(tensor.shape != fit[name] for name, tensor in values.items()):
            raise InputError(f"{path}: the tensors of the measured reference do not fit together")
        if not all(np.isfinite(tensor).all() for tensor in values.values()):
            raise InputError(f"{path}: the measured reference holds values that are not finite")
        provenance = header.provenance.model_dump(exclude_unset=True)
        components, metrics = (
            (values["heads"], values.get("mlps")),
            (values["metric_clean"], values["metric_corrupt"]),
        )
        return cls(header.name, header.task, header.model, *components, *metrics, provenance)


@cache
def shipped_measured() -> dict[str, ExactEffects]:
    """Every ``data/measured-*.safetensors`` of the package, by name."""
    paths = sorted((Path(__file__).parent / "data").glob("measured-*.safetensors"))
    return {reference.name: reference for reference in map(ExactEffects.load, paths)}


def _pack(values: np.ndarray, tolerance: float) -> tuple[np.ndarray, float]:
    largest = float(np.abs(values).max(initial=0.0))
    scale = largest / 32767
    if not np.isfinite(largest) or scale / 2 > tolerance:
        return np.ascontiguousarray(values, dtype=np.float32), 1.0
    if largest == 0:
        return np.zeros(values.shape, dtype=np.int16), 1.0
    return np.ascontiguousarray(np.round(values / scale), dtype=np.int16), scale


def load_reference(name: str | Path) -> Reference | ExactEffects:
    """As :func:`named_reference`, or the measurement in a safetensors file."""
    name = str(name)
    return ExactEffects.load(name) if name.endswith(".safetensors") else named_reference(name)


def named_reference(name: str) -> Reference | ExactEffects:
    """The published list or shipped measurement of this name; never a file, so that a name can come from anywhere."""
    if name in _published():
        return _published()[name]
    measured = shipped_measured()
    if name in measured:
        return measured[name]
    raise InputError(f"unknown reference {name!r}: there are {', '.join(reference_names())}")


def reference_names(task: str | None = None, model: str | None = None) -> list[str]:
    """Names of the published lists and the shipped measurements, of one task or model if given."""
    known: list[Reference | ExactEffects] = [*_published().values(), *shipped_measured().values()]
    wanted = None if model is None else canonical_model(model)
    return [r.name for r in known if task in (None, r.task) and wanted in (None, canonical_model(r.model))]


def reference_for(task_name: str, model_spec: str) -> list[Reference | ExactEffects]:
    """Every reference that applies to a task on a model, published ones first; often none."""
    return [load_reference(name) for name in reference_names(task_name, model_spec)]


def canonical_model(model: str) -> str:
    """One spec for all under which the same model of a published list is loaded."""
    lowered = model.strip().lower()
    if lowered.startswith(f"{_WITH_FOLDER}:"):  # the same from a folder of one's own
        return _WITH_FOLDER
    return _ALIASES.get(lowered, lowered)


@cache
def _published() -> dict[str, Reference]:
    value = read_json(Path(__file__).parent / "data" / "published.json")
    return {name: _from_entry(name, entry) for name, entry in value["references"].items()}


def _from_entry(name: str, entry: dict) -> Reference:
    heads = {site: role for role, sites in entry["roles"].items() for site in sites}
    groups = entry["roles"] | entry.get("groups", {}) | {"heads": list(heads)}
    groups |= {"input": ["input"], "logits": ["logits"]}
    as_given = {key: entry[key] for key in ("task", "model", "n_layers", "n_heads", "citation", "note")}
    return Reference(name=name, heads=heads, edges=_expand(entry.get("rules", []), groups), **as_given)


def _expand(rules: list, groups: dict[str, list[str]]) -> tuple[tuple[str, str, str | None], ...]:
    """Edges between all members of two groups, where the sender comes before the receiver."""
    edges = {
        (sender, receiver, into): None
        for sending, receiving, letters in rules
        for sender in groups[sending]
        for receiver in groups[receiving]
        if _depth(sender) < _depth(receiver)
        for into in letters or [None]
    }
    return tuple(edges)


def _depth(node: str) -> tuple[float, int]:
    """(layer, 0 for heads or 1 for MLPs): a head reaches the MLP of its own layer, but no head there."""
    if node == "input":
        return (-1.0, 0)
    if node == "logits":
        return (float("inf"), 0)
    site = parse_site(node)
    return (float(site.layer), int(site.kind == "mlp"))
