"""Codebook features: a vector becomes the sum of the k codes most similar to it.

Tamkin, Taufeeque & Goodman 2023 (arXiv 2310.17230), §2: with codes c_1 … c_C of the size of the activation a,

1. ids = the k codes of the highest cosine similarity with a;
2. a is replaced by the plain sum of those codes, whatever its length was;
3. backward: the gradient goes straight through to a, and to the chosen codes only;
4. the codes are also pulled towards what they replace: λ · |Σ c − stopgrad(a)|², by :meth:`Codebook.loss`.

Two options leave the paper: ``selection="matching_pursuit"`` picks one code after another, each for what is still left
(the paper's k codes are often near-duplicates of each other), and ``magnitude="scaled"`` gives codes a strength.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import Book, GroupRows, Vectors, digits, register
from interp.bottlenecks.dictionary import Dictionary, SearchCache, chosen_sum
from interp.bottlenecks.kmeans import GroupedKMeans, MeanBy, refit
from interp.errors import InputError, check_fields

Selection = Literal["cosine", "matching_pursuit"]


@dataclass(frozen=True)
class CodebookConfig:
    d_in: Annotated[int, Ge(1)]  # size of the vectors
    n_codes: Annotated[int, Ge(1)]  # codes per group, C
    k: int = 1  # codes per vector
    groups: Annotated[int, Ge(1)] = 1  # independent codebooks, one per head
    # ``cosine`` takes the k most similar codes, as published. ``matching_pursuit`` takes one at a time, each the one
    # that leaves the smallest squared remainder, from the same book
    selection: Selection = "cosine"
    # ``unit`` as published: every chosen code enters with factor 1. ``scaled``: with the factor that fits best, one for
    # all k codes (cosine) or one for each in turn, as in matching pursuit (residual)
    magnitude: Literal["unit", "scaled"] = "unit"
    mse_weight: Annotated[float, Ge(0)] = 1.0  # λ of :meth:`Codebook.loss`
    seed: Annotated[int, Ge(0)] = 0  # of the initial codes, which are N(0, 1), and of k-means

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= self.k <= self.n_codes:
            raise InputError(f"k {self.k}: it must be 1 to {self.n_codes}, the number of codes")

    @classmethod
    def at(cls, bits: int, **options: Any) -> "CodebookConfig":
        """The config of about so many bits a vector: codes of at most nine bits, one after another."""
        k, each = digits(bits)
        return cls(n_codes=max(2**each, k), k=k, selection="matching_pursuit", **options)


REFITS = 1
"""Rounds of choosing and least squares after k-means. On heads of SmolLM2 with k = 8 the first lowers the held-out
error of cosine selection by a tenth, of residual selection by a fiftieth; a second hardly changes it, more raise it."""


T = TypeVar("T", bound="Codebook")


@register
class Codebook(Dictionary):
    """The k most similar of a set of codes, or k taken one after another."""

    kind = "codebook"
    source, use = "Tamkin et al. 2023", "reading, editing and steering"
    config_class = CodebookConfig
    config: CodebookConfig

    def __init__(self, config: CodebookConfig) -> None:
        generator = torch.Generator().manual_seed(config.seed)
        super().__init__(config, torch.randn(config.groups, config.n_codes, config.d_in, generator=generator))
        self._learning: _Learning | None = None

    @property
    def unit_values(self) -> bool:
        return self.config.magnitude == "unit"

    @property
    def successive(self) -> bool:
        return self.config.selection == "matching_pursuit" and self.config.k > 1

    def loss(self, x: Vectors, decoded: Vectors) -> Float[Tensor, ""]:
        """λ times the squared error, summed over coordinates and averaged over vectors; ``x`` is a constant."""
        return self.config.mse_weight * super().loss(x, decoded)

    def fit(self: T, x: Vectors) -> T:
        """Set the codes by k-means; the same vectors and config give the same codes."""
        self._learning = None
        self._cluster(self.rows(x), stream=False)
        return self

    def partial_fit(self: T, x: Vectors) -> T:
        """One step of k-means on a shard; call it on shard after shard. The first needs as many vectors as :meth:`fit`;
        directions and lengths are means over all, so that a small last one does no harm."""
        self._cluster(self.rows(x), stream=True)
        return self

    def with_k(self: T, k: int) -> T:
        """As of any dictionary, but for a plain sum of most similar codes, whose lengths are right for one k."""
        if k != self.config.k and (self.config.selection, self.config.magnitude) == ("cosine", "unit"):
            raise InputError(
                f"k {k}: the lengths of these codes are right for sums of {self.config.k}; fit a codebook for k {k}"
            )
        return super().with_k(k)

    def _prepared(self, book: Book) -> SearchCache:
        norm = book.norm(dim=-1).clamp(min=1e-12)
        if (self.config.selection, self.config.magnitude) == ("matching_pursuit", "unit"):
            return SearchCache(book, norm, book, norm.square()[:, None] / -2)
        return SearchCache(book, norm, book / norm[..., None], None)

    def _select(self, rows: Tensor, book: SearchCache, without: Tensor | None) -> tuple[Tensor, Tensor]:
        select = self._most_similar if self.config.selection == "cosine" else self._greedy
        return select(rows, book, without)

    def _most_similar(self, rows: Tensor, book: SearchCache, without: Tensor | None) -> tuple[Tensor, Tensor]:
        # dividing by the row's own length would not change the order
        similar = book.gain(rows, without)
        k = self.config.k
        ids = similar.argmax(-1, keepdim=True) if k == 1 else similar.topk(k, dim=-1).indices
        if self.config.magnitude == "unit":
            return ids, rows.new_ones(ids.shape)
        total = chosen_sum(book.codes, ids)
        factor = (rows * total).sum(-1, keepdim=True) / total.square().sum(-1, keepdim=True).clamp(min=1e-12)
        return ids, factor.clamp(min=0).expand(ids.shape)

    def _greedy(self, rows: Tensor, book: SearchCache, without: Tensor | None) -> tuple[Tensor, Tensor]:
        rest, ids, values = rows, list[Tensor](), list[Tensor]()
        for slot in range(self.config.k):
            if slot:
                rest = rest - values[-1] * chosen_sum(book.codes, ids[-1])
            # what |rest|² loses, up to a monotone map: ⟨r, c⟩²/|c|² with a free factor ≥ 0, 2⟨r, c⟩ − |c|² without
            gain = book.gain(rest, without)
            index = gain.argmax(-1, keepdim=True)  # cheaper than max, which gives the value too
            ids.append(index)
            if self.config.magnitude == "scaled":
                norm = book.norm.gather(1, index[..., 0])[..., None]
                values.append(gain.gather(-1, index).clamp(min=0) / norm)
            else:
                values.append(rows.new_ones(index.shape))
        return torch.cat(ids, -1), torch.cat(values, -1)

    @torch.no_grad()
    def _cluster(self, rows: GroupRows, *, stream: bool) -> None:
        self.codes.copy_(self._learned(rows, stream=stream))

    def _learned(self, rows: GroupRows, *, stream: bool) -> Book:
        """k-means on the vectors; for greedy selection, a share of the codes on each remainder in turn.

        A sum of several codes is then fitted as a whole, by least squares, unless only a shard is seen.
        """
        config = self.config
        # what counts is the direction, unless one code is subtracted after the other as it is
        spherical = config.selection == "cosine" or config.magnitude == "scaled"
        stages = config.k if config.selection == "matching_pursuit" else 1
        if self._learning is None:
            sizes = [len(part) for part in torch.arange(config.n_codes).tensor_split(stages)]
            self._learning = _Learning(
                [GroupedKMeans(n, spherical=spherical, seed=seed) for seed, n in enumerate(sizes, config.seed)],
                [MeanBy(n) for n in sizes],
            )
        rest, books = rows, []
        for kmeans, lengths in zip(self._learning.kmeans, self._learning.lengths, strict=True):
            kmeans.partial_fit(rest) if stream else kmeans.fit(rest)
            centres, ids = kmeans.centres_, kmeans.predict(rest)
            chosen = centres.gather(1, ids[..., None].expand_as(rest))
            if spherical:
                along = (rest * chosen).sum(-1)
                centres = centres * lengths.add(ids, along).mean()[..., None]
                chosen = chosen * along[..., None]
            books.append(centres)
            rest = rest - chosen
        book = torch.cat(books, 1)
        if config.k == 1 or config.magnitude == "scaled":
            return book
        if config.selection == "cosine":
            book = self._scaled(rows, book, self._learning)
        for _ in range(0 if stream else REFITS):
            book = refit(rows, self._choose(rows, self._prepared(book))[0], book)
        return book

    def _scaled(self, rows: Tensor, book: Tensor, learning: "_Learning") -> Tensor:
        """The codes of each group shortened by the one factor with which k of them together fit best."""
        total = chosen_sum(book, self._choose(rows, self._prepared(book))[0])
        learning.along = learning.along + (rows * total).sum((1, 2))
        learning.square = learning.square + total.square().sum((1, 2))
        return book * (learning.along / learning.square.clamp(min=1e-12))[:, None, None]


@dataclass
class _Learning:
    """What shards have added up to so far."""

    kmeans: list[GroupedKMeans]  # one, or one a slot for greedy selection
    lengths: list[MeanBy]  # of their codes, where k-means has directions alone
    # along, square: Σ⟨row, sum of its codes⟩ and Σ|sum of its codes|², by group
    along: Tensor = field(default_factory=lambda: torch.zeros(()))
    square: Tensor = field(default_factory=lambda: torch.zeros(()))
