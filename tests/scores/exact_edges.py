"""One edge patched exactly, the long way: what edge attribution estimates."""

import torch
from torch import Tensor

from interp.activations.metric import task_metric
from interp.activations.stream import end_logits, run_batch
from interp.models import Model, hooked
from interp.prompts.pairs import PromptPairs


def kept(model: Model, tokens: Tensor, *names: str, hooks: dict | None = None) -> list[Tensor]:
    """What passes at these hooks in one forward."""
    found: dict[str, Tensor] = {}
    keep = {name: lambda x, name=name: found.__setitem__(name, x.clone()) for name in names}
    with torch.no_grad(), hooked(model, hooks or {}), hooked(model, keep):
        model(tokens)
    return [found[name] for name in names]


def sender_difference(model: Model, pairs: PromptPairs, sender: str) -> Tensor:
    """clean − corrupt of what ``input``, a head or an MLP adds to the residual stream, [pair, pos, d_model]."""
    batch = run_batch(model, pairs, tuple(range(len(pairs))))
    if sender == "input":
        name = "blocks.0.hook_resid_pre"
        return kept(model, batch.clean.tokens, name)[0] - kept(model, batch.corrupt.tokens, name)[0]
    layer = int(sender.removeprefix("a").removeprefix("m").split(".")[0])
    if sender.startswith("m"):
        return batch.clean.mlp[layer] - batch.corrupt.mlp[layer]
    head = int(sender.split(".h")[1])
    factor = getattr(model.blocks[layer], "residual_contribution_scale", 1.0)  # Granite's
    weight = factor * model.blocks[layer].attn.W_O[head]
    return (batch.clean.z[layer] - batch.corrupt.z[layer])[:, :, head] @ weight


def metric_with_edge(
    model: Model, pairs: PromptPairs, added: Tensor, receiver: str, into: str | None
) -> Tensor:
    """Metric of the clean prompts when ``added`` joins the residual stream that one input reads, and no other."""
    tokens = torch.tensor([pair.clean_tokens for pair in pairs])

    def add(x: Tensor) -> Tensor:
        return x + added

    if receiver == "logits":
        return _metric(model, pairs, {f"blocks.{model.cfg.n_layers - 1}.hook_resid_post": add})
    layer = int(receiver.removeprefix("a").removeprefix("m").split(".")[0])
    if into is None:
        (mlp,) = kept(
            model, tokens, f"blocks.{layer}.hook_mlp_out", hooks={f"blocks.{layer}.ln2.hook_in": add}
        )
        return _metric(model, pairs, {f"blocks.{layer}.hook_mlp_out": lambda _: mlp})
    head, point = int(receiver.split(".h")[1]), f"blocks.{layer}.attn.hook_{into}"
    (value,) = kept(model, tokens, point, hooks={f"blocks.{layer}.hook_resid_pre": add})
    # keys and values are shared by query heads: only this head's z follows the edge
    (z,) = kept(model, tokens, f"blocks.{layer}.attn.hook_z", hooks={point: lambda _: value})

    def patch(clean: Tensor) -> Tensor:
        clean = clean.clone()
        clean[:, :, head] = z[:, :, head]
        return clean

    return _metric(model, pairs, {f"blocks.{layer}.attn.hook_z": patch})


def exact_edge(
    model: Model, pairs: PromptPairs, sender: str, receiver: str, into: str | None, share: float = 1.0
) -> Tensor:
    """m(clean) − m(clean with the sender's corrupt output in this input alone), for every pair.

    With ``share`` < 1 the sender goes only that part of the way, and the effect is divided by it.
    """
    added = -share * sender_difference(model, pairs, sender)
    return (_metric(model, pairs, {}) - metric_with_edge(model, pairs, added, receiver, into)) / share


def slope_of_edge(
    model: Model, pairs: PromptPairs, sender: str, receiver: str, into: str | None, step: float = 1e-2
) -> Tensor:
    """Change of the metric per unit of the sender's difference joining this input, for every pair."""
    added = step * sender_difference(model, pairs, sender)
    high, low = (metric_with_edge(model, pairs, sign * added, receiver, into) for sign in (1, -1))
    return (high - low) / (2 * step)


def _metric(model: Model, pairs: PromptPairs, hooks: dict) -> Tensor:
    tokens = torch.tensor([pair.clean_tokens for pair in pairs])
    with torch.no_grad():
        return task_metric(end_logits(model, tokens, hooks), list(pairs), pairs.metric)
