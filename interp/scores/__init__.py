"""Scoring methods under one contract: ``method(model, pairs, config, consumers=, progress=) -> Scores``."""

from collections.abc import Callable
from dataclasses import Field, dataclass, fields
from typing import Literal, get_args, get_origin

from interp.models import Model, has_mlps
from interp.scores.attribution import AttributionConfig, attribution
from interp.scores.overlap import PUBLISHED_L1, OverlapConfig, overlap
from interp.scores.patching import PatchingConfig, patching
from interp.scores.result import Cost, EdgeScore, Scores
from interp.tasks.errors import InputError


@dataclass(frozen=True)
class Method:
    """A registered method: its function, its config class, and how many progress steps a number of pairs takes."""

    function: Callable[..., Scores]
    config: type
    steps: Callable[[Model, int], int]
    summary: str
    task_defaults: Callable[[str], dict] = lambda _task: {}
    """Options whose default the method's publication gives per task."""


def _components(model: Model) -> int:
    return model.cfg.n_layers * (model.cfg.n_heads + has_mlps(model))


METHODS: dict[str, Method] = {
    "attribution": Method(
        attribution, AttributionConfig, lambda _model, n: n, "attribution patching: one backward pass"
    ),
    "overlap": Method(
        overlap,
        OverlapConfig,
        lambda _model, n: n,
        "codes unique to clean prompts, by a discrete SAE",
        lambda task: {"l1": PUBLISHED_L1.get(task, OverlapConfig.l1)},
    ),
    "patching": Method(
        patching,
        PatchingConfig,
        lambda model, n: n * _components(model),
        "exact interchange of every component: the reference",
    ),
}
DEFAULT_METHOD = "attribution"


def load_method(name: str) -> Method:
    """The method of this name."""
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}: choose {', '.join(METHODS)}")
    return METHODS[name]


def method_config(name: str, task: str, options: dict[str, str]):
    """A method's config for a task from ``key=value`` texts, each turned into the type of the config's default."""
    method = load_method(name)
    config = method.config
    known = {field.name: field for field in fields(config)}
    values = {}
    for key, text in options.items():
        if key not in known:
            raise InputError(f"method {name!r} has no option {key!r}: it has {', '.join(known)}")
        values[key] = _parse(key, text, known[key])
    return config(**{**method.task_defaults(task), **values})


def _parse(key: str, text: str, field: Field):
    default, allowed = field.default, get_args(field.type) if get_origin(field.type) is Literal else ()
    if allowed and text not in allowed:
        raise InputError(f"option {key}={text!r}: choose {', '.join(allowed)}")
    kind = type(default)
    if default is None or kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"option {key}={text!r}: it is true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"option {key}={text!r}: it is {kind.__name__}") from None


__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "Cost",
    "EdgeScore",
    "Method",
    "Scores",
    "load_method",
    "method_config",
]
