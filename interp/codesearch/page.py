"""What is known about one code, in one call.

What a code's vector says by itself: its neighbours in the book, and what it would add to the logits.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from interp.codesearch.contexts import CodeContext, code_contexts, spaced
from interp.codesearch.index import CodeIndex, Similarities
from interp.codesearch.search import count_at, largest
from interp.codesearch.writes import written_vectors
from interp.errors import InputError
from interp.models import Model
from interp.models.residual_writes import FinalNorm
from interp.stats import wilson


@dataclass(frozen=True)
class Neighbour:
    """Another code of the same book by the cosine of their vectors, as the book compares vectors."""

    code: int
    cosine: float
    count: int


@dataclass(frozen=True)
class LogitLens:
    """What the code's vector would add to the logits by itself, (text, logit) of the tokens, furthest first."""

    up: list[tuple[str, float]]
    down: list[tuple[str, float]]


def nearest_codes(index: CodeIndex, book: str, code: int, n: int = 10) -> list[Neighbour]:
    """Codes of the same book by cosine; :class:`InputError` if the index's codebooks are not there."""
    index.layout.code(book, code)
    place, counts = index.books[index.layout.number(book)], index.counts_of(book)
    dictionary = index.codebooks()[place.site]
    # comparable takes the vectors of every dictionary of the site
    of_site = dictionary.comparable(index.vectors(book).expand(len(dictionary.codes), -1, -1))
    vectors = of_site[place.vectors].cpu()
    cosine = torch.nn.functional.cosine_similarity(vectors, vectors[code], dim=-1).numpy()
    cosine[code] = -np.inf
    nearest = np.argsort(-cosine, kind="stable")[: min(n, len(cosine) - 1)]
    return [Neighbour(int(i), float(cosine[i]), int(counts[i])) for i in nearest]


@torch.no_grad()
def logit_lens(index: CodeIndex, model: Model, book: str, code: int, n: int = 10) -> LogitLens:
    """The code's vector through W_O (heads), the final norm and the unembedding, as if it were all of the residual.

    What the blocks between make of it is left out: early layers' codes often say little here. A code of nothing, which
    training puts into books of several codes, writes no token.
    """
    index.check_model(model)
    index.layout.code(book, code)
    vector = written_vectors(index, model, book)[code]
    if not vector.any():
        return LogitLens([], [])
    final = FinalNorm.of(model)
    # the norm itself gives the scale: beside little that is written its epsilon counts
    normed = model.ln_final(vector[None, None].to(model.cfg.dtype))[0, 0].float()
    logits = (final.norm.direction(vector) * final.norm.factor(vector, normed) @ final.unembedding).cpu()
    up, down = (logits.topk(min(n, len(logits)), largest=largest).indices.tolist() for largest in (True, False))
    text = index.corpus.token_text
    return LogitLens(*([(text(i), float(logits[i])) for i in furthest] for furthest in (up, down)))


RELATED_SAMPLE = 1000  # tokens with the code at which other codes are counted, at most: evenly spaced ones


@dataclass(frozen=True)
class Related:
    """Another code that is on at the same tokens."""

    book: str
    code: int
    # of the (sampled) tokens with the code, those that have the other too; with Wilson's 95 % interval
    share: float
    interval: tuple[float, float]
    lift: float  # share / the other's share of all tokens; log2 of it is the pointwise mutual information
    weight: float  # share · log2 lift, bits: what they are ranked by


@dataclass(frozen=True)
class TokenShare:
    """A token of the vocabulary at which the code is on."""

    token: int
    text: str
    count: int
    precision: float  # of the code's tokens, those that are this one
    recall: float  # of this token's occurrences, those with the code


@dataclass(frozen=True)
class Coverage:
    """A document and how much of it has the code."""

    document: int
    count: int
    length: int

    @property
    def share(self) -> float:
        return self.count / self.length


@dataclass(frozen=True)
class CodePage:
    book: str
    code: int
    count: int  # tokens with the code, of `n_tokens`
    n_tokens: int
    n_documents: int  # documents with the code
    contexts: list[CodeContext]  # where it was chosen most clearly, by falling margin
    similarities: Similarities
    tokens: list[TokenShare]
    coverage: list[Coverage]
    related: list[Related]
    related_sample: int  # tokens that `related` was counted on
    neighbours: list[Neighbour] | None  # None without codebooks

    @property
    def frequency(self) -> float:
        return self.count / self.n_tokens


def code_page(index: CodeIndex, book: str, code: int, *, n: int = 10) -> CodePage:
    """All that the index says by itself; ``n`` of every list. What the code writes says :func:`logit_lens`."""
    tokens = index.positions(book, code)
    # tokens are in order: a document's are those between its bounds
    in_document = np.diff(np.searchsorted(tokens, np.append(index.corpus.documents, index.n_tokens)))
    try:
        neighbours = nearest_codes(index, book, code, n)
    except InputError:
        neighbours = None
    related, sample = related_codes(index, book, code, n, tokens=tokens)
    lengths = index.corpus.document_lengths()
    densest = np.lexsort((-lengths, -in_document / lengths))[:n].tolist()  # of equal shares the longer first
    return CodePage(
        book=book,
        code=code,
        count=len(tokens),
        n_tokens=index.n_tokens,
        n_documents=int((in_document > 0).sum()),
        contexts=code_contexts(index, book, code, "margin", n),
        similarities=index.similarities(book, code),
        tokens=token_shares(index, tokens, n),
        coverage=[Coverage(i, int(in_document[i]), int(lengths[i])) for i in densest if in_document[i]],
        related=related,
        related_sample=sample,
        neighbours=neighbours,
    )


def token_shares(index: CodeIndex, tokens: Int[np.ndarray, " token"], n: int = 10) -> list[TokenShare]:
    """The vocabulary's tokens among some tokens of the corpus, the most frequent first."""
    corpus = index.corpus
    counts = np.bincount(corpus.tokens[tokens], minlength=len(corpus.special))
    return [
        TokenShare(i, corpus.token_text(i), count, count / len(tokens), count / int(corpus.token_counts[i]))
        for i in largest(counts, n).tolist()
        if (count := int(counts[i]))
    ]


def related_codes(
    index: CodeIndex, book: str, code: int, n: int = 10, tokens: Int[np.ndarray, " token"] | None = None
) -> tuple[list[Related], int]:
    """Codes of all books that are on at the same tokens more often than elsewhere, and on how many tokens counted;
    ``tokens`` are all with the code, if they are known."""
    row = index.layout.code(book, code)
    sample = spaced(index.positions(book, code) if tokens is None else tokens, RELATED_SAMPLE)
    if not len(sample):
        return [], 0
    together = count_at(index, sample)
    others = np.flatnonzero(together)
    others = others[others != row]
    share = together[others] / len(sample)
    lift = share / (index.counts[others] / index.n_tokens)
    weight = share * np.log2(lift)
    related = []
    for i in largest(weight, n).tolist():
        if weight[i] > 0:
            other, number = index.layout.of_code(int(others[i]))
            interval = wilson(int(together[others[i]]), len(sample))
            related.append(Related(other.name, number, float(share[i]), interval, float(lift[i]), float(weight[i])))
    return related, len(sample)
