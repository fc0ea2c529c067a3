"""What leaves the index as CSV reads back as it was, whatever it holds."""

import csv
import io

import numpy as np
import pandas
import pytest

from interp.codesearch import code_contexts, find_regex, search_regex
from interp.codesearch.contexts import Context, match_contexts
from interp.codesearch.tables import contexts_csv, hits_csv
from interp.errors import InputError


def test_hits_read_back(index):
    scores = search_regex(index, "Mary")
    hits = scores.best(15)
    rows = list(csv.DictReader(io.StringIO(hits_csv(hits))))
    assert [(row["book"], int(row["code"])) for row in rows] == [(hit.book, hit.code) for hit in hits]
    for row, hit in zip(rows, hits, strict=True):
        assert float(row["precision"]) == hit.precision and float(row["recall_low"]) == hit.recall_interval[0]
        assert int(row["tokens_in_matches"]) == hit.hits and float(row["f1"]) == hit.f1


def test_contexts_read_back_with_line_ends_quotes_and_commas(index):
    book, code = "a0.h1", int(np.argmax(index.counts[20:40]))
    contexts = code_contexts(index, book, code, "corpus", None)
    assert any("\n" in "".join(context.pieces) for context in contexts)
    rows = list(csv.DictReader(io.StringIO(contexts_csv(contexts))))
    assert [int(row["token"]) for row in rows] == index.positions(book, code).tolist()
    for row, context in zip(rows, contexts, strict=True):
        assert row["before"] + row["text"] + row["after"] == "".join(context.pieces)
        assert row["margin"] == ""
    [best] = csv.DictReader(io.StringIO(contexts_csv(code_contexts(index, book, code, n=1))))
    assert float(best["margin"]) == index.top(book, code).margin[0]


def test_the_whole_of_a_match_is_marked(index):
    matches = find_regex(index.corpus, "New York")
    for context in match_contexts(index, matches, 5):
        marked = "".join(piece for piece, on in zip(context.pieces, context.active, strict=True) if on)
        # cut where the model's block ends
        assert context.active[context.focus]
        assert "New York".startswith(marked.strip()) or marked.strip().endswith("York")
    assert len(match_contexts(index, matches, 5)) == 5
    assert match_contexts(index, find_regex(index.corpus, "no such thing"), 5) == []


def test_codes_by_name(index):
    for name in ("m0.g1=4", " m0.g1=4 "):
        assert index.layout.named(name) == ("m0.g1", 4)
    for name in ("", "m0.g1", "m0.g1:", "m0.g1:-1", "m0.g1:x", "m0.g1:4:5", f"m0.g1:{'9' * 5000}", "m0.g1:٣"):
        with pytest.raises(InputError, match="write SITE=ID"):
            index.layout.named(name)
    for name, message in (("<b>=1", "<b>"), ("m0.g1=16", "code 16 of m0.g1")):
        with pytest.raises(InputError, match=message):
            index.layout.named(name)


def test_all_codes_that_pass_are_found_and_ranked_as_the_best_are(index):
    scores = search_regex(index, "Mary")
    every = scores.hits_at(scores.places(min_precision=0.05, per_book=3))
    assert every[:10] == scores.best(10, min_precision=0.05, per_book=3)
    wanted = (scores.hits >= 1) & (scores.precision >= 0.05)
    assert len(scores.places(min_precision=0.05)) == wanted.sum()


def test_a_lone_carriage_return_ends_no_line():
    text = contexts_csv([Context(3, 0, ["a", "\r", "b\rc"], 1, [False, True, False], 0.5, None)])
    [row] = csv.DictReader(io.StringIO(text, newline=""))
    assert (row["before"], row["text"], row["after"], row["margin"]) == ("a", "\r", "b\rc", "")
    assert pandas.read_csv(io.StringIO(text, newline=""))["text"].tolist() == ["\r"]
