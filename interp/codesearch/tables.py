"""Search results and contexts as CSV, every number in full; a whole index as parquet."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from interp.codesearch.contexts import CodeContext
from interp.codesearch.index import CodeIndex
from interp.codesearch.search import CodeHit
from interp.files import atomic_path
from interp.progress import Stage, silent

ROWS = 2**16
"""Tokens that are in memory at once, one row group."""


def write_parquet(index: CodeIndex, path: Path, *, stage: Stage = silent) -> None:
    """One row a token: ``document``, ``token`` (id), ``text``, and a column a codebook, such as ``a5.h3``, with codes.

    A list where a vector has several codes. Of a token without a code it is null, or an empty list.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = pa.uint16() if index.layout.dtype == np.uint16 else pa.uint32()
    fields = [("document", pa.int32()), ("token", pa.int32()), ("text", pa.string())]
    fields += [(book.name, number if book.k == 1 else pa.list_(number)) for book in index.books]
    corpus, n = index.corpus, index.n_tokens
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, pa.schema(fields), compression="zstd") as writer,
        stage("tokens", n) as done,
    ):
        for begin in range(0, n, ROWS):
            tokens = np.arange(begin, min(begin + ROWS, n))
            ids = corpus.tokens[tokens]
            columns = [pa.array(corpus.document_of(tokens), pa.int32()), pa.array(ids, pa.int32())]
            columns.append(pa.array(map(corpus.token_text, ids.tolist()), pa.string()))
            for place, book in enumerate(index.books):
                codes = index.ids.rows(place, tokens)
                is_code = codes < book.n_codes
                if book.k == 1:
                    column = pa.array(codes[:, 0], number, mask=~is_code[:, 0])
                else:
                    ends = pa.array(np.concatenate([[0], is_code.sum(1).cumsum()]), pa.int32())
                    column = pa.ListArray.from_arrays(ends, pa.array(codes[is_code], number))
                columns.append(column)
            writer.write_table(pa.table(columns, schema=writer.schema))
            done(len(tokens))


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
