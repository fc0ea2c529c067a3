"""Contextual decomposition (CD-T): follow what one head adds, forward, through every later operation to the logits.

Hsu et al. 2024 (arXiv 2407.00886). Every activation is split into β, which is due to the source head, and γ, the rest.
At the source β = z − z', γ = z' with z' its value on the corrupt prompt (the paper: its mean over a reference set), and
β = 0 everywhere before. score = m(logits) − m(logits − β), the task metric of β itself where the metric is linear.

Rules (:mod:`.decomposition_rules`), with β + γ = the model's own activation after each:

- linear maps: β' = Wβ, biases shared by size; residual sums: added
- LayerNorm, RMSNorm (final norm too): scale frozen at the whole input's, then linear
- rotary positions: linear
- MLP nonlinearity: β' = f(β + γ) − f(γ)
- gated MLP (SwiGLU), which the paper has not: the gate by that rule, gate × value with cross terms halved
- attention, ``attention="frozen"``: the pattern is the model's own and only values are split, as in the released
  code. ``"paper"``: scores β_q·β_k, pattern softmax(β scores), β_z = β pattern × β_v, everything else γ, as in the
  text. ``"shared"`` (ours): the products with cross terms halved, softmax as a game of two players; the only one of the
  three in which a part that changes *queries or keys alone* goes on.

One pass per source head; sources of a chunk share a batch, positions before the first token that differs are
skipped (β is 0 there), and totals are computed once per layer for all. The paper then takes the heads found as targets
of further rounds; here all relevance is to the logits, and no edges are scored.

When it misleads: β is a bookkeeping, not an intervention; what a later head *would* do without the source is not run.
With ``frozen`` and ``paper``, heads that act through patterns (inhibition, previous token) vanish.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.metric import task_metric
from interp.activations.stream import BATCH_SIZE, Consumer, MetricConsumer, PairBatch, Progress, feed
from interp.models import Model, has_mlps, hooked
from interp.models.blockwise import Blockwise, mlp_norm, require_whole_blocks
from interp.models.linear_norm import LinearNorm
from interp.scores import decomposition_rules as rules
from interp.scores.decomposed_layer import AttentionRule, DecomposedLayer, Norms
from interp.scores.percent import percent
from interp.scores.result import Cost, Scores
from interp.tasks.errors import check_fields
from interp.tasks.pairs import Metric, PromptPairs

ROWS = 64
"""Source × pair prompts that pass through a layer together."""


@dataclass(frozen=True)
class ContextualDecompositionConfig:
    """
    Attributes:
        attention: the rule for attention (module docstring).
        batch_size: pairs that share the totals.
    """

    attention: AttentionRule = "shared"
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        check_fields(self)


def contextual_decomposition(
    model: Model,
    pairs: PromptPairs,
    config: ContextualDecompositionConfig = ContextualDecompositionConfig(),
    *,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score heads by contextual decomposition (module docstring).

    Args:
        progress: told hundredths of the work.

    Raises:
        InputError: the model's attention or MLP is not known, or its heads do not add to its residual stream.
    """
    begin = time.perf_counter()
    tell = percent(progress)
    decomposition = Decomposition(model, pairs.metric, len(pairs), config.attention, tell)
    metric = MetricConsumer(len(pairs))
    with decomposition.watching():
        forwards = feed(model, pairs, [decomposition, metric, *consumers], batch_size=config.batch_size)
    return Scores(
        method="contextual-decomposition",
        heads=decomposition.heads.mean(0),
        heads_per_pair=decomposition.heads,
        signed=True,
        cost=Cost(
            forwards + decomposition.forwards, {"contextual-decomposition": time.perf_counter() - begin}
        ),
        config=asdict(config),
        metric_clean=metric.metric_[0],
        metric_corrupt=metric.metric_[1],
        provenance=pairs.provenance(),
    )


