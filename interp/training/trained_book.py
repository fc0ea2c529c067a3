"""A codebook as it is trained: at its site it also measures itself."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bottlenecks import Codebook, Codes
from interp.bottlenecks.codes import count_codes
from interp.bottlenecks.watched_book import WatchedBook

NEWEST = 0.05
"""Share of the newest batch in the running means."""
MEASURES = ("variance", "usual_variance", "gain")
"""The running means, each [group]: part of a run's state."""


class TrainedBook(WatchedBook):
    """The book in everything, for :func:`~interp.bottlenecks.attach.attach`, with a loss that knows no units.

    *The gradient through a book.* Straight through, a book would pass on all of the gradient to what comes to it, as if
    what it passes on forward were what came. It is not: where it explains a share g of the variance, what it passes
    on moves, in the mean over vectors, by g for each unit that what comes to it moves (the linear part of a
    quantiser; for normal vectors E[∇Q] = Cov(Q, x) Σ⁻¹, and Cov(Q, x) = g Σ in the trace where codes are
    the means of their vectors: Bussgang 1952). So g of the gradient is passed on, a running mean for each group.

    Args:
        alone: train it on its own error only: no gradient goes on to the rest of the model.
        joint: the model is trained too. All of the gradient is passed on then, as published, and the codes of the first
            position are trained as the others are. In a frozen model what comes there is the same in every text as long
            as its codes are, so they are held (:attr:`anchors`, :meth:`hold`).

    Attributes:
        anchors: while set, a forward pass puts the codes of the first position where it is.
        x: what came to the site in the last forward pass.
        explained: share of the variance that the codes explained there, averaged over groups, the first position
            left out.
        variance: of what comes to each group, as the book compares vectors, the first position left out; a running
            mean, since some heads hardly vary in most batches and a lot in a few.
        usual_variance: the same as a running geometric mean, which those few batches hardly raise.
        gain: share of the gradient passed on, from 0 to 1.
    """

    def __init__(self, book: Codebook, *, alone: bool, joint: bool = False) -> None:
        super().__init__(book)
        self.alone, self.joint, self.anchors = alone, joint, False
        self.x: Tensor | None = None
        self.explained: Tensor | None = None
        self.variance: Tensor | None = None
        self.usual_variance: Tensor | None = None
        self.gain: Tensor | None = None
        self._live: Tensor | None = None
        self._decoded: Tensor | None = None

    def set_k(self, k: int) -> None:
        """From now on k codes per vector."""
        self.book.config = replace(self.book.config, k=k)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        self._live, self.x = x, x.detach()
        with torch.autocast(x.device.type, enabled=False):  # similarities are float32 always
            if self.anchors:
                self._anchor(x)
            return self.book.encode(x)

    def decode(self, codes: Codes) -> Float[Tensor, "*batch d_in"]:
        self._decoded = self.book.decode(codes)
        if self.alone:
            return self._decoded.detach()
        if self.joint or self.gain is None or not self._live.requires_grad:
            return self._decoded
        gain = self.gain[:, None] if self.config.groups > 1 else self.gain
        # attach() passes all of the gradient straight through; nothing is added to the value
        return self._decoded - (1 - gain) * (self._live - self.x)

    def loss(
        self, x: Float[Tensor, "*batch d_in"], _decoded: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, ""]:
        """Squared error over variance, averaged over groups; both as the book compares vectors.

        Of the codes alone: what is decoded has a gradient to what came before, which has no part in it.
        """
        with torch.autocast(x.device.type, enabled=False):
            n_blocks, n_positions = x.shape[:2]
            shape = (self.config.groups, n_blocks, n_positions, -1, self.config.d_in)
            error = self._compared(x.detach().float() - self._decoded.float()).reshape(shape)
            error = error.square().sum(-1).mean(-1)  # over the heads that share a book
            here = self._compared(x.detach().float()).reshape(shape)[:, :, 1:]
            apart = (here - here.mean((1, 2, 3), keepdim=True)).square().sum(-1)
            self._measure(apart.mean((1, 2, 3)).clamp(min=1e-12), error.detach()[:, :, 1:].mean((1, 2)))
            counted = error if self.joint else error[:, :, 1:]
            return (counted.mean((1, 2)) / self.variance).mean()

    @torch.no_grad()
    def hold(self, ids: Int[Tensor, "block pos *group k"]) -> None:
        """Take the gradient from the codes that the first position has.

        Most heads rest on the first position most of the time. Other positions use its codes too, and if they train
        them, what all heads rest on wanders: z there was 12 to 66 % of its length away after 600 000 tokens.
        """
        held = count_codes(ids[:, :1], self.config.n_codes, self.config.groups) > 0
        self.book.codes.grad[held] = 0

    @property
    def spread(self) -> Float[Tensor, " group"]:
        """Usual standard deviation per coordinate, by which the codes' steps are measured."""
        return (self.usual_variance / self.config.d_in).sqrt()

    @torch.no_grad()
    def _anchor(self, x: Float[Tensor, "block pos *group d_in"]) -> None:
        """Put codes where they are all of the first position, and where no other code can come nearer.

        Of codes taken one after another the first becomes what stands there. If codes have no strength, the one
        nearest to nothing becomes nothing, for the slots after it. Of k most similar codes each becomes a k-th of it.
        """
        book, k, groups = self.book, self.config.k, torch.arange(self.config.groups, device=x.device)
        here = book.rows(x[:1, :1])
        chosen = book.encode(x[:1, :1]).ids.long().reshape(self.config.groups, k)
        if self.config.selection == "cosine":
            book.codes[groups[:, None], chosen] = (here / k).to(book.codes.dtype)
            return
        first = chosen[:, 0]
        book.codes[groups, first] = here[:, 0].to(book.codes.dtype)
        if k > 1 and book.unit_values:
            length = book.comparable(book.codes.float()).norm(dim=-1)
            length[groups, first] = torch.inf
            book.codes[groups, length.argmin(-1)] = 0

    def _measure(self, variance: Float[Tensor, " group"], error: Float[Tensor, " group"]) -> None:
        if self.variance is None:
            self.variance = self.usual_variance = variance
        self.variance = self.variance.lerp(variance, NEWEST)
        self.usual_variance = self.usual_variance.log().lerp(variance.log(), NEWEST).exp()
        explained = 1 - error / self.variance
        self.explained = explained.mean()
        gain = explained.clamp(0, 1)
        self.gain = gain if self.gain is None else self.gain.lerp(gain, NEWEST)

    def _compared(self, x: Tensor) -> Float[Tensor, "group row d_in"]:
        return self.book.comparable(x.reshape(-1, self.config.groups, self.config.d_in).transpose(0, 1))
