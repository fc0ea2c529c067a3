"""Search results and contexts as CSV, every number in full; a whole index as parquet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from interp.codesearch.contexts import CodeContext
from interp.codesearch.index import CodeIndex
from interp.codesearch.search import CodeHit
from interp.files import atomic_path
from interp.progress import Stage, silent

ROWS = 2**16  # tokens that are in memory at once, one row group


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
    columns = ["book", "code", "tokens", "tokens_in_matches", "matches_found"]
    columns += ["precision", "precision_low", "precision_high", "recall", "recall_low", "recall_high", "f1"]
    rows = [
        (hit.book, hit.code, hit.count, hit.hits, hit.found, hit.precision, *hit.precision_interval)
        + (hit.recall, *hit.recall_interval, hit.f1)
        for hit in hits
    ]
    return _csv(rows, columns)


def contexts_csv(contexts: Sequence[CodeContext]) -> str:
    """One line a context, the token's own text apart from what stands around it."""
    rows = []
    for context in contexts:
        at, pieces = context.focus, context.pieces
        texts = "".join(pieces[:at]), pieces[at], "".join(pieces[at + 1 :])
        rows.append((context.token, context.document, *texts, context.similarity, context.margin))
    return _csv(rows, ("token", "document", "before", "text", "after", "similarity", "margin"))


def _csv(rows: Sequence[tuple], columns: Sequence[str]) -> str:
    import polars

    frame = polars.DataFrame(rows, list(columns), orient="row", infer_schema_length=None)
    return frame.write_csv(quote_style="non_numeric")
