"""Edge attribution among chosen components: which output feeds which query, key, value or MLP input.

Edge attribution patching (Syed et al. 2023, arXiv 2310.10348), restricted to the components of a circuit:

    score(u → v) = Σ_pairs Σ_positions (z_u − z'_u) W_O,u · ∂m/∂x_v   (mean over pairs; positive = it helps)

with x_v the residual stream as v's query, key, value or MLP reads it, *before* its norm. The gradient is taken in
two exact steps: ∂m/∂z_v from one whole backward pass, then from z_v to x_v within v's own layer, where the residual
stream is a leaf and query, key and value are followed one at a time. Doing so per *query* head keeps heads apart
that share keys and values (grouped-query attention), where a gradient at the shared key would mix them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.stream import BATCH_SIZE, PairBatch, equal_length_batches, run_batch
from interp.models import Model, Site, hooked
from interp.models.hooks import has_hook
from interp.scores.result import EdgeScore
from interp.tasks.pairs import PromptPairs


def edge_attribution(
    model: Model, pairs: PromptPairs, sites: Sequence[Site], *, batch_size: int = BATCH_SIZE
) -> tuple[EdgeScore, ...]:
    """Score every directed edge among ``sites`` (heads and MLPs), largest absolute score first."""
    sites = sorted(sites, key=_order)
    if not sites:
        return ()
    totals: dict[tuple[str, str, str | None], float] = {}
    for indices in equal_length_batches(pairs, batch_size):
        batch = run_batch(model, pairs, indices, gradients=True)
        written = {site: _written_difference(model, batch, site) for site in sites}
        local = _LocalGraphs(model, batch, sites)
        for receiver in sites:
            senders = [site for site in sites if _reaches(model, site, receiver)]
            if not senders:
                continue
            for into, gradient in local.input_gradients(receiver):
                for sender in senders:
                    key = (str(sender), str(receiver), into)
                    totals[key] = totals.get(key, 0.0) + (written[sender] * gradient).sum().item()
    edges = [EdgeScore(*key, score=total / len(pairs)) for key, total in totals.items()]
    return tuple(sorted(edges, key=lambda edge: -abs(edge.score)))


def _order(site: Site) -> tuple:
    return (site.layer, site.kind == "mlp", site.head or 0)


def _reaches(model: Model, sender: Site, receiver: Site) -> bool:
    """Whether the sender's output is in the residual stream that the receiver reads."""
    if sender.layer < receiver.layer:
        return True
    sequential = has_hook(model, f"blocks.{sender.layer}.hook_resid_mid")
    return sequential and sender.layer == receiver.layer and (sender.kind, receiver.kind) == ("attn", "mlp")


def _written_difference(model: Model, batch: PairBatch, site: Site) -> Float[Tensor, "batch pos d_model"]:
    """What the component adds to the residual stream on the clean prompts less what it adds on the corrupt ones."""
    if site.kind == "mlp":
        return (batch.clean.mlp[site.layer] - batch.corrupt.mlp[site.layer]).float()
    difference = batch.clean.z[site.layer][:, :, site.head] - batch.corrupt.z[site.layer][:, :, site.head]
    return (difference @ model.blocks[site.layer].attn.W_O[site.head]).float()


class _LocalGraphs:
    """One clean forward whose graph is cut at every receiver's layer: gradients inside a layer, and no further."""

    def __init__(self, model: Model, batch: PairBatch, sites: Sequence[Site]) -> None:
        self.batch = batch
        self.kept: dict[str, Tensor] = {}
        hooks = {}
        for site in sites:
            prefix = f"blocks.{site.layer}"
            if site.kind == "attn":
                hooks[f"{prefix}.hook_resid_pre"] = self._leaf(f"{prefix}.in")
                for name in "qkvz":
                    hooks[f"{prefix}.attn.hook_{name}"] = self._keep(f"{prefix}.{name}")
            else:
                own_norm = has_hook(model, f"{prefix}.ln2.hook_in")
                entry = f"{prefix}.ln2.hook_in" if own_norm else f"{prefix}.hook_resid_pre"
                hooks[entry] = self._leaf(f"{prefix}.mlp_in" if own_norm else f"{prefix}.in")
                hooks[f"{prefix}.hook_mlp_out"] = self._keep(f"{prefix}.mlp")
        with torch.enable_grad(), hooked(model, hooks):
            model(batch.clean.tokens)

    def input_gradients(self, receiver: Site):
        """Yield (into, gradient of the metric with respect to the residual stream read through that input)."""
        prefix = f"blocks.{receiver.layer}"
        if receiver.kind == "mlp":
            leaf = self.kept.get(f"{prefix}.mlp_in", self.kept.get(f"{prefix}.in"))
            yield None, self._back(self.kept[f"{prefix}.mlp"], leaf, self.batch.mlp_gradient[receiver.layer])
            return
        inputs = [self.kept[f"{prefix}.{name}"] for name in "qkv"]
        z = self.kept[f"{prefix}.z"][:, :, receiver.head]
        gradient = self.batch.z_gradient[receiver.layer][:, :, receiver.head]
        at_inputs = torch.autograd.grad(z, inputs, gradient, retain_graph=True)
        for name, value, arriving in zip("qkv", inputs, at_inputs, strict=True):
            yield name, self._back(value, self.kept[f"{prefix}.in"], arriving)

    @staticmethod
    def _back(output: Tensor, leaf: Tensor, gradient: Tensor) -> Tensor:
        return torch.autograd.grad(output, leaf, gradient, retain_graph=True)[0].float()

    def _leaf(self, name: str):
        def hook(activation: Tensor) -> Tensor:
            self.kept[name] = activation.detach().requires_grad_(True)
            return self.kept[name]

        return hook

    def _keep(self, name: str):
        def hook(activation: Tensor) -> Tensor:
            self.kept[name] = activation
            return activation

        return hook
