"""Subnetwork probing: learn which heads can be replaced by their corrupt output at little cost to the answer.

Cao, Sanh & Rush 2021 (arXiv 2104.03514), as in ACDC's comparison (Conmy et al. 2023, appendix D.1).

1. Every head (and MLP) u gets a hard-concrete mask m_u, open with probability .9 at first: a random number in [0, 1]
   that is exactly 0 or 1 with some probability, yet has a gradient (Louizos, Welling & Kingma 2018, arXiv 1712.01312).
   With u uniform, s = σ((logit(u) + log α) / β), stretched to [γ, ζ] and clamped to [0, 1].
2. A forward on the clean prompts uses m_u z_u + (1 − m_u) z'_u, z the value it has there, z' that of the corrupt run,
   which is cached once. One draw of the masks a step, shared by the batch.
3. Adam minimises KL(model ‖ masked model) at END (or minus the task metric) + λ · mean P(m > 0).
4. score(u) = E[m_u] at the end, in [0, 1]. The comparison rounds it and sweeps λ for a curve; here it ranks.

Masks belong to the set of prompts, so there are no per-pair scores, and they depend on the seed, λ and the number of
steps. Cost: a forward and a backward of ``batch_size`` pairs a step; published runs take 3,000 epochs with rate .001,
the defaults here a tenth of that with a larger rate.

When it misleads: λ decides how many heads survive, so compare ranks, not values; of heads that can replace each
other some may be left, and which is chance; ``metric="task"`` closes the masks of heads that work against the answer.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor

from interp.activations.metric import Divergence, DivergenceKind
from interp.activations.stream import BATCH_SIZE, FORWARD_AND_BACKWARD, Consumer, PairBatch, end_logits
from interp.models import Model, has_mlps
from interp.prompts.pairs import PromptPairs
from interp.scores.gradients import output_hooks
from interp.scores.method import Context, MethodConfig, method
from interp.scores.result import Scores

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
_NODES = 200


def sample(log_alpha: Float[Tensor, "*any"], generator: torch.Generator, eps: float = 1e-6) -> Float[Tensor, "*any"]:
    """One draw of every mask, differentiable in ``log_alpha``."""
    u = torch.rand(log_alpha.shape, generator=generator).to(log_alpha).clamp(eps, 1 - eps)
    return (torch.sigmoid((u.logit() + log_alpha) / BETA) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(log_alpha: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """P(mask > 0) = σ(log α − β log(−γ/ζ)): what the sparsity penalty counts."""
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def mean(log_alpha: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """E[mask] = ∫₀¹ P(mask > t) dt with P(mask > t) = σ(log α − β logit((t − γ)/(ζ − γ))), by the midpoint rule.

    Strictly rising in ``log_alpha``: unlike the clamped estimate that is usual at test time it has no ties at 0 and 1.
    """
    t = (torch.arange(_NODES).to(log_alpha) + 0.5) / _NODES
    cut = ((t - GAMMA) / (ZETA - GAMMA)).logit()
    return torch.sigmoid(log_alpha[..., None] - BETA * cut).mean(-1)


def log_alpha_of(probability: float) -> float:
    """The log α whose mask is open with this probability."""
    return math.log(probability / (1 - probability)) + BETA * math.log(-GAMMA / ZETA)


OPEN_AT_FIRST = 0.9


@dataclass(frozen=True)
class SubnetworkProbingConfig(MethodConfig):
    steps: Annotated[int, Ge(1)] = 300  # of Adam, each on one batch of pairs, in turn
    lr: Annotated[float, Gt(0)] = 0.05  # learning rate
    sparsity: Annotated[float, Ge(0)] = 1.0  # λ, in nats (`kl`) or units of the metric (`task`)
    metric: DivergenceKind = "kl"  # `kl`, or `task`: minus the task metric
    mlps: bool = False  # whether MLPs are masked too; otherwise they are live
    seed: int = 0  # of the masks' noise
    batch_size: int = BATCH_SIZE  # pairs per step


# by batch, as a step of its optimizer is one
@method(config=SubnetworkProbingConfig, by_batch=True, most_pairs=10, most_seeds=3)
def subnetwork_probing(context: Context) -> Scores:
    """Score heads by learned masks (module docstring)."""
    masked = _Masked(context.model, context.pairs, context.config)
    context.run(masked, share=0.0)
    context.forwards += masked.forwards
    heads, mlps = masked.by_component(mean(train(masked, context)).double())
    return Scores(heads.numpy(), mlps=mlps.numpy() if masked.mlps else None, signed=False)


class _Masked(Consumer):
    """Keeps the corrupt run and the untouched answer; then a loss for given masks."""

    def __init__(self, model: Model, pairs: PromptPairs, config: SubnetworkProbingConfig) -> None:
        self.model, self.divergence = model, Divergence(config.metric, pairs.metric)
        self.layers, self.n_heads = model.cfg.n_layers, model.cfg.n_heads
        self.mlps = config.mlps and has_mlps(model)
        self.size = self.layers * (self.n_heads + self.mlps)  # masks: heads in reading order, then MLPs
        self.batches: list[tuple[PairBatch, Tensor]] = []
        self.forwards = 0.0

    def update(self, batch: PairBatch) -> None:
        with torch.no_grad():
            self.batches.append((batch, end_logits(self.model, batch.clean.tokens)))
        self.forwards += len(batch.indices)

    def by_component(self, masks: Float[Tensor, " mask"]) -> tuple[Tensor, Tensor]:
        """Those of heads, [layer, head], and of MLPs."""
        heads, mlps = masks.split([self.layers * self.n_heads, self.layers * self.mlps])
        return heads.view(self.layers, self.n_heads), mlps

    def damage(self, mask: Float[Tensor, " mask"], number: int) -> Float[Tensor, ""]:
        """Mean divergence of a batch's answers from the untouched model's, differentiable in ``mask``."""
        batch, untouched = self.batches[number]
        heads, mlps = self.by_component(mask.to(untouched))
        # an MLP without a mask is live
        gates, corrupt = [*heads[:, :, None], *mlps], [*batch.corrupt.z, *batch.corrupt.mlp]
        parts = zip(output_hooks(self.model), gates, corrupt, strict=False)
        hooks = {name: lambda x, g=gate, out=output: g * x + (1 - g) * out for name, gate, output in parts}
        logits = end_logits(self.model, batch.clean.tokens, hooks)
        return self.divergence(untouched, logits, batch.pairs).mean()


def train(masked: _Masked, context: Context) -> Float[Tensor, " mask"]:
    """Fit the masks and return log α."""
    config = context.config
    generator = torch.Generator().manual_seed(config.seed)
    log_alpha = torch.full((masked.size,), log_alpha_of(OPEN_AT_FIRST), requires_grad=True)
    optimiser = torch.optim.Adam([log_alpha], lr=config.lr)
    for step in range(config.steps):
        number = step % len(masked.batches)
        with torch.enable_grad():
            mask = sample(log_alpha, generator)
            loss = masked.damage(mask, number) + config.sparsity * open_probability(log_alpha).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        context.forwards += FORWARD_AND_BACKWARD * len(masked.batches[number][0].indices)
        context.report_progress((step + 1) / config.steps)
    return log_alpha.detach()
