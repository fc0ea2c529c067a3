"""Hooks that are direct, scoped and locked, and where a forward begins.

Hooks are global state on a model: a plain forward in one thread would see the edits of another. So every hooked
forward runs inside :func:`hooked`, which holds the model's lock, adds its functions straight to the hook points
(string look-ups cost more than the forward on a small model) under a level of its own, and removes just those.

With a KV cache a hook sees one position at a time and must know which (:func:`forwards_watched`). Without one every
step is a forward from position 0: only who generates can tell what was prompt (:func:`generation_marked`).
"""

import contextlib
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import ScaledResidualBlockBridge

from interp.errors import InputError


def check_model(model: Any) -> None:
    """Raise :class:`InputError` for what is no loaded model, such as the name of one."""
    if not isinstance(model, TransformerBridge):
        raise InputError(f"model {model!r:.60}: load it first, with interp.load_model")


_generations: "weakref.WeakKeyDictionary[TransformerBridge, object]" = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def forwards_watched(model: TransformerBridge, begin: Callable[[int, Tensor | None], None]) -> Iterator[None]:
    """Call ``begin`` before every forward of ``model`` in the body, with how many positions its KV cache holds, from
    which the positions that hooks see are numbered, and the tokens that it reads, [batch, pos], None where it is given
    embeddings."""

    def watch(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        tokens = args[0] if args else kwargs.get("input_ids")
        begin(0 if cache is None else int(cache.get_seq_length()), tokens)

    with model.original_model.register_forward_pre_hook(watch, with_kwargs=True):
        yield


@contextlib.contextmanager
def generation_marked(model: TransformerBridge) -> Iterator[None]:
    """Within the body :func:`running_generation` gives an object of this one generation; holds no lock."""
    outer, _generations[model] = _generations.get(model), object()
    try:
        yield
    finally:
        if outer is None:
            del _generations[model]
        else:  # one generation within another, as what watches a generation may do
            _generations[model] = outer


def running_generation(model: TransformerBridge) -> object | None:
    """What stands for the generation under way, the same in all its forwards; None for a forward by itself."""
    return _generations.get(model)


def model_device(model: nn.Module) -> torch.device:
    """The device of its first parameter: a model is on one."""
    return next(model.parameters()).device


HookFunction = Callable[[Tensor], Tensor | None]
"""Takes the activation; returns its replacement, or ``None`` to leave it."""

_levels = itertools.count(1000)
_locks: "weakref.WeakKeyDictionary[TransformerBridge, threading.RLock]" = weakref.WeakKeyDictionary()
_points: "weakref.WeakKeyDictionary[TransformerBridge, dict[str, HookPoint]]" = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def model_lock(model: TransformerBridge) -> threading.RLock:
    """The lock that every forward with hooks on ``model`` holds; re-entrant, so contexts nest."""
    with _guard:
        return _locks.setdefault(model, threading.RLock())


def hook_point(model: TransformerBridge, name: str) -> HookPoint:
    """The hook point called ``name``; transformer-lens 3.9 would ignore an unknown one without a word."""
    points = _points_of(model)
    if name not in points:
        raise InputError(f"the model has no hook {name!r}")
    return points[name]


def _points_of(model: TransformerBridge) -> dict[str, HookPoint]:
    with _guard:
        points = _points.setdefault(model, {})
        if not points:
            points.update(model.hook_dict)
        return points


def has_hook(model: TransformerBridge, name: str) -> bool:
    """Whether the model has a hook point of this name."""
    return name in _points_of(model)


@contextlib.contextmanager
def hooks_aside(model: TransformerBridge) -> Iterator[None]:
    """The model without any of the hooks in place, which come back; to be used with the model's lock held."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    kept = [(point, kind, getattr(point, kind)) for point in _points_of(model).values() for kind in kinds]
    try:
        for point, kind, hooks in kept:
            setattr(point, kind, type(hooks)())
        yield
    finally:
        for point, kind, hooks in kept:
            setattr(point, kind, hooks)


@contextlib.contextmanager
def as_it_is(model: TransformerBridge, subject: str, remedy: str = "leave that context before") -> Iterator[None]:
    """Hold the model's lock for what has to be by the model without any hooks; waits for those of another thread and
    refuses those of this one. The error begins with ``subject`` and ends with ``remedy``."""
    with model_lock(model):
        # permanent ones belong to the model: by some, transformer-lens 4 fires the points of an MLP (OPT)
        if any(not hook.is_permanent for point in _points_of(model).values() for hook in point.fwd_hooks):
            raise InputError(f"{subject} has to be by the model as it is, and it has hooks: {remedy}")
        yield


@contextlib.contextmanager
def hooked(model: TransformerBridge, functions: Mapping[str, HookFunction]) -> Iterator[None]:
    """Run the body with these functions (hook name -> function) in place, holding the model's lock.

    A function that keeps its tensor for a gradient must also return it: at head-split points the hook sees a
    reshaped view that is off the graph unless it is handed back.
    """
    kept_on_graph = torch.is_grad_enabled()
    points = {name: hook_point(model, name) for name in functions}
    level = next(_levels)
    with model_lock(model):
        try:
            for name, function in functions.items():
                points[name].add_hook(lambda x, hook, f=function: f(x), level=level)  # noqa: ARG005 - its signature
                if kept_on_graph and _is_scaled(model, name):
                    points[name].add_hook(_watch, dir="bwd", level=level)
            yield
        finally:
            for point in points.values():
                point.remove_hooks("both", level=level)


def _is_scaled(model: TransformerBridge, name: str) -> bool:
    """Whether what is handed back at this point goes on only where its values have changed (Granite).

    There the point lies beside the forward, which multiplies a module's output inline. Without a change, what passes
    the point is on no graph, unless a backward hook asks for that.
    """
    block, _, point = name.removeprefix("blocks.").partition(".")
    beside = point in ("hook_attn_out", "hook_mlp_out")
    return beside and isinstance(model.blocks[int(block)], ScaledResidualBlockBridge)


def _watch(tensor: Tensor, *, hook: HookPoint) -> None:
    """Changes nothing."""
