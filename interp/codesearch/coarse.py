"""A coarse level: each book's codes merged into a few that can be told apart, and an index at that level.

Codes are merged by k-means, each as heavy as it is often on, over what they are and what is known of them: the code's
vector; the class of the token that the head looks at, with its relation; and that token itself. What is no head has
the token that it stands at in place of both. Shares of tokens are compared by their square roots. Each of the three is
brought to the same variance, and what is known then counts :data:`KNOWN` times. Only the documents that choose names
are read, so that the others can judge.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt
from torch import Tensor

from interp.codesearch.firing_stats import N_TOP
from interp.codesearch.index import CodeIndex, Similarities, Top
from interp.codesearch.layout import IdFile, Layout, without_repeats
from interp.codesearch.look_patterns import RELATIONS, LookPatterns
from interp.codesearch.search import largest
from interp.errors import InputError

ALL = "all"  # ``a20.h0=3.all`` is the coarse code 3 of a20.h0
N_COARSE = 16  # coarse codes of a book, at most half as many as it has codes
KNOWN = 0.7
TOKENS = 300  # commonest tokens that are told apart
RESTARTS = 2

Groups = Mapping[str, Int[np.ndarray, " code"]]
"""Of every code of a book the coarse code that it belongs to; 0 is on most often."""


def merge_codes(
    vectors: Float[Tensor, "code d"],
    ids: Shaped[np.ndarray, "token k"],
    looking: LookPatterns,
    places: Int[np.ndarray, " token"] | None,
    *,
    seed: int,
) -> Int[np.ndarray, " code"]:
    """The coarse code of every code of one book. ``vectors``: of the codes, in a space where lengths count. ``places``:
    the token that the head looks at most from each, −1 for none; None for what is no head."""
    from sklearn.cluster import KMeans

    standing, n_codes = looking.standing, len(vectors)
    first = np.flatnonzero(standing.half == 0)
    codes, k = ids[first].ravel().astype(np.int64), ids.shape[1]
    is_code = codes < n_codes
    codes = codes[is_code]
    weights = np.bincount(codes, minlength=n_codes).astype(float)
    n = max(1, min(N_COARSE, n_codes // 2, int((weights > 0).sum())))

    def scaled(rows: Float[np.ndarray, "code d"]) -> Float[np.ndarray, "code d"]:
        rows = rows - np.average(rows, 0, weights)
        variance = np.average(np.square(rows).sum(1), weights=weights)
        return rows / np.sqrt(max(variance, 1e-12))

    def shares(values: Int[np.ndarray, " token"], n_values: int) -> Float[np.ndarray, "code value"]:
        of_codes = np.repeat(values[first], k)[is_code]
        counts = np.bincount(codes * n_values + of_codes, minlength=n_codes * n_values)
        return scaled(np.sqrt(counts.reshape(n_codes, n_values) / np.maximum(weights, 1)[:, None]))

    if places is None:
        classes, tokens = looking.classes[standing.tokens], standing.tokens
        n_classes = len(looking.class_names)
    else:
        tokens = standing.tokens[np.maximum(places, 0)]
        relation = np.maximum(looking.relations(places), 0)
        classes = relation * len(looking.class_names) + looking.classes[tokens]
        n_classes = len(RELATIONS) * len(looking.class_names)
    number = np.full(len(looking.classes), TOKENS)
    common = largest(np.bincount(tokens[first], minlength=len(number)), TOKENS)
    number[common] = np.arange(len(common))
    space = scaled(vectors.cpu().double().numpy())
    known = [shares(classes, n_classes), shares(number[tokens], TOKENS + 1)]
    features = np.concatenate([space, *(KNOWN * part for part in known)], 1)
    seen = weights > 0
    n = min(n, len(np.unique(features[seen].round(6), axis=0)))
    fitted = KMeans(n, n_init=RESTARTS, random_state=seed).fit(features[seen], sample_weight=weights[seen])
    groups = np.zeros(n_codes, np.int64)
    groups[seen] = fitted.labels_
    centres = fitted.cluster_centers_[:, : space.shape[1]]
    apart = np.square(space[~seen, None] - centres).sum(-1)
    groups[~seen] = apart.argmin(1) if len(apart) else 0
    order = np.argsort(-np.bincount(groups, weights, n), kind="stable")
    return np.argsort(order)[groups]


def variance_kept(
    vectors: Float[Tensor, "code d"], groups: Int[np.ndarray, " code"], counts: Shaped[np.ndarray, " code"]
) -> float:
    """Of the variance of the codes' vectors, each as often as it is on, the share between coarse codes."""
    weights = torch.from_numpy(counts.astype(float)).to(vectors)
    mean = weights @ vectors / weights.sum().clamp(min=1)
    merged = merged_vectors(vectors, groups, counts)[torch.from_numpy(groups).to(vectors.device)]
    whole, rest = (float(weights @ (vectors - centre).square().sum(-1)) for centre in (mean, merged))
    return 1 - rest / whole if whole > 0 else 0.0


