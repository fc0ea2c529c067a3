"""How codes are used while a text passes through them, and how much of the activations they hold."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.bottlenecks import NO_CODE, Bottleneck, Codebook, Codes
from interp.bottlenecks.attach import Attached
from interp.bottlenecks.base import grouped_rows
from interp.bottlenecks.codes import count_codes, distinct
from interp.bottlenecks.watched_book import WatchedBook


class UsageMeter:
    """Watches books at their sites over any number of forward passes.

    The first position is left out of the variance: it is the same in every text and, in many models, many times as long
    as all others. What a book is measured on is what reaches it when the other books are in place too.
    """

    def __init__(self, books: Mapping[str, Codebook]) -> None:
        self._watched = {site: _Watched(book) for site, book in books.items()}

    def watching(self, books: Mapping[str, Codebook]) -> dict[str, Bottleneck]:
        """The books to attach."""
        return {site: self._watched[site] for site in books}

    def count(self, attached: Attached) -> None:
        """Count the codes of the last forward pass."""
        for site, codes in attached.codes.items():
            self._watched[site].count(codes)

    def summary(self) -> dict[str, Any]:
        """Numbers over all sites, and over the groups (heads) of all sites.

        ``variance_explained_*`` of a group is 1 − |x − x̂|² / |x − mean|²; below 0 its mean alone would be better.
        ``bits_per_token`` sums k · entropy over groups, an upper bound: slots tell of each other, and their order
        tells nothing. The entropy is that of the counts, which few tokens underestimate. ``dead_on_text`` are the codes
        that did not occur here, ``dead_when_fitted`` those that did not occur on the text they were fitted on.
        """
        parts = list(self._watched.values())
        explained = np.concatenate([part.explained().cpu().numpy() for part in parts])
        entropy = np.concatenate([part.entropy().cpu().numpy() for part in parts])
        k = np.concatenate([np.full(part.config.groups, part.config.k) for part in parts])
        codes = np.concatenate([np.full(part.config.groups, part.config.n_codes) for part in parts])
        sites = [float(part.explained(together=True)) for part in parts]
        return {
            "variance_explained_mean": float(explained.mean()),
            "variance_explained_min": float(explained.min()),
            "variance_explained_positive": float((explained > 0).mean()),
            "variance_explained_sites": dict(zip(self._watched, sites, strict=True)),
            "dead_on_text": float(torch.cat([(p.counts == 0).flatten() for p in parts]).float().mean()),
            "dead_when_fitted": float(
                torch.cat([(p.book.counts == 0).flatten() for p in parts]).float().mean()
            ),
            "entropy_bits": float(entropy.mean()),
            "bits_per_token": float((entropy * k).sum()),
            "bits_per_token_most": float((np.log2(codes) * k).sum()),
            "active_codes": float(sum(p.active for p in parts) / sum(p.n_vectors for p in parts)),
            "n_groups": len(explained),
        }


class _Watched(WatchedBook):
    """A book that keeps sums of what passes; it is the book in everything else."""

    def __init__(self, book: Codebook) -> None:
        super().__init__(book)
        self.counts = torch.zeros_like(book.counts)
        self.active = self.n_vectors = 0
        self._x: Tensor | None = None
        self._n = 0
        self._shift: Tensor | None = None
        self._sum: Tensor | float = 0.0
        self._square: Tensor | float = 0.0
        self._error: Tensor | float = 0.0

    def encode(self, x: Tensor) -> Codes:
        self._x = x
        return self.book.encode(x)

    def decode(self, codes: Codes) -> Tensor:
        decoded = self.book.decode(codes)
        x, kept = (grouped_rows(part[:, 1:], self.config) for part in (self._x, decoded))
        if self._shift is None:
            # some heads' vectors lie so far from zero and so close together that squares of x itself cancel to nothing
            self._shift = x.mean(1, keepdim=True)
        apart = x - self._shift
        self._n += x.shape[1]
        self._sum = self._sum + apart.sum(1).cpu().double()
        self._square = self._square + apart.square().sum((1, 2)).cpu().double()
        self._error = self._error + (x - kept).square().sum((1, 2)).cpu().double()
        return decoded

    def count(self, codes: Codes) -> None:
        used = codes.ids.masked_fill(codes.values == 0, NO_CODE)
        self.counts += count_codes(used, self.config.n_codes, self.config.groups)
        self.active += int((distinct(used) != NO_CODE).sum())
        self.n_vectors += used[..., 0].numel()

    def explained(self, *, together: bool = False) -> Tensor:
        """Variance explained per group, or of the site as a whole."""
        variance = self._square - self._sum.square().sum(-1) / self._n
        if together:
            return 1 - self._error.sum() / variance.sum().clamp(min=1e-30)
        return 1 - self._error / variance.clamp(min=1e-30)

    def entropy(self) -> Tensor:
        share = self.counts / self.counts.sum(-1, keepdim=True).clamp(min=1)
        return -(share * share.clamp(min=1e-30).log2()).sum(-1)
