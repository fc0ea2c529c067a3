"""Tokens of the corpus among their neighbours: where a code is on, ranked, evenly spread or all of them."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from interp.codesearch.firing_stats import RANKS
from interp.codesearch.index import CodeIndex
from interp.codesearch.search import Matches
from interp.errors import InputError

ORDERS = (*RANKS, "spread", "corpus")
"""By falling margin or similarity (the best ones, see :data:`~interp.codesearch.firing_stats.N_TOP`), evenly spaced
over the corpus, or all in its order."""


@dataclass(frozen=True)
class CodeContext:
    """A token of the corpus among its neighbours in the block that the model saw."""

    token: int
    document: int  # number of its document
    # the tokens' texts, which join to the text; not escaped. A character of several tokens stands at its last one.
    pieces: list[str]
    focus: int  # which piece is the token
    active: list[bool]  # at which pieces the code is on
    # similarity, margin: how clearly the code was chosen; None where that was not kept
    similarity: float | None = None
    margin: float | None = None


def code_contexts(
    index: CodeIndex,
    book: str,
    code: int,
    order: str = "margin",
    n: int | None = 10,
    *,
    start: int = 0,
    before: int = 16,
    after: int = 8,
) -> list[CodeContext]:
    """Where a code is on; :class:`InputError` if there is no such book, code or order.

    Args:
        order: of :data:`ORDERS`.
        n: how many; all if None.
        start: how many are left out in front, in the corpus' order.
        before, after: tokens around each.
    """
    if order not in ORDERS:
        raise InputError(f"order {order!r}: choose {', '.join(ORDERS)}")
    top = index.top(book, code, order) if order in RANKS else None
    if top is not None:
        tokens = top.tokens[:n]
    elif order == "spread" and n is not None:
        tokens = spaced(index.positions(book, code), n)
    else:
        tokens = index.positions(book, code)[start:][:n]
    contexts = [context_at(index, token, book, code, before=before, after=after) for token in tokens.tolist()]
    if top is None:
        return contexts
    strengths = zip(contexts, top.similarity[:n].tolist(), top.margin[:n].tolist(), strict=True)
    return [replace(context, similarity=similar, margin=margin) for context, similar, margin in strengths]


def match_contexts(index: CodeIndex, matches: Matches, n: int = 10) -> list[CodeContext]:
    """Matches of a search, evenly spaced, in the contexts of their first tokens; active is what lies in a match."""
    inside = np.zeros(index.n_tokens, bool)
    inside[matches.tokens] = True
    firsts = matches.tokens[np.flatnonzero(np.diff(matches.match, prepend=-1))]
    contexts = []
    for token in spaced(firsts, n).tolist():
        context = context_at(index, token, after=16)
        first = token - context.focus
        contexts.append(replace(context, active=inside[first : first + len(context.pieces)].tolist()))
    return contexts


def context_at(
    index: CodeIndex, token: int, book: str | None = None, code: int | None = None, *, before: int = 16, after: int = 8
) -> CodeContext:
    """One token of the corpus with its neighbours; with a code, where else that is on.

    :class:`InputError` if there is no such token, book or code.
    """
    if not 0 <= token < index.n_tokens:
        raise InputError(f"token {token}: the corpus has 0 to {index.n_tokens - 1}")
    corpus = index.corpus
    begin = token - token % corpus.context
    first, end = max(begin, token - before), min(begin + corpus.context, token + after + 1)
    tokens = np.arange(first, end)
    active = np.zeros(len(tokens), bool)
    if book is not None and code is not None:
        index.layout.code(book, code)
        active = (index.ids.rows(index.layout.number(book), tokens) == code).any(1)
    document = int(corpus.document_of(np.array([token]))[0])
    pieces = corpus.pieces(corpus.tokens[first:end])
    return CodeContext(token, document, pieces, token - first, active.tolist())


def spaced(tokens: Int[np.ndarray, " token"], n: int) -> Int[np.ndarray, " n"]:
    if len(tokens) <= n:
        return tokens
    return tokens[np.linspace(0, len(tokens) - 1, n).astype(np.int64)]
