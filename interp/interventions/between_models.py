"""Outputs of one model in the place of another's: both of one shape, in contexts of equal length.

An output is what a head or MLP adds behind its own weights: of a head both its z, and what the other W_O makes of it.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.stream import ActivationTape, end_logits
from interp.interventions.patch import Write, patch_hooks
from interp.models import HookFunction, Model, Site, model_device
from interp.models.hooks import has_hook

LogP = Float[Tensor, "context d_vocab"]


class Outputs:
    """What heads and MLPs of a model write in some contexts, by hook; ``gradients`` are those of the KL, once
    :meth:`read` was given the other model's answers."""

    def __init__(self, model: Model, tokens: Int[Tensor, "context pos"], sites: Sequence[Site]) -> None:
        self.model, self.tokens = model, tokens.to(model_device(model))
        self.hooks = list(dict.fromkeys(site.hook for site in sites))
        self.outputs: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}

    def read(self, other: "LogP | None" = None) -> LogP:
        """Log probabilities of what comes next; with the other model's, also the gradient of KL(other ‖ this)."""
        tape = ActivationTape(self.hooks, watch=self.hooks if other is not None else ())
        with torch.set_grad_enabled(other is not None):
            log_p = next_log_p(self.model, self.tokens, _with_gradient(tape.hooks))
            if other is not None:
                (other.exp() * (other - log_p)).sum().backward()
        self.outputs = {hook: tape[hook].detach() for hook in self.hooks}
        self.gradients = tape.gradients
        return log_p.detach()


def next_log_p(
    model: Model, tokens: Int[Tensor, "context pos"], hooks: "dict[str, HookFunction] | None" = None
) -> LogP:
    """Log probabilities of the token that follows each context."""
    return end_logits(model, tokens.to(model_device(model)), hooks or {}).float().log_softmax(-1)


def kl_between(p: LogP, q: LogP) -> float:
    """KL(p ‖ q) in nats, the mean over contexts."""
    return float((p.exp() * (p - q)).sum(-1).mean())


def patched_log_p(model: Model, other: Outputs, sites: Iterable[Site], positions: slice = slice(None)) -> LogP:
    """What a model says next when the other's outputs stand at some sites and positions."""
    writes: dict[str, list[Write]] = {}
    for site in sites:
        output = other.outputs[site.hook]
        if site.head is None:
            writes.setdefault(site.hook, []).append(Write((slice(None), positions), output[:, positions]))
            continue
        z = output[:, positions, site.head]
        writes.setdefault(site.hook, []).append(Write((slice(None), positions, site.head), z))
        behind = f"blocks.{site.layer}.attn.o.hook_out"
        if has_hook(model, behind):
            other_weight, own_weight = (m.blocks[site.layer].attn.W_O[site.head] for m in (other.model, model))
            if not torch.equal(other_weight, own_weight):
                change = z @ (other_weight - own_weight).to(z)
                writes.setdefault(behind, []).append(Write((slice(None), positions), change, add=True))
    return next_log_p(model, other.tokens, patch_hooks(writes))


def _with_gradient(hooks: dict[str, HookFunction]) -> dict[str, HookFunction]:
    """Parameters are frozen: the first output begins the graph."""
    first = next(iter(hooks))
    keep = hooks[first]

    def begin(x: Tensor) -> Tensor | None:
        return keep(x.detach().requires_grad_() if torch.is_grad_enabled() else x)

    return {**hooks, first: begin}