class _MergedIds(IdFile):
    """The ids of a file with coarse codes in place of its own."""

    def __init__(self, layout: Layout, ids: IdFile, groups: Groups) -> None:
        self.layout, self._ids = layout, ids
        self._coarse = [np.append(groups[b.name], b.n_codes).astype(layout.dtype) for b in layout.books]

    def _merged(self, number: int, ids: UInt[np.ndarray, "*token k"]) -> UInt[np.ndarray, "*token k"]:
        merged = self._coarse[number][ids]
        if merged.shape[-1] == 1:
            return merged
        flat = merged.reshape(-1, merged.shape[-1]).astype(np.int64)
        once = without_repeats(flat, self.layout.books[number].n_codes)
        return once.astype(merged.dtype).reshape(merged.shape)

    def book(self, number: int) -> UInt[np.ndarray, "block token k"]:
        return self._merged(number, self._ids.book(number))

    def rows(self, number: int, tokens: Int[np.ndarray, " n"]) -> UInt[np.ndarray, "n k"]:
        return self._merged(number, self._ids.rows(number, tokens))


class CoarseIndex(CodeIndex):
    """An index whose codes are the coarse ones: whatever is asked of an index is answered for them."""

    def __init__(self, fine: CodeIndex, groups: Groups) -> None:
        self.fine, self.groups = fine, groups
        books = [replace(book, n_codes=int(groups[book.name].max()) + 1) for book in fine.books]
        layout = Layout(tuple(books), fine.n_tokens)
        ids = _MergedIds(layout, fine.ids, groups)
        counts = [
            np.bincount(ids.tokens(number).ravel(), minlength=book.n_codes + 1)[:-1].astype(np.uint32)
            for number, book in enumerate(books)
        ]
        tables, of_fine = {**fine.tables, "counts": np.concatenate(counts)}, (fine._books, fine._books_within)
        super().__init__(fine.folder, fine.manifest, layout, ids, tables, *of_fine, fine._looks)

    def named(self, name: str) -> tuple[str, int]:
        book, _, code = name.partition("=")
        number = code.removesuffix(f".{ALL}")
        if number == code or not number.isdecimal():
            raise InputError(f"code {name!r}: a coarse one is written such as {self.books[0].name}=3.{ALL}")
        self.layout.code(book, int(number))
        return book, int(number)

    def name(self, book: str, code: int) -> str:
        return f"{book}={code}.{ALL}"

    def members(self, book: str, code: int) -> list[int]:
        self.layout.code(book, code)
        return np.flatnonzero(self.groups[book] == code).tolist()

    def positions(self, book: str, code: int) -> Int[np.ndarray, " n"]:
        self.layout.code(book, code)
        return np.flatnonzero((self.ids.tokens(self.layout.number(book)) == code).any(1))

    def top(self, book: str, code: int, by: str = "margin") -> Top:
        tops = [self.fine.top(book, member, by) for member in self.members(book, code)]
        tokens, similarity, margin = (
            np.concatenate([getattr(top, name) for top in tops]) for name in ("tokens", "similarity", "margin")
        )
        best = np.argsort(-(margin if by == "margin" else similarity), kind="stable")
        _, once = np.unique(tokens[best], return_index=True)
        best = best[np.sort(once)][:N_TOP]
        return Top(tokens[best], similarity[best], margin[best])

    def similarities(self, book: str, code: int) -> Similarities:
        """Of each token with the code that it has, and without any of them with one of them."""
        of_members = [self.fine.similarities(book, member) for member in self.members(book, code)]
        fired = np.sum([member.fired for member in of_members], 0)
        return Similarities(of_members[0].edges, fired, np.mean([member.silent for member in of_members], 0))

    def vectors(self, book: str) -> Float[Tensor, "code d"]:
        return merged_vectors(self.fine.vectors(book), self.groups[book], self.fine.counts_of(book))


def merged_vectors(
    vectors: Float[Tensor, "code d"], groups: Int[np.ndarray, " code"], counts: Shaped[np.ndarray, " code"]
) -> Float[Tensor, "coarse d"]:
    """The mean vector of each coarse code's members, each as often as it is on."""
    which = torch.from_numpy(groups).to(vectors.device)
    weights = torch.from_numpy(counts.astype(np.float64)).to(vectors) + 1e-6  # members that are never on
    n = int(groups.max()) + 1
    merged = vectors.new_zeros(n, vectors.shape[1]).index_add_(0, which, vectors * weights[:, None])
    return merged / vectors.new_zeros(n).index_add_(0, which, weights)[:, None]
