"""Every head on one pair of prompts: where it attends and what it writes at END.

One forward pass of two rows, the clean and the corrupt prompt, gives all of it for all heads, so that going from head
to head runs nothing.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.metric import task_metric
from interp.activations.stream import end_logits
from interp.models import Model, model_device
from interp.models.final_norm import FinalNorm
from interp.models.wiring import Wiring
from interp.scores.head_codes import SIDES
from interp.tasks.errors import InputError
from interp.tasks.pairs import Metric, PromptPair

LONGEST = 128
"""Tokens up to which whole attention patterns are kept; of longer prompts the row of END."""


@dataclass(frozen=True)
class PairView:
    """What :func:`view_pair` read. Sides are ``clean`` and ``corrupt``.

    Attributes:
        metric: the task metric on either side.
        patterns: of all queries, or of END alone for prompts of more than :data:`LONGEST` tokens.
        written: what each head adds at END, after the final norm frozen at that prompt's scale; ``None`` where it is
            not known what heads add to the residual stream.
    """

    pair: PromptPair
    metric: tuple[float, float]
    patterns: Float[np.ndarray, "side layer head query key"]
    written: Float[Tensor, "side layer head d_model"] | None
    norm: FinalNorm

    @property
    def nbytes(self) -> int:
        return self.patterns.nbytes + (0 if self.written is None else self.written.nbytes)

    def tokens(self, side: str) -> tuple[int, ...]:
        return self.pair.clean_tokens if side == "clean" else self.pair.corrupt_tokens

    def pattern(self, side: str, layer: int, head: int) -> Float[np.ndarray, "query key"]:
        return self.patterns[SIDES.index(side), layer, head]

    def logits(self, side: str, layer: int, head: int) -> Float[Tensor, " d_vocab"]:
        """What the head adds to every token's logit directly; constant terms of norm and unembedding left out.

        Raises:
            InputError: it is not known (:attr:`written`).
        """
        if self.written is None:
            raise InputError(
                "what heads write is not known: their outputs do not add up to this model's residual stream"
            )
        return self.written[SIDES.index(side), layer, head] @ self.norm.unembedding

    def direct(self, side: str, layer: int, head: int) -> tuple[float, float]:
        """What the head adds directly to the answers' mean logit, and to that of the wrong answers."""
        logits = self.logits(side, layer, head)
        right, wrong = (logits[list(ids)].mean() for ids in (self.pair.answers, self.pair.wrong_answers))
        return float(right), float(wrong)


@torch.no_grad()
def view_pair(model: Model, pair: PromptPair, metric: Metric) -> PairView:
    """Run both prompts of a pair once, as two rows of one batch.

    Raises:
        InputError: prompts longer than the model's context, or logits that are not finite.
    """
    norm, wiring = FinalNorm.of(model), Wiring.of(model)
    length = len(pair.clean_tokens)
    if length > model.cfg.n_ctx:
        raise InputError(f"prompts of {length} tokens: the model reads at most {model.cfg.n_ctx}")
    tokens = torch.tensor([pair.clean_tokens, pair.corrupt_tokens], device=model_device(model))
    rows = slice(None) if length <= LONGEST else slice(-1, None)
    ends: list[Tensor] = []
    patterns: list[Tensor] = []
    resid: list[Tensor] = []

    def keep_end(z: Tensor) -> None:
        ends.append(z[:, -1].clone())

    def keep_pattern(pattern: Tensor) -> None:
        patterns.append(pattern[:, :, rows].float().cpu())

    def keep_resid(x: Tensor) -> None:
        resid.append(x[:, -1].float().clone())

    layers = range(model.cfg.n_layers)
    hooks = {f"blocks.{layer}.attn.hook_z": keep_end for layer in layers}
    hooks |= {f"blocks.{layer}.attn.hook_pattern": keep_pattern for layer in layers}
    hooks[f"blocks.{layers[-1]}.hook_resid_post"] = keep_resid
    logits = end_logits(model, tokens, hooks)
    if not torch.isfinite(logits).all():
        raise InputError("the model gives NaN or infinite logits on this pair: try --dtype float32")
    written = None
    if wiring.known:
        added = [wiring.added_by_heads(model, layer, z) for layer, z in enumerate(ends)]
        written = torch.stack([norm.direct(x, resid[0][:, None]) for x in added], 1)
    found = task_metric(logits, [pair, pair], metric)
    return PairView(
        pair,
        (float(found[0]), float(found[1])),
        torch.stack(patterns, 1).numpy(),
        written,
        norm,
    )
