"""One edge patched exactly, the long way: what edge attribution estimates."""

import torch
from torch import Tensor

from interp.activations.metric import task_metric
from interp.activations.stream import end_logits, run_batch
from interp.models import Model
from interp.prompts.pairs import PromptPairs
from tests.oracles import kept


class ExactEdges:
    """Edges by sender (``input``, a head or an MLP), receiver (a head, an MLP or ``logits``) and input of a head."""

    def __init__(self, model: Model, pairs: PromptPairs) -> None:
        self.model, self.pairs = model, pairs
        self.batch = run_batch(model, pairs, tuple(range(len(pairs))))
        self.tokens = torch.tensor([pair.clean_tokens for pair in pairs])
        self.clean = self._metric({})

    def effect(self, sender: str, receiver: str, into: str | None, share: float = 1.0) -> Tensor:
        """m(clean) − m(clean with the sender's corrupt output in this input alone), for every pair.

        With ``share`` < 1 the sender goes only that part of the way, and the effect is divided by it.
        """
        added = -share * self.difference(sender)
        return (self.clean - self.metric(added, receiver, into)) / share

    def slope(self, sender: str, receiver: str, into: str | None, step: float = 1e-2) -> Tensor:
        """Change of the metric per unit of the sender's difference joining this input, for every pair."""
        added = step * self.difference(sender)
        high, low = (self.metric(sign * added, receiver, into) for sign in (1, -1))
        return (high - low) / (2 * step)

    def difference(self, sender: str) -> Tensor:
        """clean − corrupt of what the sender adds to the residual stream, [pair, pos, d_model]."""
        clean, corrupt = self.batch.clean, self.batch.corrupt
        if sender == "input":
            clean, corrupt = (kept(self.model, x.tokens, "blocks.0.hook_resid_pre")[0] for x in (clean, corrupt))
            return clean - corrupt
        layer = _layer(sender)
        if sender.startswith("m"):
            return clean.mlp[layer] - corrupt.mlp[layer]
        head = int(sender.split(".h")[1])
        factor = getattr(self.model.blocks[layer], "residual_contribution_scale", 1.0)  # Granite's
        weight = factor * self.model.blocks[layer].attn.W_O[head]
        return (clean.z[layer] - corrupt.z[layer])[:, :, head] @ weight

    def metric(self, added: Tensor, receiver: str, into: str | None) -> Tensor:
        """Of the clean prompts when ``added`` joins the residual stream that one input reads, and no other."""

        def add(x: Tensor) -> Tensor:
            return x + added

        if receiver == "logits":
            return self._metric({f"blocks.{self.model.cfg.n_layers - 1}.hook_resid_post": add})
        block = f"blocks.{_layer(receiver)}"
        if into is None:
            norm = "ln2" if f"{block}.ln2.hook_in" in self.model.hook_dict else "ln1"  # Phi has one
            read = {f"{block}.{norm}.hook_in": add}
            (mlp,) = kept(self.model, self.tokens, f"{block}.hook_mlp_out", hooks=read)
            return self._metric({f"{block}.hook_mlp_out": lambda _: mlp})
        head, point = int(receiver.split(".h")[1]), f"{block}.attn.hook_{into}"
        (value,) = kept(self.model, self.tokens, point, hooks={f"{block}.hook_resid_pre": add})
        # keys and values are shared by query heads: only this head's z follows the edge
        (z,) = kept(self.model, self.tokens, f"{block}.attn.hook_z", hooks={point: lambda _: value})

        def patch(clean: Tensor) -> Tensor:
            clean = clean.clone()
            clean[:, :, head] = z[:, :, head]
            return clean

        return self._metric({f"{block}.attn.hook_z": patch})

    def _metric(self, hooks: dict) -> Tensor:
        with torch.no_grad():
            logits = end_logits(self.model, self.tokens, hooks)
        return task_metric(logits, list(self.pairs), self.pairs.metric)


def _layer(site: str) -> int:
    return int(site.removeprefix("a").removeprefix("m").split(".")[0])
