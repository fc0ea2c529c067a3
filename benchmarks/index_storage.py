"""The ids of an index in our file, in four of them, and in Parquet sorted by site and code, asked by DuckDB.

    pip install duckdb pyarrow
    python -m benchmarks.index_storage [--tokens 400000] [--books 24] [--dir DIR]

Synthetic ids as in code_index.py. Each way answers the same two questions: at which tokens a code is, as its page asks,
and how often each code of every book is at 10 000 tokens, as a pattern asks once its matches are known. Processor time
of one thread, all in memory, median of 5 and the fastest.
"""

import shutil
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.code_index import D_HEAD, HEADS, MATCHES, make_index, repeated
from benchmarks.common import arguments, timed
from interp.bottlenecks import Codebook, CodebookConfig
from interp.codesearch import CodeIndex
from interp.codesearch.build import count_and_list
from interp.codesearch.index import positions
from interp.codesearch.layout import IdFile, Layout
from interp.codesearch.search import count_at

SHARDS, N_CODES, K = 4, 10_000, 8


class Ours:
    """Some files of ids, each of a part of the text."""

    def __init__(self, parts: list[Any], span: int) -> None:
        self.parts, self.span = parts, span
        self.starts = np.cumsum([0, *(part.layout.n_tokens for part in parts)])

    def of_code(self, book: int, code: int) -> np.ndarray:
        token_positions = []
        for part, start in zip(self.parts, self.starts, strict=False):
            spans = part.lists[part.layout.codes[book] + code]
            token_positions.append(start + positions(part.ids, book, code, spans, self.span))
        return np.concatenate(token_positions)

    def at(self, tokens: np.ndarray) -> np.ndarray:
        tokens_by_part = np.split(tokens, np.searchsorted(tokens, self.starts[1:-1]))
        return sum(count_at(part, t - s) for part, t, s in zip(self.parts, tokens_by_part, self.starts, strict=False))


class Parquet:
    """Rows of book, code and token, sorted in this order."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.layout = layout
        self.base = duckdb.connect(config={"threads": 1})
        self.base.execute(f"CREATE VIEW ids AS FROM '{path}'")
        self.base.execute("SELECT count(*) FROM ids").fetchall()

    @staticmethod
    def write(path: Path, index: CodeIndex) -> None:
        kinds = [("book", pa.uint16()), ("code", pa.uint16()), ("token", pa.uint32())]
        options = {"compression": "zstd", "use_dictionary": False}
        coded = dict.fromkeys(("book", "code", "token"), "DELTA_BINARY_PACKED")  # a third of the size without
        with pq.ParquetWriter(path, pa.schema(kinds), column_encoding=coded, **options) as file:
            for i, book in enumerate(index.books):
                ids = index.ids.book(i).reshape(-1, book.k)[: index.n_tokens]
                token, slot = np.nonzero(ids < book.n_codes)
                code = ids[token, slot]
                order = np.argsort(code, kind="stable")
                columns = [np.full(len(code), i, np.uint16), code[order], token[order].astype(np.uint32)]
                file.write_table(pa.table(columns, file.schema), row_group_size=122_880)  # DuckDB's own

    def of_code(self, book: int, code: int) -> np.ndarray:
        asked = f"SELECT token FROM ids WHERE book = {book} AND code = {code} ORDER BY token"
        return self.base.execute(asked).fetchnumpy()["token"]

    def at(self, tokens: np.ndarray) -> np.ndarray:
        asked = pa.table({"token": tokens.astype(np.uint32)})  # noqa: F841 - DuckDB finds it by its name
        rows = self.base.execute(
            "SELECT book, code, count(*) AS n FROM ids SEMI JOIN asked USING (token) GROUP BY book, code"
        ).fetchnumpy()
        counts = np.zeros(self.layout.n_codes, np.int64)
        counts[self.layout.codes[rows["book"]] + rows["code"]] = rows["n"]
        return counts


def part_of(index: CodeIndex, path: Path, blocks: np.ndarray, span: int) -> Any:
    """A file of its own with some blocks of an index."""
    n = min((blocks[-1] + 1) * 1024, index.n_tokens) - blocks[0] * 1024
    ids = IdFile.create(path, Layout(index.books, int(n)))
    ids.array[:] = index.ids.array[blocks[0] : blocks[-1] + 1]
    return SimpleNamespace(ids=ids, layout=ids.layout, books=index.books, lists=count_and_list(ids, span)[1])


def told(work: Any) -> str:
    _, processor = repeated(work)
    return f"{np.median(processor):.1f} ({min(processor):.1f}) ms"


def main() -> None:
    given = arguments(__doc__, tokens=400_000, books=24, dir=Path)
    torch.set_num_threads(1)
    folder = given.dir or Path(tempfile.mkdtemp())
    book = Codebook(CodebookConfig(D_HEAD, N_CODES, k=K, groups=HEADS)).requires_grad_(False)
    make_index(folder / "index", book, given.tokens, given.books, N_CODES, K)
    index, path = CodeIndex.open(folder / "index"), folder / "ids.parquet"
    span, written = int(index.manifest["span"]), timed(lambda: Parquet.write(path, index))
    print(f"{index.layout.n_ids} ids; Parquet sorted and written in {written.clock:.0f} s")
    whole = SimpleNamespace(ids=index.ids, layout=index.layout, books=index.books, lists=index.tables["lists"])
    cut = np.array_split(np.arange(index.layout.n_blocks), SHARDS)
    parts = [part_of(index, folder / f"shards/{i}.npy", blocks, span) for i, blocks in enumerate(cut)]
    parquet = partial(Parquet, path, index.layout)
    ways = {"ours": Ours([whole], span), "four files": Ours(parts, span), "Parquet": parquet()}
    size = sum(index.manifest["bytes"][name] for name in ("ids.npy", "lists.npy"))
    files = {"ours": (size, partial(CodeIndex.open, folder / "index")), "Parquet": (path.stat().st_size, parquet)}
    order = np.argsort(index.counts[:N_CODES])
    codes = {"frequent": int(order[-1]), "usual": int(order[N_CODES // 2])}
    rng = np.random.default_rng(0)
    tokens = np.sort(rng.choice(index.n_tokens, MATCHES, replace=False))
    for name, way in ways.items():
        for code in codes.values():
            assert np.array_equal(way.of_code(0, code), whole_answer := ways["ours"].of_code(0, code))
            assert len(whole_answer) == index.counts[code] > 0
        assert np.array_equal(way.at(tokens), ways["ours"].at(tokens)) and way.at(tokens).sum() > MATCHES
        print(name)
        if name in files:
            size, opened = files[name]
            print(f"  bytes an id {size / index.layout.n_ids:.2f}, open {told(opened)}")
        for what, code in codes.items():
            print(f"  tokens of a {what} code, {index.counts[code]}: {told(partial(way.of_code, 0, code))}")
        print(f"  counts of all codes at {MATCHES} tokens: {told(partial(way.at, tokens))}")
    if given.dir is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
