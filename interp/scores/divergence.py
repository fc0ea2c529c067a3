"""How far the answer at END has moved: KL divergence from the untouched model, or the fall of the task metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from interp.activations.metric import kl_divergence, task_metric
from interp.tasks.pairs import Metric, PromptPair

DivergenceKind = Literal["kl", "task"]


@dataclass(frozen=True)
class Divergence:
    """
    Attributes:
        kind: ``kl``: KL(untouched ‖ changed) of the next token, in nats, never negative. ``task``: metric of the
            untouched model less that of the changed one; negative where the change helps, so a component that works
            against the answer counts as useless.
    """

    kind: DivergenceKind
    metric: Metric

    def __call__(
        self,
        untouched: Float[Tensor, "batch d_vocab"],
        changed: Float[Tensor, "batch d_vocab"],
        pairs: Sequence[PromptPair],
    ) -> Float[Tensor, " batch"]:
        """Divergence of each row, differentiable in ``changed``."""
        if self.kind == "task":
            return task_metric(untouched, pairs, self.metric) - task_metric(changed, pairs, self.metric)
        return kl_divergence(untouched.float().log_softmax(-1), changed.float().log_softmax(-1))
