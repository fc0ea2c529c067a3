"""Edge attribution patching with integrated gradients.

Hanna et al. 2024 (arXiv 2403.17806); "EAP-IG-inputs" and "EAP-IG-activations" in Mueller et al. 2025 (MIB, arXiv
2504.13151). As :mod:`.eap`, but the gradient is a mean over m points of a path from the corrupt to the clean prompt
(:mod:`.gradients`), the clean one included:

    score(u → v) = Σ_positions (z_u − z'_u) · (1/m) Σ_k ∂m/∂x_v |point k

``eap-ig``: the embedded prompt is interpolated, for all edges at once. The input's edges are complete: over all
receivers they add up to m(clean) − m(corrupt) as m grows.
``eap-ig-activations``: the clean prompt runs with the *sender's* layer (all its heads, or its MLP, or the input)
between z' and z, which is the formula; the released code averages every edge over the interpolations of all layers.
Complete for each layer: the edges out of its heads add up to m(clean) − m(clean with all the layer's z corrupt).

When it misleads: points on the path are no prompts; see also :mod:`.eap`, its fold included.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from interp.activations.stream import FORWARD_AND_BACKWARD
from interp.scores import eap
from interp.scores.gradients import EMBEDDED, edge_products
from interp.scores.method import Context, Rank, method
from interp.scores.nap_ig import NAPIGConfig
from interp.scores.result import Scores


@dataclass(frozen=True)
class EAPIGConfig(eap.EAPConfig, NAPIGConfig):
    """The settings of both; of one step it is edge attribution patching."""


def _subsets(context: Context) -> Rank:
    return eap.subsets_of(context, lambda run: input_path(run, context.config.steps))


@method(config=EAPIGConfig, subsets=_subsets, most_pairs=25, most_seeds=10)
def eap_ig(context: Context) -> Scores:
    """Score edges along the path of the input, and heads and MLPs by them (module docstring)."""
    return eap.scored_by_edges(context, lambda run: input_path(run, context.config.steps))


@method(config=EAPIGConfig, most_pairs=10, most_seeds=3)
def eap_ig_activations(context: Context) -> Scores:
    """Score edges along the path of their sender's layer, and heads and MLPs by them (module docstring)."""
    return eap.scored_by_edges(context, lambda run: activation_paths(run, context.config.steps))


def input_path(run: eap.EdgeRun, steps: int) -> eap.Estimated:
    """From gradients at interpolated inputs."""
    products, spent = eap.at_clean(run)
    for receivers in eap.path_points(run, EMBEDDED, run.tape[EMBEDDED], run.tape.corrupt[EMBEDDED], steps):
        products += edge_products(receivers, run.written)
        spent += FORWARD_AND_BACKWARD + eap.WITHIN_LAYERS
    return products / steps, spent


def activation_paths(run: eap.EdgeRun, steps: int) -> eap.Estimated:
    """From gradients where an edge's sender's layer is interpolated."""
    products, spent = eap.at_clean(run)
    for layer, senders, hook, clean, corrupt in _groups(run):
        for receivers in eap.path_points(run, hook, clean, corrupt, steps, layer):
            products += edge_products(receivers, run.written, senders=senders, layer=layer)
            spent += (FORWARD_AND_BACKWARD + eap.WITHIN_LAYERS) * (1 - layer / run.graph.n_layers)
    return products / steps, spent


def _groups(run: eap.EdgeRun) -> Iterator[tuple[int, slice, str, Tensor, Tensor]]:
    """(layer, senders, hook, clean, corrupt) of all that is interpolated in its turn."""
    graph, clean, corrupt = run.graph, run.batch.clean, run.batch.corrupt
    yield 0, slice(0, 1), EMBEDDED, run.tape[EMBEDDED], run.tape.corrupt[EMBEDDED]
    for layer in range(graph.n_layers):
        heads = slice(graph.head_sender(layer, 0), graph.mlp_sender(layer))
        yield layer, heads, f"blocks.{layer}.attn.hook_z", clean.z[layer], corrupt.z[layer]
        if graph.mlps:
            mlp = slice(heads.stop, heads.stop + 1)
            yield layer, mlp, f"blocks.{layer}.hook_mlp_out", clean.mlp[layer], corrupt.mlp[layer]
