"""What is known about one code, in one call."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from interp.codesearch.contexts import Context, code_contexts, spaced
from interp.codesearch.index import CodeIndex, Similarities
from interp.codesearch.search import count_at, largest
from interp.codesearch.vectors import LogitLens, Neighbour, logit_lens, nearest_codes
from interp.intervals import wilson
from interp.models import Model
from interp.tasks.errors import InputError

RELATED_SAMPLE = 1000
"""Tokens with the code at which other codes are counted, at most: evenly spaced ones."""


@dataclass(frozen=True)
class Related:
    """Another code that is on at the same tokens.

    Attributes:
        share: of the (sampled) tokens with the code, those that have the other too; with Wilson's 95 % interval.
        lift: share / the other's share of all tokens; log2 of it is the pointwise mutual information.
        weight: share · log2 lift, bits: what they are ranked by.
    """

    book: str
    code: int
    share: float
    interval: tuple[float, float]
    lift: float
    weight: float


@dataclass(frozen=True)
class TokenShare:
    """A token of the vocabulary at which the code is on.

    Attributes:
        precision: of the code's tokens, those that are this one.
        recall: of this token's occurrences, those with the code.
    """

    token: int
    text: str
    count: int
    precision: float
    recall: float


@dataclass(frozen=True)
class Coverage:
    """A document and how much of it has the code.

    Attributes:
        first: the first of its tokens with the code.
    """

    document: int
    first: int
    count: int
    length: int

    @property
    def share(self) -> float:
        return self.count / self.length


@dataclass(frozen=True)
class CodePage:
    """
    Attributes:
        count: tokens with the code, of ``n_tokens``.
        n_documents: documents with the code.
        contexts: where it was chosen most clearly, by falling margin.
        spread: as many, evenly spaced over all its tokens: what the code is like on average.
        related_sample: tokens that ``related`` was counted on.
        neighbours, logits: None without codebooks, without a model.
    """

    book: str
    code: int
    count: int
    n_tokens: int
    n_documents: int
    contexts: list[Context]
    spread: list[Context]
    similarities: Similarities
    tokens: list[TokenShare]
    coverage: list[Coverage]
    related: list[Related]
    related_sample: int
    neighbours: list[Neighbour] | None
    logits: LogitLens | None

    @property
    def frequency(self) -> float:
        return self.count / self.n_tokens


def code_page(
    index: CodeIndex,
    book: str,
    code: int,
    *,
    model: Model | None = None,
    n: int = 10,
    before: int = 16,
    after: int = 8,
) -> CodePage:
    """All of it; ``n`` of every list.

    Args:
        model: for the logit lens; the index's own.
        before, after: tokens around each context.

    Raises:
        InputError: no such book or code.
    """
    tokens = index.positions(book, code)
    contexts, spread = (
        code_contexts(index, book, code, order, n, before=before, after=after, tokens=tokens)
        for order in ("margin", "spread")
    )
    # tokens are in order: a document's are those between its bounds
    bounds = np.searchsorted(tokens, np.append(index.corpus.documents, index.n_tokens))
    documents = np.flatnonzero(np.diff(bounds))
    counts = np.diff(bounds)[documents]
    try:
        neighbours = nearest_codes(index, book, code, n)
    except InputError:
        neighbours = None
    related, sample = related_codes(index, book, code, n, tokens=tokens)
    return CodePage(
        book=book,
        code=code,
        count=len(tokens),
        n_tokens=index.n_tokens,
        n_documents=len(documents),
        contexts=contexts,
        spread=spread,
        similarities=index.similarities(book, code),
        tokens=token_shares(index, tokens, n),
        coverage=_coverage(index, tokens, documents, counts, n),
        related=related,
        related_sample=sample,
        neighbours=neighbours,
        logits=None if model is None or neighbours is None else logit_lens(index, model, book, code, n),
    )


def token_shares(index: CodeIndex, tokens: Int[np.ndarray, " token"], n: int = 10) -> list[TokenShare]:
    """The vocabulary's tokens among some tokens of the corpus, the most frequent first."""
    corpus = index.corpus
    every = corpus.token_counts
    counts = np.bincount(corpus.tokens[tokens], minlength=len(every))
    found = np.flatnonzero(counts)
    counts = counts[found]
    best = np.lexsort((found, -counts))[:n]
    return [
        TokenShare(
            int(found[i]),
            corpus.token_text(int(found[i])),
            int(counts[i]),
            float(counts[i] / len(tokens)),
            float(counts[i] / every[found[i]]),
        )
        for i in best
    ]


def related_codes(
    index: CodeIndex,
    book: str,
    code: int,
    n: int = 10,
    *,
    tokens: Int[np.ndarray, " token"] | None = None,
    sample: int = RELATED_SAMPLE,
) -> tuple[list[Related], int]:
    """Codes of all books that are on at the same tokens more often than elsewhere, and on how many tokens counted."""
    own = index.layout.code(book, code)
    some = spaced(index.positions(book, code) if tokens is None else tokens, sample)
    if not len(some):
        return [], 0
    together = count_at(index, some)
    others = np.flatnonzero(together)
    others = others[others != own]
    share = together[others] / len(some)
    lift = share / (index.counts[others] / index.n_tokens)
    weight = share * np.log2(lift)
    found = []
    for i in largest(weight, n).tolist():
        if weight[i] > 0:
            other, its = index.layout.of_code(int(others[i]))
            interval = wilson(int(together[others[i]]), len(some))
            found.append(
                Related(other.name, its, float(share[i]), interval, float(lift[i]), float(weight[i]))
            )
    return found, len(some)


def _coverage(
    index: CodeIndex,
    tokens: Int[np.ndarray, " token"],
    documents: Int[np.ndarray, " document"],
    counts: Int[np.ndarray, " document"],
    n: int,
) -> list[Coverage]:
    """Documents by the share of their tokens with the code; of equal shares the longer first."""
    lengths = index.corpus.document_lengths()[documents]
    best = np.lexsort((-lengths, -counts / lengths))[:n]
    firsts = np.searchsorted(tokens, index.corpus.documents[documents])
    return [
        Coverage(int(documents[i]), int(tokens[firsts[i]]), int(counts[i]), int(lengths[i])) for i in best
    ]
