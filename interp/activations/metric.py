"""The task metric as a differentiable function of the logits at END.

How far the answer at END has moved: KL divergence from the untouched model, or the fall of the task metric.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.prompts.pairs import Metric, PromptPair

Logits = Float[Tensor, "batch d_vocab"]


def task_metric(logits: Logits, pairs: Sequence[PromptPair], metric: Metric) -> Float[Tensor, " batch"]:
    """Score each row by its pair's answers; the same answers for clean and corrupt prompts. Units: logits for
    ``logit_diff`` and ``logit_diff_max``, probability in [−1, 1] for ``prob_diff``.

    Raises :class:`InputError` for NaN or infinite scores, as of a patch that overflows float16.
    """
    values = _scored(logits, pairs, metric)
    if not bool(torch.isfinite(values).all()):
        raise InputError("the model gives NaN or infinite logits on these prompts: try --dtype float32")
    return values


def kl_divergence(log_p: Float[Tensor, "*any d_vocab"], log_q: Float[Tensor, "*any d_vocab"]) -> Float[Tensor, "*any"]:
    """KL(p ‖ q) in nats, from log-probabilities; never below 0, which rounding could make that of equals."""
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0)


def _scored(logits: Tensor, pairs: Sequence[PromptPair], metric: Metric) -> Float[Tensor, " batch"]:
    # float32: a bfloat16 logit of 20 is only exact to 1/16
    values = logits.float().softmax(-1) if metric == "prob_diff" else logits.float()
    right, right_mask = _gather(values, [pair.answers for pair in pairs])
    wrong, wrong_mask = _gather(values, [pair.wrong_answers for pair in pairs])
    if metric == "prob_diff":
        return (right * right_mask).sum(-1) - (wrong * wrong_mask).sum(-1)
    best = (right * right_mask).sum(-1) / right_mask.sum(-1)
    if metric == "logit_diff":
        return best - (wrong * wrong_mask).sum(-1) / wrong_mask.sum(-1)
    return best - wrong.masked_fill(~wrong_mask, float("-inf")).amax(-1)


def preferred_answers(logits: Float[Tensor, "row d_vocab"], pairs: Sequence[PromptPair]) -> Int[Tensor, " row"]:
    """The token of highest logit among each pair's answers and wrong answers, the first where several have it."""
    every = [(*pair.answers, *pair.wrong_answers) for pair in pairs]
    values, mask = _gather(logits.detach().float(), every)
    best = values.masked_fill(~mask, float("-inf")).argmax(-1)
    return _padded(every, logits.device).gather(-1, best[:, None])[:, 0]


def _padded(ids: list[tuple[int, ...]], device: torch.device) -> Int[Tensor, "row width"]:
    """Each row's ids, its first one behind them."""
    width = max(len(row) for row in ids)
    return torch.tensor([[*row, *[row[0]] * (width - len(row))] for row in ids], device=device)


def _gather(values: Tensor, ids: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Values at each row's own ids, padded to the longest row, and the mask of real ones."""
    index = _padded(ids, values.device)
    lengths = torch.tensor([len(row) for row in ids], device=values.device)
    mask = torch.arange(index.shape[1], device=values.device) < lengths[:, None]
    return values.gather(-1, index), mask


DivergenceKind = Literal["kl", "task"]


@dataclass(frozen=True)
class Divergence:
    # ``kl``: KL(untouched ‖ changed) of the next token, in nats, never negative. ``task``: metric of the untouched
    # model less that of the changed one; negative where the change helps, so a component that works against the answer
    # counts as useless
    kind: DivergenceKind
    metric: Metric

    def __call__(self, untouched: Logits, changed: Logits, pairs: Sequence[PromptPair]) -> Float[Tensor, " batch"]:
        """Divergence of each row, differentiable in ``changed``."""
        if self.kind == "task":
            return task_metric(untouched, pairs, self.metric) - task_metric(changed, pairs, self.metric)
        return kl_divergence(untouched.float().log_softmax(-1), changed.float().log_softmax(-1))
