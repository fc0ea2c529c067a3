"""A codebook as it is trained: at its site it also measures itself.

When the model is frozen, codes are put where the first position is, and stay there. What stands there is the same in
every text, and most heads rest on it most of the time. Where other positions trained its codes, what all heads rest on
wandered, by 12 to 66 % of its length over 600 000 tokens (benchmarks/REPORT.md).
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.bottlenecks import Codebook, Codes, Dictionary
from interp.bottlenecks.base import NO_CODE, BottleneckConfig, GroupRows, Vectors, count_codes
from interp.bottlenecks.processes import averaged
from interp.bottlenecks.wrapper import CodebookWrapper

NO_PART = 1e-3  # strength below which a code has no part in a vector, but fills one of the k places


@torch.no_grad()
def place_bos_codes(book: Dictionary, x: Float[Tensor, "block pos *place d_in"]) -> None:
    """Move codes so that they are all of the first position, and so that no other code can come nearer.

    Of codes taken one after another the first becomes what stands there and, if codes have no strength, the one nearest
    to nothing becomes nothing, for the slots after it. Of k most similar codes each becomes a k-th of it. Where heads
    share a book no code is moved: it would take one, or k, for each of them. Nor is one of another kind than codebooks.
    """
    first_rows = book.rows(x[:1, :1])
    if first_rows.shape[1] > 1 or not isinstance(book, Codebook):
        return
    config = book.config
    groups = torch.arange(config.groups, device=x.device)
    chosen = book.encode(x[:1, :1]).ids.long().reshape(config.groups, config.k)
    if config.selection == "cosine":
        book.codes[groups[:, None], chosen] = (first_rows / config.k).to(book.codes.dtype)
        return
    first = chosen[:, 0]
    book.codes[groups, first] = first_rows[:, 0].to(book.codes.dtype)
    if config.k > 1 and book.unit_values:
        length = book.comparable(book.codes.float()).norm(dim=-1)
        length[groups, first] = torch.inf
        book.codes[groups, length.argmin(-1)] = 0


def bos_codes(codes: Codes, config: BottleneckConfig) -> Bool[Tensor, "group code"]:
    """Which codes have a part in the first position, of the codes [block, pos, (place,) k] of some blocks."""
    ids, values = codes.ids[:, :1], codes.values[:, :1]
    return count_codes(ids.masked_fill(values.abs() < NO_PART, NO_CODE), config.n_codes, config.groups) > 0


NEWEST = 0.05  # share of the newest batch in the running means
MEASURES = ("variance", "usual_variance", "gain")  # the running means, each [group]: part of a run's state


class TrainedCodebook(CodebookWrapper):
    """The book in everything, for :func:`~interp.bottlenecks.attach.attach`, with a loss that knows no units.

    *The gradient through a book.* Straight through, a book would pass on all of the gradient to what comes to it, as if
    what it passes on forward were what came. It is not: where it explains a share g of the variance, what it passes
    on moves, in the mean over vectors, by g for each unit that what comes to it moves (the linear part of a
    quantiser; for normal vectors E[∇Q] = Cov(Q, x) Σ⁻¹, and Cov(Q, x) = g Σ in the trace where codes are
    the means of their vectors: Bussgang 1952). So g of the gradient is passed on, a running mean for each group.

    Args:
        alone: train it on its own error only: no gradient goes on to the rest of the model.
        joint: the model is trained too. All of the gradient is passed on then, as published, and the codes of the first
            position are trained as the others are. In a frozen model they are held (:attr:`anchors`, :meth:`hold`).

    Attributes:
        anchors: while set, a forward pass puts the codes of the first position where it is, and holds these.
        held: the codes that take no gradient.
        x, explained: what came to the site in the last forward pass, and the share of its variance that the codes
            explained, averaged over groups, the first position left out.
        variance: of what comes to each group, as the book compares vectors, the first position left out; a running
            mean, since some heads hardly vary in most batches and a lot in a few.
        usual_variance: the same as a running geometric mean, which those few batches hardly raise.
        gain: share of the gradient passed on, from 0 to 1.
        measured: whether there are such means yet.
    """

    def __init__(self, book: Dictionary, *, alone: bool, joint: bool = False) -> None:
        super().__init__(book)
        self.alone, self.joint, self.anchors = alone, joint, False
        self.held: Bool[Tensor, "group code"] = torch.zeros_like(book.counts, dtype=torch.bool)
        self.x: Tensor
        self.explained: Tensor
        self.variance, self.usual_variance, self.gain = book.codes.new_zeros(3, book.config.groups, dtype=torch.float32)
        self.measured = False
        self._live: Tensor
        self._decoded: Tensor

    def set_k(self, k: int) -> None:
        if k != self.config.k:
            self.book.config = replace(self.book.config, k=k)

    def encode(self, x: Vectors) -> Codes:
        self._live, self.x = x, x.detach()
        with torch.autocast(x.device.type, enabled=False):  # similarities are float32 always
            if self.anchors:
                place_bos_codes(self.book, x)
            codes = self.book.encode(x)
        if self.anchors:
            self.held = bos_codes(codes, self.config)
        return codes

    def decode(self, codes: Codes) -> Vectors:
        self._decoded = self.book.decode(codes)
        if self.alone:
            return self._decoded.detach()
        if self.joint or not self.measured or not self._live.requires_grad:
            return self._decoded
        gain = self.gain[:, None] if self.config.groups > 1 else self.gain
        # attach() passes all of the gradient straight through; nothing is added to the value
        return self._decoded - (1 - gain) * (self._live - self.x)

    def loss(self, x: Vectors, _decoded: Vectors) -> Float[Tensor, ""]:
        """Squared error over variance, averaged over groups; both as the book compares vectors.

        Of the codes alone: what is decoded has a gradient to what came before, which has no part in it.
        """
        with torch.autocast(x.device.type, enabled=False):
            n_blocks, n_positions = x.shape[:2]
            shape = (self.config.groups, n_blocks, n_positions, -1, self.config.d_in)
            error = self._compared(x.detach().float() - self._decoded.float()).reshape(shape)
            error = error.square().sum(-1).mean(-1)  # over the heads that share a book
            vectors = self._compared(x.detach().float()).reshape(shape)[:, :, 1:]
            # of the whole batch, where processes share it
            apart = (vectors - averaged(vectors.mean((1, 2, 3), keepdim=True))).square().sum(-1).mean((1, 2, 3))
            missed = error.detach()[:, :, 1:].mean((1, 2))
            self._measure(averaged(apart).clamp(min=1e-12), averaged(missed))
            counted = error if self.joint else error[:, :, 1:]
            return (counted.mean((1, 2)) / self.variance).mean()

    def hold(self) -> None:
        """Take the gradient from the codes that the first position has (:mod:`interp.training.trained_codebook`)."""
        if self.book.codes.grad is not None:
            self.book.codes.grad[self.held] = 0

    @property
    def spread(self) -> Float[Tensor, " group"]:
        """Usual standard deviation per coordinate, by which the codes' steps are measured."""
        return (self.usual_variance / self.config.d_in).sqrt()

    def _measure(self, variance: Float[Tensor, " group"], error: Float[Tensor, " group"]) -> None:
        if not self.measured:
            self.variance = self.usual_variance = variance
        self.variance = self.variance.lerp(variance, NEWEST)
        self.usual_variance = self.usual_variance.log().lerp(variance.log(), NEWEST).exp()
        explained = 1 - error / self.variance
        self.explained = explained.mean()
        gain = explained.clamp(0, 1)
        self.gain = self.gain.lerp(gain, NEWEST) if self.measured else gain
        self.measured = True

    def _compared(self, x: Tensor) -> GroupRows:
        return self.book.comparable(x.reshape(-1, self.config.groups, self.config.d_in).transpose(0, 1))
