"""How far steering moves each step of a text that was written: KL(steered ‖ plain) of the next token.

The text is read again as a whole, once with the codes edited as they were while it was written and once without
(teacher forcing), so that every step is compared after the same words. At temperature 1, whatever the text was sampled
at.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.metric import kl_divergence
from interp.bottlenecks.base import Bottleneck
from interp.models import Model, model_device
from interp.steering.edits import CodeEdit
from interp.steering.steer import Where, columns_of, steer


@torch.no_grad()
def step_divergences(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    edits: Sequence[CodeEdit],
    prompt: Sequence[int],
    new: Sequence[Sequence[int]],
    *,
    positions: Where = "generated",
    share: float | int = 1.0,
    seed: int = 0,
    error_term: bool = True,
) -> list[Float[np.ndarray, " token"]]:
    """KL(steered ‖ plain) in nats at the step that made each new token; one list for each text.

    Two forward passes over all texts. The arguments are those of :func:`~interp.steering.steer`, for which the texts
    are the rows of one batch: rows that no edit names come out as 0, but for ``error_term=False``, where all rows pass
    through the codebooks.

    Args:
        prompt: token ids that every text begins with.
        new: of each text, the token ids that were added.
    """
    longest = max(map(len, new))
    if longest == 0:
        return [np.zeros(0) for _ in new]
    # padding on the right is seen by no earlier position; the last token makes no new one
    rows = [[*prompt, *row, *[prompt[-1]] * (longest - len(row))][:-1] for row in new]
    tokens = torch.tensor(rows, device=model_device(model))
    columns = columns_of(positions, len(prompt))
    begin = len(prompt) - 1
    within = steer(model, codebooks, edits, positions=columns, share=share, seed=seed, error_term=error_term)
    with within:
        steered = model(tokens)[:, begin:]
    found = _divergence(steered, model(tokens)[:, begin:]).cpu().numpy()
    return [found[i, : len(row)].astype(np.float64) for i, row in enumerate(new)]


def _divergence(
    steered: Float[Tensor, "text pos vocab"], plain: Float[Tensor, "text pos vocab"]
) -> Float[Tensor, "text pos"]:
    parts = []
    for mine, theirs in zip(steered, plain, strict=True):  # a text at a time: vocabularies are large
        parts.append(kl_divergence(mine.float().log_softmax(-1), theirs.float().log_softmax(-1)))
    return torch.stack(parts)