class Decomposition:
    """A consumer that decomposes every batch of pairs.

    Attributes:
        heads: [pair, layer, head].
        seen: called after each layer with (layer, β of all sources so far, the whole) at positions that differ.
    """

    needs_gradients = False
    needs_patterns = False
    purpose = "contextual-decomposition"

    def __init__(
        self,
        model: Model,
        metric: Metric,
        n_pairs: int,
        attention: AttentionRule,
        tell: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.model, self.metric, self.attention, self.tell = model, metric, attention, tell
        self.wiring = require_whole_blocks(model, self.purpose)
        self.n_layers, self.n_heads = model.cfg.n_layers, model.cfg.n_heads
        self.heads = np.zeros((n_pairs, self.n_layers, self.n_heads))
        self.forwards, self.done = 0.0, 0
        self.seen: Callable[[int, Tensor, Tensor], None] = lambda _layer, _part, _whole: None
        self._embedded: Tensor | None = None
        self._blocks: dict[int, Blockwise] = {}
        like, d_model = next(model.parameters()), model.cfg.d_model
        self._norms = [
            Norms(
                LinearNorm.of(block.ln1, d_model, like),
                LinearNorm.of(mlp_norm(model, layer), d_model, like) if has_mlps(model) else None,
            )
            for layer, block in enumerate(model.blocks)
        ]
        self._final = LinearNorm.of(model.ln_final, d_model, like)

    def watching(self):
        """The context in which the batches must be run; the clean prompts are run last."""
        return hooked(
            self.model, {"blocks.0.hook_resid_pre": lambda x: setattr(self, "_embedded", x.detach().clone())}
        )

    @torch.no_grad()
    def update(self, batch: PairBatch) -> None:
        n, length = batch.clean.tokens.shape
        if length not in self._blocks:
            self._blocks[length] = Blockwise(self.model, length, self.purpose)
        blocks, whole = self._blocks[length], self._embedded
        differs = (batch.clean.tokens != batch.corrupt.tokens).any(0)
        first = int(differs.nonzero()[0]) if differs.any() else length - 1
        part = whole.new_zeros(self.n_layers * self.n_heads, n, length - first, whole.shape[-1])
        for layer in range(self.n_layers):
            step = DecomposedLayer(blocks, layer, whole, first, self._norms[layer], self.attention)
            for rows in _chunks(layer * self.n_heads, n):
                part[rows] = step.propagate(part[rows])
            active = (layer + 1) * self.n_heads
            part[active - self.n_heads : active] = step.inject(self._sources(batch, layer, first))
            whole = step.whole_out
            self.seen(layer, part[:active], whole[:, first:])
            self.forwards += n * (1 + active * (1 - first / length)) / self.n_layers
            self.tell((self.done + n * (layer + 1) / self.n_layers) / len(self.heads))
        self.done += n
        blocks.check(whole[:, -1], batch.clean.resid_end)
        effects = torch.cat(list(self._effects(part[:, :, -1], whole[:, -1], batch)))
        self.heads[list(batch.indices)] = effects.T.reshape(n, self.n_layers, self.n_heads).cpu().numpy()

    def _sources(
        self, batch: PairBatch, layer: int, first: int
    ) -> Float[Tensor, "head batch later head d_head"]:
        """z − z' of one head of the layer at a time, the other heads 0."""
        difference = (batch.clean.z[layer] - batch.corrupt.z[layer])[:, first:]
        one_head = torch.eye(self.n_heads, device=difference.device, dtype=difference.dtype)
        return difference * one_head[:, None, None, :, None]

    def _effects(
        self,
        part: Float[Tensor, "source batch d_model"],
        whole: Float[Tensor, "batch d_model"],
        batch: PairBatch,
    ) -> Iterator[Float[Tensor, "source batch"]]:
        """m(logits) − m(logits − β) of every source, some sources at a time."""
        normed = self.model.ln_final(whole[:, None])[:, 0]
        logits = self.wiring.logits(self.model, normed[:, None])[:, 0]
        bias = self.wiring.logits(self.model, torch.zeros_like(normed[:1, None]))[0, 0]
        before = task_metric(logits, batch.pairs, self.metric)
        for rows in _chunks(len(part), len(whole)):
            moved = rules.norm(part[rows], whole, normed, self._final)
            moved = rules.share_bias(self.wiring.logits(self.model, moved) - bias, logits, bias)
            without = (logits - moved).flatten(0, 1)
            after = task_metric(without, batch.pairs * len(moved), self.metric)
            yield before - after.view(len(moved), -1)


def _chunks(n_sources: int, n_pairs: int) -> Iterator[slice]:
    """Sources whose prompts pass through a layer together."""
    size = max(1, ROWS // n_pairs)
    for begin in range(0, n_sources, size):
        yield slice(begin, min(begin + size, n_sources))
