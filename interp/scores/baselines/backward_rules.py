"""Backward passes by rules of their own, while the forward stays as it is, bit for bit.

A hook passes on the value it was given, on the graph of another: ``y.detach() + (w - w.detach())`` has y's value and
w's gradient. With such hooks in place gradients are what a published method says they are, and every method that is
made of gradients works as before: attribution of heads and MLPs (:mod:`.attribution`), and of edges (:mod:`.eap`). They
are put in place before those methods' own hooks, so that what these see lies behind the rules at the same point.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import reduce
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from interp.activations.stream import Hooks
from interp.errors import InputError
from interp.models import HookFunction, Model, has_mlps
from interp.models.hooks import has_hook
from interp.models.residual_writes import LinearNorm
from interp.scores.attribution import attribution
from interp.scores.eap import at_clean, eap, subsets_of
from interp.scores.method import Context, Method

Result = TypeVar("Result")


def attributed_by(
    rules: Callable[[Context], AbstractContextManager[None]], name: str, config: type, edges_config: type
) -> tuple[Method, Method]:
    """The methods ``name``, which attributes to heads and MLPs, and ``eap-name``, to edges, with gradients by rules."""

    def ruled(function: Callable[[Context], Result]) -> Callable[[Context], Result]:
        def within(context: Context) -> Result:
            with rules(context):
                return function(context)

        return within

    subsets = ruled(lambda context: subsets_of(context, at_clean))
    return (
        Method(name, ruled(attribution.score), config),
        Method(f"eap-{name}", ruled(eap.score), edges_config, subsets=subsets),
    )


def frozen_norms(model: Model) -> Hooks:
    """Every norm's scale is a constant: linear in what it reads; norms of queries and keys, and after layers, too."""
    ends = ".hook_normalized"
    hooks: dict[str, HookFunction] = {}
    for norm in [name.removesuffix(ends) for name in model.hook_dict if name.endswith(ends)]:
        hooks |= _frozen_norm(model, norm)
    return hooks


def _frozen_norm(model: Model, name: str) -> Hooks:
    module = reduce(getattr, name.split("."), model)
    seen: dict[str, Tensor] = {}

    def output(y: Tensor) -> Tensor | None:
        normed, scale = seen.pop("hook_normalized"), seen.pop("hook_scale")
        if not y.requires_grad:
            return None
        gain = LinearNorm.of(module.original_component, normed.shape[-1], y).gain
        return with_gradient_of(y, (normed * (scale / scale.detach()) * gain).reshape(y.shape))

    keep = {f"{name}.{end}": _keeper(seen, end) for end in ("hook_scale", "hook_normalized")}
    return {**keep, f"{name}.hook_out": output}


def shared_mlps(model: Model) -> Hooks:
    """Each MLP neuron's value is shared out among its factors, in proportion.

    A factor f of n gets the coefficient value / f / n: act(g) / g without a gate, half of act(g) · up / g and half of
    act(g) with one.
    """
    hooks: dict[str, HookFunction] = {}
    for layer in range(model.cfg.n_layers * has_mlps(model)):
        factors, kept = _factors(model, layer), dict[str, Tensor]()
        hooks |= {name: _keeper(kept, name) for name in factors}

        def share(value: Tensor, kept: dict[str, Tensor] = kept) -> Tensor | None:
            factors = [kept.pop(name) for name in list(kept)]
            return _shared(value, factors) if value.requires_grad else None

        hooks[f"blocks.{layer}.mlp.hook_post"] = share
    return hooks


def halved_gates(model: Model) -> Hooks:
    """Gate and up-projection of MLPs that have both get half of their gradient each."""
    layers = range(model.cfg.n_layers * has_mlps(model))
    gated = [layer for layer in layers if len(_factors(model, layer)) > 1]
    return {f"blocks.{layer}.mlp.hook_post": _on_graph(halved) for layer in gated}


def _factors(model: Model, layer: int) -> list[str]:
    """Hook points of what a neuron's value is made of: the gate's or only input, and the up-projection if there is one;
    none in an MLP of experts."""
    mlp = f"blocks.{layer}.mlp"
    if not has_hook(model, f"{mlp}.out.hook_in"):
        raise InputError(f"the neurons of {mlp} cannot be reached in the architecture {model.cfg.architecture}")
    names = [f"{mlp}.hook_pre", f"{mlp}.hook_pre_linear"]
    return [name for name in names if has_hook(model, name)]


def _shared(value: Tensor, factors: Sequence[Tensor]) -> Tensor:
    parts = [torch.where(factor == 0, 0.0, value / factor).detach() * factor for factor in factors]
    return with_gradient_of(value, sum(parts[1:], parts[0]) / len(parts))


def halved_heads(model: Model) -> Hooks:
    """Pattern and values get half of their gradient each."""
    return {f"blocks.{layer}.attn.hook_z": _on_graph(halved) for layer in range(model.cfg.n_layers)}


def halved(value: Tensor) -> Tensor:
    """The same numbers; half of the gradient goes on."""
    return with_gradient_of(value, value / 2)


PatternRule = Callable[[Tensor, Tensor], Tensor]
"""Takes attention scores and the pattern that is their softmax; returns the pattern on another graph."""


class AttentionPatterns(TorchFunctionMode):
    """Within the body every softmax over attention scores passes back by a rule; raises :class:`InputError` if there
    was none.

    Its own mode of torch, because some models make their pattern where no hook point is (OPT, GPT-J, the planted ones).
    Attention is where the softmax has four dimensions: batch, head, query, key.
    """

    def __init__(self, rule: PatternRule) -> None:
        super().__init__()
        self.rule, self.found = rule, False

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in _SOFTMAX or result.dim() != 4 or not result.requires_grad:
            return result
        self.found = True
        return self.rule(args[0] if args else kwargs["input"], result)

    def __exit__(self, kind: Any, *error: Any) -> None:
        super().__exit__(kind, *error)
        if kind is None and not self.found:
            raise InputError("attention of this model is no softmax that its gradient can be changed at")


_SOFTMAX = (torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax)


def constant(_scores: Tensor, pattern: Tensor) -> Tensor:
    """A pattern that passes back nothing."""
    return with_gradient_of(pattern, pattern * 0)


def softened(temperature: float) -> PatternRule:
    """A softmax passes back what it would at a higher temperature, but for the factor 1 / T of its derivative: p_T · (g
    − Σ p_T g) with p_T = softmax(scores / T)."""

    def rule(scores: Tensor, pattern: Tensor) -> Tensor:
        return with_gradient_of(pattern, temperature * (scores.to(pattern.dtype) / temperature).softmax(-1))

    return rule


def with_gradient_of(value: Tensor, other: Tensor) -> Tensor:
    """The same numbers as ``value``, on the graph of ``other``."""
    return value.detach() + (other - other.detach()).to(value.dtype)


def _on_graph(rule: HookFunction) -> HookFunction:
    return lambda value: rule(value) if value.requires_grad else None


def _keeper(kept: dict[str, Tensor], name: str) -> HookFunction:
    return lambda value: kept.__setitem__(name, value)
