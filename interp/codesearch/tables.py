"""Search results and contexts as CSV, every number in full."""

from collections.abc import Iterable, Mapping, Sequence

from interp.codesearch.contexts import CodeContext
from interp.codesearch.search import CodeHit


def hits_csv(hits: Sequence[CodeHit]) -> str:
    """One line a code; intervals are Wilson's at 95 %."""
    return _csv(
        {
            "book": [hit.book for hit in hits],
            "code": [hit.code for hit in hits],
            "tokens": [hit.count for hit in hits],
            "tokens_in_matches": [hit.hits for hit in hits],
            "matches_found": [hit.found for hit in hits],
            "precision": [hit.precision for hit in hits],
            "precision_low": [hit.precision_interval[0] for hit in hits],
            "precision_high": [hit.precision_interval[1] for hit in hits],
            "recall": [hit.recall for hit in hits],
            "recall_low": [hit.recall_interval[0] for hit in hits],
            "recall_high": [hit.recall_interval[1] for hit in hits],
            "f1": [hit.f1 for hit in hits],
        }
    )


def contexts_csv(contexts: Sequence[CodeContext]) -> str:
    """One line a context, the token's own text apart from what stands around it."""
    return _csv(
        {
            "token": [context.token for context in contexts],
            "document": [context.document for context in contexts],
            "before": ["".join(context.pieces[: context.focus]) for context in contexts],
            "text": [context.pieces[context.focus] for context in contexts],
            "after": ["".join(context.pieces[context.focus + 1 :]) for context in contexts],
            "similarity": [context.similarity for context in contexts],
            "margin": [context.margin for context in contexts],
        }
    )


def _csv(columns: Mapping[str, Iterable]) -> str:
    import polars

    return polars.DataFrame(columns).write_csv(quote_style="non_numeric")
