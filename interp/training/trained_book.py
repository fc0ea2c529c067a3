"""A codebook as it is trained: at its site it also measures itself."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bottlenecks import Codebook, Codes
from interp.bottlenecks.watched_book import WatchedBook

NEWEST = 0.05
"""Share of the newest batch in the running variance."""
FOLLOWED = 0.1
"""Share of a group's mean error, beyond its usual deviation, that the codes used are moved by after each step."""


class TrainedBook(WatchedBook):
    """The book in everything, for :func:`~interp.bottlenecks.attach.attach`, with a loss that knows no units.

    Args:
        alone: train it on its own error only: no gradient goes on to the rest of the model.
        first: let gradients reach the codes of the first position. In a frozen model what comes there is the same in
            every text and stays so as long as its codes do.

    Attributes:
        x: what came to the site in the last forward pass.
        explained: share of the variance that the codes explained there, averaged over groups, the first position
            left out.
        variance: of what comes to each group, as the book compares vectors, the first position left out; a running
            mean, since some heads hardly vary in most batches and a lot in a few. Part of the run's state.
        usual_variance: the same as a running geometric mean, which those few batches hardly raise. Part of the state.
    """

    def __init__(self, book: Codebook, *, alone: bool, first: bool = False) -> None:
        super().__init__(book)
        self.alone, self.first = alone, first
        self.x: Tensor | None = None
        self.explained: Tensor | None = None
        self.variance: Tensor | None = None
        self.usual_variance: Tensor | None = None
        self._codes: Codes | None = None
        self._bias: Tensor | None = None

    def set_k(self, k: int) -> None:
        """From now on k codes per vector."""
        self.book.config = replace(self.book.config, k=k)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        self.x = x.detach()
        with torch.autocast(x.device.type, enabled=False):  # similarities are float32 always
            self._codes = self.book.encode(x)
        return self._codes

    def decode(self, codes: Codes) -> Float[Tensor, "*batch d_in"]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.alone):
            decoded = self.book.decode(codes)
        return decoded if self.first else torch.cat([decoded[:, :1].detach(), decoded[:, 1:]], 1)

    def loss(
        self, x: Float[Tensor, "*batch d_in"], decoded: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, ""]:
        """Squared error over variance, averaged over groups; both as the book compares vectors."""
        with torch.autocast(x.device.type, enabled=False):
            if self.alone:
                decoded = self.book.decode(self._codes)
            n_blocks, n_positions = x.shape[:2]
            shape = (self.config.groups, n_blocks, n_positions, -1, self.config.d_in)
            missing = x.detach().float() - decoded.float()
            self._bias = missing.detach()[:, 1:].reshape(-1, self.config.groups, self.config.d_in).mean(0)
            error = self._compared(missing).reshape(shape)
            error = error.square().sum(-1).mean(-1)  # over the heads that share a book
            here = self._compared(x.detach().float()).reshape(shape)[:, :, 1:]
            apart = (here - here.mean((1, 2, 3), keepdim=True)).square().sum(-1)
            variance = apart.mean((1, 2, 3)).clamp(min=1e-12)
            if self.variance is None:
                self.variance = self.usual_variance = variance
            self.variance = self.variance.lerp(variance, NEWEST)
            self.usual_variance = self.usual_variance.log().lerp(variance.log(), NEWEST).exp()
            self.explained = (1 - error.detach()[:, :, 1:].mean((1, 2)) / self.variance).mean()
            counted = error if self.first else error[:, :, 1:]
            return (counted.mean((1, 2)) / self.variance).mean()

    @torch.no_grad()
    def follow(self, counts: Int[Tensor, "group code"]) -> None:
        """Move the codes used in the last step to where what comes has gone, if that is beyond its usual deviation.

        As earlier codes change, so does the mean of what comes: by little for most heads, but by many times its own
        deviation for one that hardly varies, such as a head that attends to the first position nearly always
        (a18.h8 of SmolLM2-135M). Steps of the size of its deviation would never get there.
        """
        usual = self.usual_variance.sqrt()
        distance = self.book.comparable(self._bias[:, None])[:, 0].norm(dim=-1).clamp(min=1e-12)
        step = self._bias * (FOLLOWED * (1 - usual / distance).relu() / self.config.k)[:, None]
        self.book.codes.add_((counts > 0)[..., None] * step[:, None])

    @property
    def spread(self) -> Float[Tensor, " group"]:
        """Usual standard deviation per coordinate, by which the codes' steps are measured."""
        return (self.usual_variance / self.config.d_in).sqrt()

    def _compared(self, x: Tensor) -> Float[Tensor, "group row d_in"]:
        return self.book.comparable(x.reshape(-1, self.config.groups, self.config.d_in).transpose(0, 1))
