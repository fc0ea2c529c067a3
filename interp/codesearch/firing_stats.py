"""How clearly a code was chosen, gathered while a corpus passes: best contexts, and similarities fired and not fired.

Codes are just on or off, so contexts need another rank:

* **similarity**: cosine of the code with the vector (k = 1, or ``cosine`` selection), or with what the codes taken
  before it leave of the vector (``residual`` selection), as the codebook compares them (by a head's output, where it
  does);
* **margin**: similarity minus the highest similarity of a code that was passed over, or the similarity where none was.
  Where codes of different lengths compete for the squared error the most similar one need not win: margins can be
  negative.

Histograms are of the cosine with the whole vector, fired or not, so that both are of one quantity.
"""

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from interp.bottlenecks import Codes, Dictionary
from interp.bottlenecks.base import code_sets
from interp.bottlenecks.kmeans import similarities_at_once
from interp.bottlenecks.wrapper import CodebookWrapper

N_TOP = 10  # best contexts kept per code and way of ranking
RANKS = ("margin", "similarity")  # what contexts are ranked by
BINS = np.linspace(-1, 1, 25)  # edges of the histograms of similarities
EVERY = 16  # one token in so many counts for the similarities of codes that did not fire
_PER_OCTAVE = 8
_CONTEXT = ("token", "similarity", "margin")


class FiringStatsWrapper(CodebookWrapper):
    """A codebook that looks at how it chooses; it is the codebook in everything else. ``seen``: what the last
    :meth:`encode` chose: ids, similarity, margin and cosine with the whole vector of each, all [row, group, k], and
    cosines of every code at one token in :data:`EVERY`."""

    def __init__(self, book: Dictionary) -> None:
        super().__init__(book)
        self.seen: tuple[Tensor, ...] = ()

    def encode(self, x: Tensor) -> Codes:
        codes = self.book.encode(x)
        self.seen = _strengths(self.book, x, codes)
        return codes


