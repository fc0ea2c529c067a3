"""Reference circuits: what a discovery is judged against, under one name each.

Published lists (``ioi/wang`` …) are data in ``data/published.json``; papers disagree about the same
circuit, so every list keeps its own name and an AUC is meaningless without it. Measured references are exact
effects of every head, see :mod:`interp.circuits.exact_effects`.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from interp.circuits.exact_effects import ExactEffects, shipped_measured
from interp.errors import InputError
from interp.files import read_json
from interp.models import Model
from interp.models.sites import parse_site
from interp.planted.models import planted_truth

FORMAT = 1
_DATA = files("interp.circuits") / "data"

_ALIASES = {
    "gpt2-small": "gpt2",
    "openai-community/gpt2": "gpt2",
    "neelnanda/attn_only_4l512w_c4_code": "attn-only-4l",
}
"""Other specs under which a model of a published list is loaded."""
_WITH_FOLDER = "attn-only-4l"


@dataclass(frozen=True)
class Reference:
    """One published circuit.

    Attributes:
        heads: site (``a9.h9``) -> role, as the source groups them (``unnamed`` where it gives no role).
        edges: (sender, receiver, into), with ``into`` one of q, k, v for heads and ``None`` for MLPs and
            the logits. Senders and receivers are sites, ``input`` (the embedding) and ``logits``. Empty where
            none was published.
    """

    name: str
    task: str
    model: str
    n_layers: int
    n_heads: int
    heads: dict[str, str]
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
    truth = planted_truth(name)
    return Reference(
        name=f"{name}/written",
        task=name,
        model=name,
        n_layers=model.cfg.n_layers,
        n_heads=model.cfg.n_heads,
        heads=truth.heads,
        edges=truth.edges,
        citation="written into the weights",
        note="",
    )


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
    known = [*_published().values(), *shipped_measured().values()]
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
    value = read_json(_DATA / "published.json")
    return {name: _from_entry(name, entry) for name, entry in value["references"].items()}


def _from_entry(name: str, entry: dict) -> Reference:
    heads = {site: role for role, sites in entry["roles"].items() for site in sites}
    groups = {
        **entry["roles"],
        **entry.get("groups", {}),
        "heads": list(heads),
        "input": ["input"],
        "logits": ["logits"],
    }
    return Reference(
        name=name,
        task=entry["task"],
        model=entry["model"],
        n_layers=entry["n_layers"],
        n_heads=entry["n_heads"],
        heads=heads,
        edges=_expand(entry.get("rules", []), groups),
        citation=entry["citation"],
        note=entry["note"],
    )


def _expand(rules: list, groups: dict[str, list[str]]) -> tuple[tuple[str, str, str | None], ...]:
    """Edges between all members of two groups, where the sender comes before the receiver."""
    edges: dict[tuple[str, str, str | None], None] = {}
    for sending, receiving, letters in rules:
        for sender in groups[sending]:
            for receiver in groups[receiving]:
                if _depth(sender) < _depth(receiver):
                    for into in letters or [None]:
                        edges[sender, receiver, into] = None
    return tuple(edges)


def _depth(node: str) -> tuple[float, int]:
    """(layer, 0 for heads or 1 for MLPs): a head reaches the MLP of its own layer, but no head there."""
    if node == "input":
        return (-1.0, 0)
    if node == "logits":
        return (float("inf"), 0)
    site = parse_site(node)
    return (float(site.layer), int(site.kind == "mlp"))
