"""Activation patching: the reference that every other score estimates (:mod:`interp.interventions.effects`).

"Activation patching, noising" in Zhang & Nanda 2023. It measures one component at a time: where a backup wakes up, the
effect understates what the component carries.
"""

from dataclasses import dataclass

from interp.interventions.effects import patch_batches, resid_hooks
from interp.models.sites import components
from interp.scores.method import Context, MethodConfig, method
from interp.scores.result import Scores


@dataclass(frozen=True)
class PatchingConfig(MethodConfig):
    mlps: bool = True  # whether MLPs are patched too
    checkpoint: str | None = None  # file that holds what is done so far; `None` keeps nothing


@method(config=PatchingConfig, most_pairs=100, most_seeds=3)
def patching(context: Context) -> Scores:
    """Score every head (and MLP) by activation patching (module docstring)."""
    model, n_heads = context.model, context.model.cfg.n_layers * context.model.cfg.n_heads
    sites = components(model, mlps=context.config.mlps)
    effects, forwards = patch_batches(
        model,
        context.pairs,
        sites,
        context.batches(share=0.0, hooks=resid_hooks(model)),
        checkpoint=context.config.checkpoint,
        progress=context.steps(len(context.pairs) * len(sites)),
    )
    context.forwards += forwards
    heads = effects[:, :n_heads].reshape(len(context.pairs), model.cfg.n_layers, model.cfg.n_heads)
    return Scores.from_pairs(heads, effects[:, n_heads:] if len(sites) > n_heads else None, exact=True)