@torch.no_grad()
def _strengths(book: Dictionary, x: Tensor, codes: Codes) -> tuple[Tensor, ...]:
    config, sizes = book.config, list(code_sets(book.config))
    rows = book.comparable(book.rows(x))  # [dictionary, row, d]
    ids, values = (
        part.reshape(-1, config.groups, config.k).transpose(0, 1) for part in (codes.ids.long(), codes.values)
    )
    compared = book.search_cache().codes
    unit = torch.nn.functional.normalize(compared, dim=-1)
    which = torch.arange(len(compared), device=ids.device)[:, None]

    def measured(rows: Tensor, ids: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """Similarity, margin, and cosine with the whole vector."""
        whole, margin = _similarity(rows, ids, unit, sizes)
        if not book.successive or config.k == 1:
            return whole, margin, whole
        rest, by_slot = rows.clone(), []
        for slot in range(config.k):
            taken = ids[..., slot]
            similarity, margin = _similarity(rest, taken[..., None], unit, sizes)
            by_slot.append((similarity, margin[..., slot % len(sizes), None]))
            rest -= values[..., slot, None] * compared[which, taken]
        return *(torch.cat(part, -1) for part in zip(*by_slot, strict=True)), whole

    step = max(1, similarities_at_once(rows) // (config.groups * config.n_codes))
    parts = zip(*(part.split(step, dim=1) for part in (rows, ids, values)), strict=True)
    strengths = zip(*(measured(*part) for part in parts), strict=True)
    similarity, margin, whole = (torch.cat(part, 1).transpose(0, 1) for part in strengths)
    # where heads share a dictionary they lie among the rows: a token is sampled with all of its heads
    heads = x.shape[2] if x.ndim == 4 and config.groups == 1 else 1
    sampled = rows.unflatten(1, (-1, heads))[:, ::EVERY].flatten(1, 2)
    sampled = torch.nn.functional.normalize(sampled, dim=-1) @ unit.mT
    ids = torch.where(values == 0, -1, ids).transpose(0, 1)
    return ids, similarity, margin, whole, sampled.transpose(0, 1)


def _similarity(rows: Tensor, ids: Tensor, unit: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Of the codes that were chosen, and by how much it is above the best one that was passed over, of each set."""
    similar = torch.nn.functional.normalize(rows, dim=-1) @ unit.mT
    similarity = similar.gather(-1, ids)
    if ids.shape[-1] == unit.shape[-2]:
        return similarity, similarity
    left = similar.scatter_(-1, ids, -torch.inf).split(sizes, -1)
    return similarity, similarity - torch.stack([part.amax(-1) for part in left], -1)


class Gathered:
    """Best contexts and histograms of every code, over any number of batches. ``token``, ``similarity``, ``margin``:
    the best contexts of each code, [code, rank, context]: those by falling margin, then those by falling similarity; an
    unused place has −∞. ``histogram``: [code, 2, bin]: similarities when it fired, and at a sample of tokens when it
    did not."""

    def __init__(self, n_codes: int) -> None:
        shape = n_codes, len(RANKS), N_TOP
        self.token = np.zeros(shape, np.uint32)
        self.similarity = np.full(shape, -np.inf, np.float32)
        self.margin = np.full(shape, -np.inf, np.float32)
        self.histogram = np.zeros((n_codes, 2, len(BINS) - 1), np.uint32)

    def state(self) -> dict[str, np.ndarray]:
        return dict(vars(self))

    def restore(self, state: dict[str, np.ndarray]) -> None:
        for name, tensor in vars(self).items():
            tensor[...] = state[name]

    def merge(self, later: "Gathered", start: int) -> None:
        """What was gathered of tokens behind all of these, whose first is token ``start`` here: as if added one by
        one."""
        self.histogram += later.histogram
        moved = {**later.state(), "token": later.token + np.uint32(start)}
        for number, rank in enumerate(RANKS):
            self._take(rank, np.arange(len(self.token)), {name: moved[name][:, number] for name in _CONTEXT})
        self.token[self.margin == -np.inf] = 0

    def add(
        self,
        code: Int[np.ndarray, " n"],
        token: Int[np.ndarray, " n"],
        similarity: Float[np.ndarray, " n"],
        margin: Float[np.ndarray, " n"],
        whole: Float[np.ndarray, " n"],
    ) -> None:
        """Firings of codes, each (code, token) once, tokens later than all before; ``whole`` is for the histogram."""
        np.add.at(self.histogram[:, 0], (code, _bin(whole)), 1)
        for rank in RANKS:
            self._keep(rank, code, {"token": token, "similarity": similarity, "margin": margin})

    def _keep(self, rank: str, code: Int[np.ndarray, " n"], firings: dict[str, np.ndarray]) -> None:
        """Put what is better than the worst that is kept in its place."""
        better = np.flatnonzero(firings[rank] > getattr(self, rank)[code, RANKS.index(rank), -1])
        order = better[np.lexsort((firings["token"][better], -firings[rank][better], code[better]))]
        touched, first, row = np.unique(code[order], return_index=True, return_inverse=True)
        place = np.arange(len(order)) - first[row]
        kept = place < N_TOP
        new = {}
        for name, part in firings.items():
            new[name] = np.full((len(touched), N_TOP), 0 if name == "token" else -np.inf, part.dtype)
            new[name][row[kept], place[kept]] = part[order[kept]]
        self._take(rank, touched, new)

    def _take(self, rank: str, codes: Int[np.ndarray, " code"], new: dict[str, np.ndarray]) -> None:
        """The best of the contexts that these codes have and of later ones, [code, context]."""
        at = codes, RANKS.index(rank)
        joined = {name: np.concatenate([getattr(self, name)[at], part], 1) for name, part in new.items()}
        best = np.argsort(-joined[rank], axis=1, kind="stable")[:, :N_TOP]
        for name, part in joined.items():
            getattr(self, name)[at] = np.take_along_axis(part, best, 1)

    def add_silent(self, begin: int, similarity: Float[np.ndarray, "row code"], fired: np.ndarray) -> None:
        """Similarities of all codes of the book that begins at ``begin``; ``fired`` are the rows' ids, [row, k]."""
        n_codes, n_bins = similarity.shape[1], len(BINS) - 1
        flat = np.arange(n_codes) * n_bins + _bin(similarity)
        silent = np.ones(similarity.shape, bool)
        row, slot = np.nonzero(fired >= 0)
        silent[row, fired[row, slot]] = False
        counts = np.bincount(flat[silent], minlength=n_codes * n_bins).reshape(n_codes, n_bins)
        self.histogram[begin : begin + n_codes, 1] += counts.astype(np.uint32)


def pack_counts(counts: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Counts in eight bits, by their logarithm: right to 5 %, 0 and 1 exact, up to 2³¹."""
    packed = np.zeros(counts.shape, np.uint8)
    filled = counts > 0  # most are not
    packed[filled] = np.rint(_PER_OCTAVE * np.log2(counts[filled] + 1.0))
    return packed


def unpack_counts(packed: UInt8[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.exp2(packed.astype(np.float64) / _PER_OCTAVE) - 1


def _bin(similarity: np.ndarray) -> np.ndarray:
    n = len(BINS) - 1
    return np.clip(((similarity + 1) * (n / 2)).astype(np.int64), 0, n - 1)
