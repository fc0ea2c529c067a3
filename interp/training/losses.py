"""KL between two models' next-token distributions, and its gradient, without a third table of logits.

What the plain model says of text that comes again every epoch: all of its layers but the last run once.
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models import Model, hooked
from interp.models.partial_forward import starting_at

KEPT = 2**30
"""Bytes of residual streams that are kept; blocks beyond them go through the whole model every time."""


class Teacher:
    """Next-token logits, the same bit for bit whether a block is seen for the first time or again.

    What comes to the last layer is kept, by block, and a batch of which all is there starts at that layer: of
    SmolLM2-135M's forward a fifth to a quarter is left, most of it the unembedding. (On a GPU a block may differ in
    the last digit with the batch that it was first in.)

    Args:
        again: whether blocks come again; nothing is kept otherwise.
    """

    def __init__(self, model: Model, *, again: bool) -> None:
        self.model = model
        self._last = model.cfg.n_layers - 1
        self._room = KEPT if again else 0
        self._resid: dict[bytes, Float[Tensor, "pos d_model"]] = {}

    @torch.no_grad()
    def logits(self, tokens: Int[Tensor, "block pos"]) -> Float[Tensor, "block pos vocab"]:
        """A new tensor, which may be written over."""
        blocks = [block.tobytes() for block in tokens.cpu().numpy()]
        if all(block in self._resid for block in blocks):
            resid = torch.stack([self._resid[block] for block in blocks])
            with starting_at(self.model, self._last, resid):
                return self.model(tokens)
        with hooked(self.model, {f"blocks.{self._last}.hook_resid_pre": partial(self._keep, blocks)}):
            return self.model(tokens)

    def _keep(self, blocks: list[bytes], resid: Float[Tensor, "block pos d_model"]) -> None:
        for block, one in zip(blocks, resid, strict=True):
            size = one.numel() * one.element_size()
            if block not in self._resid and size <= self._room:
                self._resid[block] = one.clone()
                self._room -= size


ROWS = 64
"""Positions at a time: 13 MB a temporary at 49 000 tokens."""


@torch.no_grad()
def kl_and_gradient(
    logits: Float[Tensor, "*batch vocab"], teacher: Float[Tensor, "*batch vocab"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "*batch vocab"]]:
    """KL(teacher ‖ model) in nats, averaged over positions, and its gradient by the model's logits.

    The gradient, (softmax(logits) − softmax(teacher)) / positions, is written over ``teacher``, which is lost: for use
    with ``logits.backward(gradient)``.
    """
    rows, targets = logits.detach().flatten(0, -2), teacher.flatten(0, -2)
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    for some, target in zip(rows.split(ROWS), targets.split(ROWS), strict=True):
        log_q, log_p = some.float().log_softmax(-1), target.float().log_softmax(-1)
        p = log_p.exp()
        total += (p * (log_p - log_q)).sum()
        target.copy_(log_q.exp_().sub_(p).div_(len(rows)))
    return total / len(rows), targets.reshape(logits.shape)
