"""Search results and contexts as CSV, every number in full."""

from collections.abc import Iterable, Sequence

from interp.codesearch.contexts import Context
from interp.codesearch.search import CodeHit

HIT_COLUMNS = (
    "book",
    "code",
    "tokens",
    "tokens_in_matches",
    "matches_found",
    "precision",
    "precision_low",
    "precision_high",
    "recall",
    "recall_low",
    "recall_high",
    "f1",
)
CONTEXT_COLUMNS = ("token", "document", "before", "text", "after", "similarity", "margin")


def hits_csv(hits: Iterable[CodeHit]) -> str:
    """One line a code; intervals are Wilson's at 95 %."""
    rows = (
        (hit.book, hit.code, hit.count, hit.hits, hit.found, hit.precision, *hit.precision_interval)
        + (hit.recall, *hit.recall_interval, hit.f1)
        for hit in hits
    )
    return _csv(HIT_COLUMNS, rows)


def contexts_csv(contexts: Iterable[Context]) -> str:
    """One line a context, the token's own text apart from what stands around it."""
    rows = (
        (
            context.token,
            context.document,
            "".join(context.pieces[: context.focus]),
            context.pieces[context.focus],
            "".join(context.pieces[context.focus + 1 :]),
            context.similarity,
            context.margin,
        )
        for context in contexts
    )
    return _csv(CONTEXT_COLUMNS, rows)


def _csv(columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    import polars

    table = polars.DataFrame(list(rows), schema=list(columns), orient="row", infer_schema_length=None)
    return table.write_csv(quote_style="non_numeric")
