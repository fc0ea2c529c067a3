"""The scoring methods there are, by name; a module is loaded when its method is asked for."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from interp.errors import InputError, parse_field
from interp.prompts.user_code import load_object
from interp.scores.method import Method


@dataclass(frozen=True)
class Listed:
    """A method that ships."""

    module: str  # below ``interp.scores``; its function has the method's name
    summary: str  # what it does in a few words
    forwards: int  # what it costs a pair on the default model, in forward passes of one prompt
    edge_forwards: int = 8  # what its edges cost a pair


METHODS: dict[str, Listed] = {
    "adaptive-patching": Listed(
        "adaptive_patching.method",
        "attribution, corrected by exact patches where membership is open; codes say what a head does",
        8,
        26,
    ),
    "attribution": Listed("attribution", "attribution patching: one backward pass", 4),
    "overlap": Listed("overlap", "codes unique to clean prompts, by a discrete SAE", 2, 0),
    "role-overlap": Listed(
        "baselines.role_overlap", "what codes at a role tell of the side, by one small book per head and role", 2
    ),
    "relp": Listed("baselines.relp", "attribution patching by layer-wise relevance propagation (RelP)", 4),
    "gim": Listed("baselines.gim", "attribution patching with gradients corrected for interactions (GIM)", 4),
    "patching": Listed("patching", "activation patching of every component: the reference", 142),
    "nap-ig": Listed("nap_ig", "attribution patching with gradients between corrupt and clean input", 16),
    "nap-ig-activations": Listed("nap_ig", "the same between corrupt and clean activations, layer by layer", 380),
    "atp-star": Listed(
        "baselines.atp_star", "attribution patching with softmax recomputed and layers dropped (AtP*)", 36
    ),
    "eap": Listed("eap", "edge attribution patching, heads by their largest edge", 6),
    "eap-ig": Listed("eap_ig", "the same with gradients between corrupt and clean input", 26),
    "eap-ig-activations": Listed("eap_ig", "the same between corrupt and clean activations, layer by layer", 650),
    "eap-relp": Listed("baselines.relp", "edge attribution patching by relevance propagation (RelP)", 6),
    "eap-gim": Listed("baselines.gim", "edge attribution patching with corrected gradients (GIM)", 6),
    "hisp": Listed("baselines.hisp", "absolute attribution of every pair, normed in each layer", 4),
    "mean-difference": Listed(
        "baselines.mean_difference", "how far a head's mean output moves: no gradient, no codes", 2
    ),
    "random": Listed("baselines.trivial", "a random ranking", 0),
    "layer-index": Listed("baselines.trivial", "later layers first", 0),
    "subnetwork-probing": Listed("baselines.subnetwork_probing", "learned masks that keep the answer", 222),
    "acdc": Listed("baselines.acdc", "greedy pruning of heads or edges, a sweep of its threshold", 470),
    "flow-routes": Listed("baselines.flow_routes", "information flow routes: what END's vector is made of", 2),
    "contextual-decomposition": Listed(
        "baselines.contextual_decomposition", "each head's part of every later activation, followed to the logits", 120
    ),
}
DEFAULT_METHOD = "adaptive-patching"
REFERENCE_METHOD = "patching"  # what references are measured by, and candidates are checked by


def load_method(spec: str | Method | Callable[..., Any]) -> Method:
    """The method that ``spec`` is or names in :data:`METHODS`; or one's own: a function of a
    :class:`~interp.scores.method.Context` that returns :class:`~interp.scores.result.Scores`, plain or with the
    decorator :func:`~interp.scores.method.method`, itself or as ``path/to/file.py:function`` or
    ``package.module:function``."""
    if isinstance(spec, Method):
        return spec
    if not isinstance(spec, str):
        return _made(spec, getattr(spec, "__name__", repr(spec)).replace("_", "-"))
    if spec in METHODS:
        module = importlib.import_module(f"interp.scores.{METHODS[spec].module}")
        return getattr(module, spec.replace("-", "_"))
    if ":" in spec:
        return _made(load_object(spec), spec)
    raise InputError(f"unknown method {spec!r}: choose {', '.join(METHODS)}, or one's own, file.py:function")


def _made(method: Any, name: str) -> Method:
    if isinstance(method, Method):
        return replace(method, name=name)
    if not callable(method) or isinstance(method, type):
        raise InputError(f"{name}: a method is a function of one Context, not {type(method).__name__}")
    return Method(name, method)


def method_config(
    method: str | Method | Callable[..., Any], task: str, options: dict[str, str], **common: float | int
) -> Any:
    """A method's config for a task from ``key=value`` texts, each turned into the type of the config's default; of
    ``common`` settings those that this one lacks are left out."""
    method = load_method(method)
    known = {field.name: field for field in fields(method.config)}
    values = {key: value for key, value in common.items() if key in known}
    for key, text in options.items():
        if key not in known:
            raise InputError(f"method {method.name!r} has no option {key!r}: it has {', '.join(known)}")
        values[key] = parse_field(key, text, known[key])
    return method.config(**{**method.task_defaults(task), **values})


def with_mlps(method: str | Method | Callable[..., Any], config: Any) -> Any:
    """A method's config that lets MLPs be members, if it scores them."""
    method = load_method(method)
    if not method.scores_mlps:
        others = ", ".join(name for name in METHODS if load_method(name).scores_mlps)
        raise InputError(f"mlps: method {method.name!r} scores heads alone; choose one of {others}")
    return replace(config, mlps=True) if hasattr(config, "mlps") else config
