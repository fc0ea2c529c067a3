"""An index as one table: every token once, every codebook's codes as the index has them."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from interp.codesearch import tables


@pytest.mark.parametrize("rows", [tables.ROWS, 100])
def test_parquet_holds_every_code_of_every_token(index, tmp_path, monkeypatch, rows):
    monkeypatch.setattr(tables, "ROWS", rows)
    tables.write_parquet(index, path := tmp_path / "index.parquet")
    table = pq.read_table(path)
    corpus, every = index.corpus, np.arange(index.n_tokens)
    assert table.column_names == ["document", "token", "text", *(book.name for book in index.books)]
    assert table["token"].to_pylist() == corpus.tokens[every].tolist()
    assert table["document"].to_pylist() == corpus.document_of(every).tolist()
    assert table["text"].to_pylist()[3:9] == list(map(corpus.token_text, corpus.tokens[3:9].tolist()))
    assert {book.k == 1 for book in index.books} == {True, False}  # both forms
    for place, book in enumerate(index.books):
        rows_of_ids = index.ids.rows(place, every).tolist()
        codes = [[code for code in row if code < book.n_codes] for row in rows_of_ids]
        single = [row[0] if row else None for row in codes]
        assert table[book.name].to_pylist() == (single if book.k == 1 else codes)
        assert len({str(row) for row in codes}) > 1
