"""Codebook features: a vector becomes the sum of the k codes most similar to it.

Tamkin, Taufeeque & Goodman 2023 (arXiv 2310.17230), §2: with codes c_1 … c_C of the size of the activation a,

1. ids = the k codes of the highest cosine similarity with a;
2. a is replaced by the plain sum of those codes, whatever its length was;
3. backward: the gradient goes straight through to a, and to the chosen codes only;
4. the codes are also pulled towards what they replace: λ · |Σ c − stopgrad(a)|², by :meth:`Codebook.loss`.

Two options leave the paper: ``selection="matching_pursuit"`` picks one code after another, each for what is still left
(the paper's k codes are often near-duplicates of each other), and ``magnitude="scaled"`` gives codes a strength.

What a codebook is made by.

A codebook made ready for comparing vectors with it: what does not change from call to call.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.bottlenecks.base import (
    Bottleneck,
    Codes,
    count_codes,
    grouped_rows,
    id_dtype,
    register,
    straight_through,
    sum_of_codes,
)
from interp.bottlenecks.kmeans import GroupedKMeans, MeanBy, refit, similarities_at_once
from interp.errors import InputError, check_fields, whole_number


@dataclass(frozen=True)
class SearchCache:
    """A book as vectors are compared with it.

    Attributes:
        codes: in the space of the comparison.
        norm: their lengths.
        factors, offset: ⟨vector, factor⟩ + offset is highest for the code to choose.
    """

    codes: Float[Tensor, "group code d_in"]
    norm: Float[Tensor, "group code"]
    factors: Float[Tensor, "group code d_in"]
    offset: Float[Tensor, "group 1 code"] | None

    def gain(
        self, rows: Float[Tensor, "group row d_in"], without: Bool[Tensor, "group code"] | None
    ) -> Float[Tensor, "group row code"]:
        """Higher is better; −∞ for codes that are left out."""
        factors = self.factors.mT
        gain = torch.bmm(rows, factors) if self.offset is None else torch.baddbmm(self.offset, rows, factors)
        return gain if without is None else gain.masked_fill(without[:, None], float("-inf"))


Selection = Literal["cosine", "matching_pursuit"]


@dataclass(frozen=True)
class CodebookConfig:
    """
    Attributes:
        d_in: size of the vectors.
        n_codes: codes per group, C.
        k: codes per vector.
        groups: independent codebooks, one per head.
        selection: ``cosine`` takes the k most similar codes, as published. ``matching_pursuit`` takes one at a time,
            each the one that leaves the smallest squared remainder, from the same book.
        magnitude: ``unit`` as published: every chosen code enters with factor 1. ``scaled``: with the factor that
            fits best, one for all k codes (cosine) or one for each in turn, as in matching pursuit (residual).
        mse_weight: λ of :meth:`Codebook.loss`.
        seed: of the initial codes, which are N(0, 1), and of k-means.
    """

    d_in: int
    n_codes: int
    k: int = 1
    groups: int = 1
    selection: Selection = "cosine"
    magnitude: Literal["unit", "scaled"] = "unit"
    mse_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("d_in", "n_codes", "groups"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: it must be at least 1")
        if not 1 <= self.k <= self.n_codes:
            raise InputError(f"k {self.k}: it must be 1 to {self.n_codes}, the number of codes")
        if not (math.isfinite(self.mse_weight) and self.mse_weight >= 0):
            raise InputError(f"mse_weight {self.mse_weight}: it must be 0 or more")
        if self.seed < 0:
            raise InputError(f"seed {self.seed}: it must be 0 or more")


REFITS = 1
"""Rounds of choosing and least squares after k-means. On heads of SmolLM2 with k = 8 the first lowers the held-out
error of cosine selection by a tenth, of residual selection by a fiftieth; a second hardly changes it, more raise it."""


T = TypeVar("T", bound="Codebook")


@register
class Codebook(nn.Module, Bottleneck):
    """One codebook, or one per group, all groups in one tensor operation.

    Attributes:
        codes: the trainable parameter; all of it may be float32 or bfloat16. Similarities are always float32.
        counts: how often each code was counted by :meth:`count` or :meth:`count_text`.
    """

    kind = "codebook"
    config_class = CodebookConfig
    config: CodebookConfig
    counts: Int[Tensor, "group code"]

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        shape = (config.groups, config.n_codes, config.d_in)
        self.codes = nn.Parameter(torch.randn(shape, generator=generator))
        self.register_buffer("counts", torch.zeros(shape[:2], dtype=torch.int64))
        self._learning: _Learning | None = None
        self._cache: tuple[list, SearchCache] | None = None

    @property
    def unit_values(self) -> bool:
        return self.config.magnitude == "unit"

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """The codes of every vector, strongest (or first taken) first; of exact ties any may win.

        The similarities are made for as many vectors at a time as fit 64 MiB, 4 MiB on a processor, and not kept.
        """
        return self._encoded(x, None)

    @torch.no_grad()
    def encode_without(self, x: Float[Tensor, "*batch d_in"], without: Bool[Tensor, "group code"]) -> Codes:
        """As :meth:`encode`, with the codes that are marked never chosen: the next best is.

        Raises:
            InputError: fewer codes are left than a vector has.
        """
        left = self.config.n_codes - int(without.sum(-1).max())
        if left < self.config.k:
            raise InputError(f"{left} codes are not forbidden: a vector has {self.config.k}")
        return self._encoded(x, without)

    def decode(self, codes: Codes) -> Float[Tensor, "*batch d_in"]:
        """Σ value · code, with a gradient to the codes that are named."""
        return sum_of_codes(self.codes, codes)

    def difference(self, codes: Codes, others: Codes) -> Float[Tensor, "*batch d_in"]:
        """One sum over the slots of both, those in which they are the same left out."""
        same = (codes.ids == others.ids) & (codes.values == others.values)
        values = torch.cat([codes.values, -others.values], -1).masked_fill(torch.cat([same, same], -1), 0)
        return sum_of_codes(self.codes, Codes(torch.cat([codes.ids, others.ids], -1), values))

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Encode and decode, the gradient straight through."""
        return straight_through(x, self.decode(self.encode(x)))

    def loss(
        self, x: Float[Tensor, "*batch d_in"], decoded: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, ""]:
        """λ times the squared error, summed over coordinates and averaged over vectors; ``x`` is a constant."""
        return self.config.mse_weight * super().loss(x, decoded)

    def similarity(
        self, x: Float[Tensor, "*batch d_in"], ids: Int[Tensor, "*batch k"]
    ) -> Float[Tensor, "*batch k"]:
        """Cosine similarity of each vector with the codes named for it, as they are compared.

        Takes k vectors' memory per vector.
        """
        with _in_full_precision(x):
            rows = self.comparable(self.rows(x)).transpose(0, 1)
            flat = ids.reshape(*rows.shape[:2], -1).long()
            named = self.search_cache().codes[
                torch.arange(self.config.groups, device=ids.device)[:, None], flat
            ]
            return torch.nn.functional.cosine_similarity(rows[:, :, None], named, dim=-1).reshape(ids.shape)

    def fit(self: T, x: Float[Tensor, "*batch d_in"]) -> T:
        """Set the codes by k-means; the same vectors and config give the same codes.

        Raises:
            InputError: fewer vectors than codes (for ``matching_pursuit``: than codes of one slot), vectors of another
                shape, NaN or infinite values.
        """
        self._learning = None
        self._cluster(self.rows(x), stream=False)
        return self

    def partial_fit(self: T, x: Float[Tensor, "*batch d_in"]) -> T:
        """One step of k-means on a shard; call it on shard after shard.

        The first shard needs as many vectors as :meth:`fit` does. Directions and lengths are means over all shards,
        so that a small last one does no harm.
        """
        self._cluster(self.rows(x), stream=True)
        return self

    def mean_code(self) -> Float[Tensor, "group d_in"]:
        """The mean of the codes by how often each was counted, or evenly if they never were.

        For one code a vector, and for k most similar ones, it is what codes have in common. Of codes taken one after
        another those of the first slot have nearly all of that: the mean of all slots is about a k-th of it.
        """
        counts = self.counts.float()
        weights = torch.where(counts.sum(-1, keepdim=True) > 0, counts, 1.0)
        weights = weights / weights.sum(-1, keepdim=True)
        return torch.einsum("gc,gcd->gd", weights, self.codes.detach().float())

    def count(self, ids: Int[Tensor, "*batch k"]) -> None:
        """Add to the usage statistics ``counts``."""
        self.counts += count_codes(ids, self.config.n_codes, self.config.groups)

    def count_text(self, ids: Int[Tensor, "block pos *place k"]) -> None:
        """:meth:`count` of blocks of text, in which the codes of the first position are no more than seen.

        What stands there is the same in every block, and at some MLPs hundreds of times as long as what stands
        elsewhere: a sixtieth of all counts would make nearly all of :meth:`mean_code`.
        """
        self.count(ids[:, 1:])
        first = count_codes(ids[:, :1], self.config.n_codes, self.config.groups)
        torch.maximum(self.counts, (first > 0).to(self.counts), out=self.counts)

    @torch.no_grad()
    def replace_dead(
        self,
        x: Float[Tensor, "*batch d_in"],
        optimizer: torch.optim.Optimizer | None = None,
        *,
        at_most: int = 0,
        generator: torch.Generator | None = None,
        own_length: bool = False,
    ) -> int:
        """Give codes counted at most ``at_most`` times the direction of a vector that is badly coded.

        Vectors are drawn from ``x`` with chances ∝ their squared error. The new code is as long as the living codes
        of its group are on average, or with ``own_length`` as its share of the vector itself; what the optimizer has
        gathered on the old one is set to zero. All counts begin anew.

        Returns:
            How many codes were replaced.
        """
        rows = self.rows(x)
        error = (rows - grouped_rows(self.decode(self.encode(x)), self.config)).square().sum(-1)
        dead = self.counts <= at_most
        lengths = self.codes.float().norm(dim=-1)
        for group in dead.any(1).nonzero()[:, 0].tolist():
            mask = dead[group]
            size = int(mask.sum())
            weights = error[group] if bool(error[group].sum() > 0) else torch.ones_like(error[group])
            repeated = size > int((weights > 0).sum())
            index = torch.multinomial(weights, size, replacement=repeated, generator=generator)
            drawn = rows[group, index]
            if own_length or mask.all():
                new = drawn / self.config.k
            else:
                new = nn.functional.normalize(drawn, dim=-1) * lengths[group, ~mask].mean()
            self.codes[group, mask] = new.to(self.codes.dtype)
        if optimizer is not None:
            self._forget(optimizer, dead)
        self.counts.zero_()
        return int(dead.sum())

    def with_k(self: T, k: int) -> T:
        """The same codes with fewer per vector; ids of the first k slots stay as they are.

        Raises:
            InputError: more codes than now; or a plain sum of most similar codes, whose lengths are right for one k.
        """
        whole_only = (self.config.selection, self.config.magnitude) == ("cosine", "unit")
        if k != self.config.k and whole_only:
            raise InputError(
                f"k {k}: the lengths of these codes are right for sums of {self.config.k}; fit a codebook for k {k}"
            )
        if not 1 <= whole_number("k", k) <= self.config.k:
            raise InputError(
                f"k {k}: this codebook was fitted for {self.config.k}, choose 1 to {self.config.k}"
            )
        return self.restored(replace(self.config, k=k), self.tensors())

    def of_group(self: T, group: int) -> T:
        """A codebook of one group alone, such as one head's.

        Raises:
            KeyError: no such group.
        """
        if not 0 <= group < self.config.groups:
            raise KeyError(f"group {group}: there are 0 to {self.config.groups - 1}")
        tensors = {name: tensor[group : group + 1] for name, tensor in self.tensors().items()}
        return self.restored(replace(self.config, groups=1), tensors)

    def tensors(self) -> dict[str, Tensor]:
        return {"codes": self.codes, "counts": self.counts}

    @classmethod
    def restored(cls: type[T], config: CodebookConfig, tensors: Mapping[str, Tensor]) -> T:
        book = cls(config).to(tensors["codes"].device, tensors["codes"].dtype)
        book.load_state_dict(dict(tensors))
        return book

    def rows(self, x: Tensor) -> Float[Tensor, "group row d_in"]:
        """What the codes stand for: the vectors, as they are here."""
        return grouped_rows(x, self.config)

    def _encoded(self, x: Tensor, without: Bool[Tensor, "group code"] | None) -> Codes:
        if torch.is_autocast_enabled(x.device.type):
            with _in_full_precision(x):
                return self._encoded(x, without)
        chosen = self._choose(self.comparable(self.rows(x)), self.search_cache(), without)
        ids, values = (part.transpose(0, 1) for part in chosen)
        shape = (*x.shape[:-1], self.config.k)
        return Codes(ids.reshape(shape).to(id_dtype(self.config.n_codes)), values.reshape(shape))

    def comparable(self, rows: Float[Tensor, "group row d_in"]) -> Float[Tensor, "group row d_in"]:
        """Vectors, or codes, as they are compared with each other; here as they are."""
        return rows

    def search_cache(self) -> SearchCache:
        """The codes as vectors are compared with them; made anew when a tensor has changed.

        While a text is generated position by position this would cost more than the comparison.
        """
        # ids of objects can be used again, so the objects themselves are kept
        made_of = [(t, _version(t), t.data_ptr()) for name, t in self.tensors().items() if name != "counts"]
        if self._cache is None or not all(
            old[0] is new[0] and old[1:] == new[1:] for old, new in zip(self._cache[0], made_of, strict=True)
        ):
            self._cache = made_of, self._prepared(self.comparable(self.codes.detach().float()))
        return self._cache[1]

    def _prepared(self, book: Float[Tensor, "group code d_in"]) -> SearchCache:
        norm = book.norm(dim=-1).clamp(min=1e-12)
        if (self.config.selection, self.config.magnitude) == ("matching_pursuit", "unit"):
            return SearchCache(book, norm, book, norm.square()[:, None] / -2)
        return SearchCache(book, norm, book / norm[..., None], None)

    def _choose(
        self,
        rows: Tensor,
        book: SearchCache,
        without: Bool[Tensor, "group code"] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Ids and values, [group, row, k], of the codes of ``book``, those ``without`` left out."""
        step = max(1, similarities_at_once(rows) // (self.config.groups * self.config.n_codes))
        select = self._most_similar if self.config.selection == "cosine" else self._greedy
        if rows.shape[1] <= step:
            return select(rows, book, without)
        parts = [select(part, book, without) for part in rows.split(step, dim=1)]
        ids, values = (torch.cat(group, 1) for group in zip(*parts, strict=True))
        return ids, values

    def _most_similar(self, rows: Tensor, book: SearchCache, without: Tensor | None) -> tuple[Tensor, Tensor]:
        # dividing by the row's own length would not change the order
        similar = book.gain(rows, without)
        k = self.config.k
        ids = similar.argmax(-1, keepdim=True) if k == 1 else similar.topk(k, dim=-1).indices
        if self.config.magnitude == "unit":
            return ids, rows.new_ones(ids.shape)
        total = _chosen_sum(book.codes, ids)
        factor = (rows * total).sum(-1, keepdim=True) / total.square().sum(-1, keepdim=True).clamp(min=1e-12)
        return ids, factor.clamp(min=0).expand(ids.shape)

    def _greedy(self, rows: Tensor, book: SearchCache, without: Tensor | None) -> tuple[Tensor, Tensor]:
        rest, ids, values = rows, list[Tensor](), list[Tensor]()
        for slot in range(self.config.k):
            if slot:
                rest = rest - values[-1] * _chosen_sum(book.codes, ids[-1])
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
    def _cluster(self, rows: Float[Tensor, "group row d_in"], *, stream: bool) -> None:
        self.codes.copy_(self._learned(rows, stream=stream))

    def _learned(
        self, rows: Float[Tensor, "group row d_in"], *, stream: bool
    ) -> Float[Tensor, "group code d_in"]:
        """k-means on the vectors; for greedy selection, a share of the codes on each remainder in turn.

        A sum of several codes is then fitted as a whole, by least squares, unless only a shard is seen.
        """
        config = self.config
        # what counts is the direction, unless one code is subtracted after the other as it is
        spherical = config.selection == "cosine" or config.magnitude == "scaled"
        stages = min(config.k, config.n_codes) if config.selection == "matching_pursuit" else 1
        if self._learning is None:
            sizes = [len(part) for part in torch.arange(config.n_codes).tensor_split(stages)]
            self._learning = _Learning(
                [
                    GroupedKMeans(size, spherical=spherical, seed=config.seed + stage)
                    for stage, size in enumerate(sizes)
                ],
                [MeanBy(size) for size in sizes],
            )
        rest, books = rows, []
        for kmeans, lengths in zip(self._learning.kmeans, self._learning.lengths, strict=True):
            kmeans.partial_fit(rest) if stream else kmeans.fit(rest)
            ids = kmeans.predict(rest)
            chosen = kmeans.centres_.gather(1, ids[..., None].expand_as(rest))
            if spherical:
                along = (rest * chosen).sum(-1)
                books.append(kmeans.centres_ * lengths.add(ids, along).mean()[..., None])
                chosen = chosen * along[..., None]
            else:
                books.append(kmeans.centres_)
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
        total = _chosen_sum(book, self._choose(rows, self._prepared(book))[0])
        learning.along = learning.along + (rows * total).sum((1, 2))
        learning.square = learning.square + total.square().sum((1, 2))
        return book * (learning.along / learning.square.clamp(min=1e-12))[:, None, None]

    def _forget(self, optimizer: torch.optim.Optimizer, replaced: Bool[Tensor, "group code"]) -> None:
        for moment in optimizer.state.get(self.codes, {}).values():
            if isinstance(moment, Tensor) and moment.shape[:2] == self.codes.shape[:2]:  # of each code
                moment[replaced] = 0


@dataclass
class _Learning:
    """What shards have added up to so far.

    Attributes:
        kmeans: one, or one a slot for greedy selection.
        lengths: of their codes, where k-means has directions alone.
        along, square: Σ⟨row, sum of its codes⟩ and Σ|sum of its codes|², by group.
    """

    kmeans: list[GroupedKMeans]
    lengths: list[MeanBy]
    along: Tensor = field(default_factory=lambda: torch.zeros(()))
    square: Tensor = field(default_factory=lambda: torch.zeros(()))


def _chosen_sum(book: Tensor, ids: Int[Tensor, "group row k"]) -> Float[Tensor, "group row d_in"]:
    ids = ids.transpose(0, 1)
    total = sum_of_codes(book, Codes(ids, torch.ones_like(ids, dtype=book.dtype)))
    return total.reshape(*ids.shape[:2], -1).transpose(0, 1)


def _version(tensor: Tensor) -> object:
    """Changes when the tensor does; of those made under ``inference_mode``, which do not tell, at every look."""
    return object() if tensor.is_inference() else tensor._version


def _in_full_precision(x: Tensor) -> torch.autocast:
    """Without autocast, by which products would be rounded and what is kept for the next call with them."""
    return torch.autocast(x.device.type, enabled=False)
