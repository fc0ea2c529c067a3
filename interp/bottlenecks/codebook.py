"""Codebook features: a vector becomes the sum of the k codes most similar to it.

Tamkin, Taufeeque & Goodman 2023 (arXiv 2310.17230), §2: with codes c_1 … c_C of the size of the activation a,

1. ids = the k codes of the highest cosine similarity with a;
2. a is replaced by the plain sum of those codes, whatever its length was;
3. backward: the gradient goes straight through to a, and to the chosen codes only;
4. the codes are also pulled towards what they replace: λ · |Σ c − stopgrad(a)|², by :meth:`Codebook.loss`.

Two options leave the paper: ``selection="residual"`` picks one code after another, each for what is still left
(the paper's k codes are often near-duplicates of each other), and ``magnitude="kept"`` gives codes a strength.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.bottlenecks.base import Bottleneck, grouped_rows, register, straight_through
from interp.bottlenecks.codes import Codes, count_codes, id_dtype, sum_of_codes
from interp.bottlenecks.kmeans import SIMILARITIES, GroupedKMeans
from interp.tasks.errors import InputError


@dataclass(frozen=True)
class CodebookConfig:
    """
    Attributes:
        d_in: size of the vectors.
        n_codes: codes per group, C.
        k: codes per vector.
        groups: independent codebooks, one per head.
        selection: ``cosine`` takes the k most similar codes, as published. ``residual`` takes one at a time, each
            the one that leaves the smallest squared remainder, from the same book.
        magnitude: ``dropped`` as published: every chosen code enters with factor 1. ``kept``: with the factor that
            fits best, one for all k codes (cosine) or one for each in turn, as in matching pursuit (residual).
        mse_weight: λ of :meth:`Codebook.loss`.
        seed: of the initial codes, which are N(0, 1), and of k-means.
    """

    d_in: int
    n_codes: int
    k: int = 1
    groups: int = 1
    selection: Literal["cosine", "residual"] = "cosine"
    magnitude: Literal["dropped", "kept"] = "dropped"
    mse_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("d_in", "n_codes", "groups"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: it must be at least 1")
        if not 1 <= self.k <= self.n_codes:
            raise InputError(f"k {self.k}: it must be 1 to {self.n_codes}, the number of codes")
        if self.selection not in ("cosine", "residual"):
            raise InputError(f"selection {self.selection!r}: choose cosine or residual")
        if self.magnitude not in ("dropped", "kept"):
            raise InputError(f"magnitude {self.magnitude!r}: choose dropped or kept")
        if not (math.isfinite(self.mse_weight) and self.mse_weight >= 0):
            raise InputError(f"mse_weight {self.mse_weight}: it must be 0 or more")
        if self.seed < 0:
            raise InputError(f"seed {self.seed}: it must be 0 or more")


@register
class Codebook(nn.Module, Bottleneck):
    """One codebook, or one per group, all groups in one tensor operation.

    Attributes:
        codes: the trainable parameter; all of it may be float32 or bfloat16. Similarities are always float32.
        counts: how often each code was counted by :meth:`count`.
    """

    kind = "codebook"
    config_class = CodebookConfig

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        shape = (config.groups, config.n_codes, config.d_in)
        self.codes = nn.Parameter(torch.randn(shape, generator=generator))
        self.register_buffer("counts", torch.zeros(shape[:2], dtype=torch.int64))
        self._kmeans: list[GroupedKMeans] | None = None

    @property
    def unit_values(self) -> bool:
        return self.config.magnitude == "dropped"

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """The codes of every vector, strongest (or first taken) first; of exact ties any may win.

        The similarities are made for as many vectors at a time as fit 64 MiB, and not kept.
        """
        rows = grouped_rows(x, self.config)
        book = self.codes.detach().float()
        step = max(1, SIMILARITIES // (self.config.groups * self.config.n_codes))
        choose = self._most_similar if self.config.selection == "cosine" else self._greedy
        parts = [choose(part, book) for part in rows.split(step, dim=1)] or [choose(rows, book)]
        ids, values = (torch.cat(group, 1).transpose(0, 1) for group in zip(*parts, strict=True))
        shape = (*x.shape[:-1], self.config.k)
        return Codes(ids.reshape(shape).to(id_dtype(self.config.n_codes)), values.reshape(shape))

    def decode(self, codes: Codes) -> Float[Tensor, "*batch d_in"]:
        """Σ value · code, with a gradient to the codes that are named."""
        return sum_of_codes(self.codes, codes)

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
        """Cosine similarity of each vector with the codes named for it; takes k vectors' memory per vector."""
        rows = grouped_rows(x, self.config).transpose(0, 1)
        flat = ids.reshape(*rows.shape[:2], -1).long()
        named = self.codes.detach().float()[
            torch.arange(self.config.groups, device=ids.device)[:, None], flat
        ]
        return torch.nn.functional.cosine_similarity(rows[:, :, None], named, dim=-1).reshape(ids.shape)

    def fit(self, x: Float[Tensor, "*batch d_in"]) -> "Codebook":
        """Set the codes by k-means; the same vectors and config give the same codes.

        Raises:
            InputError: fewer vectors than codes, vectors of another shape, NaN or infinite values.
        """
        self._kmeans = None
        self._cluster(grouped_rows(x, self.config), stream=False)
        return self

    def partial_fit(self, x: Float[Tensor, "*batch d_in"]) -> "Codebook":
        """One step of k-means on a shard; call it on shard after shard.

        The first shard needs as many vectors as there are codes.
        """
        self._cluster(grouped_rows(x, self.config), stream=True)
        return self

    def count(self, ids: Int[Tensor, "*batch k"]) -> None:
        """Add to the usage statistics ``counts``."""
        self.counts += count_codes(ids, self.config.n_codes, self.config.groups)

    @torch.no_grad()
    def replace_dead(
        self,
        x: Float[Tensor, "*batch d_in"],
        optimizer: torch.optim.Optimizer | None = None,
        *,
        at_most: int = 0,
    ) -> int:
        """Give codes counted at most ``at_most`` times the direction of a vector that is badly coded.

        Vectors are drawn from ``x`` with chances ∝ their squared error. The new code is as long as the living codes
        of its group are on average; what the optimizer has gathered on the old one is set to zero. All counts begin
        anew.

        Returns:
            How many codes were replaced.
        """
        rows = grouped_rows(x, self.config)
        error = (rows - grouped_rows(self.decode(self.encode(x)), self.config)).square().sum(-1)
        dead = self.counts <= at_most
        lengths = self.codes.float().norm(dim=-1)
        for group in dead.any(1).nonzero()[:, 0].tolist():
            mask = dead[group]
            size = int(mask.sum())
            weights = error[group] if bool(error[group].sum() > 0) else torch.ones_like(error[group])
            drawn = rows[group, torch.multinomial(weights, size, replacement=size > int((weights > 0).sum()))]
            if mask.all():
                new = drawn / self.config.k
            else:
                new = nn.functional.normalize(drawn, dim=-1) * lengths[group, ~mask].mean()
            self.codes[group, mask] = new.to(self.codes.dtype)
        if optimizer is not None:
            self._forget(optimizer, dead)
        self.counts.zero_()
        return int(dead.sum())

    def tensors(self) -> dict[str, Tensor]:
        return {"codes": self.codes, "counts": self.counts}

    @classmethod
    def restored(cls, config: CodebookConfig, tensors: Mapping[str, Tensor]) -> "Codebook":
        book = cls(config).to(tensors["codes"].dtype)
        book.load_state_dict(dict(tensors))
        return book

    def to(self, *target: Any, **options: Any) -> "Codebook":
        """As of any torch module: a device, a dtype or both."""
        return super().to(*target, **options)

    def _most_similar(self, rows: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
        # dividing by the row's own length would not change the order
        similar = torch.bmm(rows, book.mT).div_(_norm(book)[:, None])
        ids = _top(similar, self.config.k)
        if self.config.magnitude == "dropped":
            return ids, rows.new_ones(ids.shape)
        total = _chosen_sum(book, ids)
        factor = (rows * total).sum(-1, keepdim=True) / total.square().sum(-1, keepdim=True).clamp(min=1e-12)
        return ids, factor.clamp(min=0).expand(ids.shape)

    def _greedy(self, rows: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.config.magnitude == "kept"
        norm = _norm(book)
        rest, ids, values = rows.clone(), [], []
        for _ in range(self.config.k):
            gain = torch.bmm(rest, book.mT)
            # what |rest|² loses, up to a monotone map: ⟨r, c⟩²/|c|² with a free factor ≥ 0, 2⟨r, c⟩ − |c|² without
            gain = gain.div_(norm[:, None]) if kept else gain.sub_(norm.square()[:, None] / 2)
            best, index = gain.max(-1)
            value = best.clamp(min=0) / norm.gather(1, index) if kept else torch.ones_like(best)
            rest -= value[..., None] * _chosen_sum(book, index[..., None])
            ids.append(index)
            values.append(value)
        return torch.stack(ids, -1), torch.stack(values, -1)

    @torch.no_grad()
    def _cluster(self, rows: Float[Tensor, "group row d_in"], *, stream: bool) -> None:
        """k-means on the vectors; for greedy selection, a share of the codes on each remainder in turn."""
        config = self.config
        # what counts is the direction, unless one code is subtracted after the other as it is
        spherical = config.selection == "cosine" or config.magnitude == "kept"
        stages = min(config.k, config.n_codes) if config.selection == "residual" else 1
        if self._kmeans is None:
            sizes = [len(part) for part in torch.arange(config.n_codes).tensor_split(stages)]
            self._kmeans = [
                GroupedKMeans(size, spherical=spherical, seed=config.seed + stage)
                for stage, size in enumerate(sizes)
            ]
        rest, books = rows, []
        for kmeans in self._kmeans:
            kmeans.partial_fit(rest) if stream else kmeans.fit(rest)
            ids = kmeans.predict(rest)
            chosen = kmeans.centres_.gather(1, ids[..., None].expand_as(rest))
            if spherical:
                along = (rest * chosen).sum(-1)
                books.append(kmeans.centres_ * _mean_by(ids, along, kmeans.counts_)[..., None])
                chosen = chosen * along[..., None]
            else:
                books.append(kmeans.centres_)
            rest = rest - chosen
        self.codes.copy_(torch.cat(books, 1))
        if config.k > 1 and config.selection == "cosine" and config.magnitude == "dropped":
            self._scale(rows)

    def _scale(self, rows: Tensor) -> None:
        """Shorten the codes of each group by the one factor with which k of them together fit best."""
        batch = rows.transpose(0, 1)
        batch = batch[:, 0] if self.config.groups == 1 else batch
        total = grouped_rows(self.decode(self.encode(batch)), self.config)
        factor = (rows * total).sum((1, 2)) / total.square().sum((1, 2)).clamp(min=1e-12)
        self.codes.mul_(factor[:, None, None])

    def _forget(self, optimizer: torch.optim.Optimizer, replaced: Bool[Tensor, "group code"]) -> None:
        for moment in optimizer.state.get(self.codes, {}).values():
            if isinstance(moment, Tensor) and moment.shape == self.codes.shape:
                moment[replaced] = 0


def _norm(book: Tensor) -> Float[Tensor, "group code"]:
    return book.norm(dim=-1).clamp(min=1e-12)


def _top(similar: Tensor, k: int) -> Int[Tensor, "group row k"]:
    return similar.argmax(-1, keepdim=True) if k == 1 else similar.topk(k, dim=-1).indices


def _chosen_sum(book: Tensor, ids: Int[Tensor, "group row k"]) -> Float[Tensor, "group row d_in"]:
    ids = ids.transpose(0, 1)
    total = sum_of_codes(book, Codes(ids, torch.ones_like(ids, dtype=book.dtype)))
    return total.reshape(*ids.shape[:2], -1).transpose(0, 1)


def _mean_by(ids: Tensor, values: Tensor, like: Tensor) -> Float[Tensor, "group code"]:
    """Mean of the values by id; where there is none, the mean of all."""
    sums = torch.zeros_like(like).scatter_add_(1, ids, values)
    counts = torch.zeros_like(like).scatter_add_(1, ids, torch.ones_like(values))
    return torch.where(counts > 0, sums / counts.clamp(min=1), values.mean(1, keepdim=True))
