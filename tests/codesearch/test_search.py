"""Precision, recall and similarity against brute force; what leaves the index as CSV reads back as it was."""

import csv
import io
import re

import numpy as np
import pytest
from scipy.stats import binomtest

from interp.codesearch import code_contexts, code_page, find_regex, search_regex, search_similar, search_token
from interp.codesearch.index import span_of
from interp.codesearch.tables import contexts_csv
from interp.errors import InputError
from interp.stats import wilson
from tests.codesearch.conftest import synthetic_index, word_corpus, zipf_ids

WORDS = [" New", " York", " Zür", "ich", " na", "ïve", " 12", "34", ".", "\n", " 日本", "語", "\x1a"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Three books over 1200 tokens; code 3 of the first is on at every "York" behind "New", and nowhere else."""
    rng = np.random.default_rng(0)
    corpus = word_corpus(WORDS, rng.integers(1, len(WORDS) + 1, 1200))
    ids = [zipf_ids(rng, (1200, k), 40) for k in (3, 1, 2)]
    york = np.flatnonzero((corpus.tokens[1:] == 2) & (corpus.tokens[:-1] == 1)) + 1
    ids[0][ids[0] == 3] = 4
    ids[0][york, 1] = 3
    return synthetic_index(tmp_path_factory.mktemp("planted"), corpus, ids, 40), ids


PATTERNS = ["New York", "New|York", r"\w+", "(?i)zürich", r"\b\d+\b", "日本語?", "ich na", r"\(?Ne", "^ New"]


@pytest.mark.parametrize("pattern", [*PATTERNS, "N.w", r"York\s"])
def test_every_code_against_brute_force(planted, pattern):
    index, ids = planted
    scores = search_regex(index, pattern)
    corpus = index.corpus
    matches: list[set[int]] = []
    starts, ends = corpus.document_bytes[:-1], corpus.document_bytes[1:]
    for start, end in zip(starts, ends, strict=True):
        text = corpus.text[start:end].tobytes().decode()
        for match in re.finditer(pattern, text):
            first, last = (start + len(text[:at].encode()) for at in match.span())
            matches.append({t for t in range(1200) if corpus.starts[t] < last and corpus.ends[t] > first})
    assert matches
    inside = set().union(*matches)
    assert (scores.matches.n, scores.n_tokens) == (len(matches), len(inside))
    for i, part in enumerate(ids):
        for code in range(40):
            on = set(np.flatnonzero((part == code).any(1)).tolist())
            place = 40 * i + code
            assert scores.hits[place] == len(on & inside)
            assert scores.found[place] == sum(bool(match & on) for match in matches)
            assert scores.precision[place] == pytest.approx(len(on & inside) / max(len(on), 1))
            assert scores.recall[place] == pytest.approx(scores.found[place] / max(len(matches), 1))


def test_sorting_and_limits(planted):
    index, _ = planted
    best, second = search_regex(index, "New York").best(2)
    assert (best.book, best.code) == ("a0.h0", 3) and best.precision == best.recall == 1 > second.f1
    scores = search_regex(index, r"York")
    for sort in ("precision", "recall", "f1", "count"):
        values = [getattr(hit, sort) for hit in scores.best(30, sort=sort)]
        assert values == sorted(values, reverse=True)
    assert all(hit.recall >= 0.1 for hit in scores.best(30, min_recall=0.1))
    books = [hit.book for hit in scores.best(30, per_book=2)]
    assert max(map(books.count, books)) == 2
    assert all(hit.hits >= 5 for hit in scores.best(30, min_hits=5))
    for hit in scores.best(20):
        assert hit.precision_interval == pytest.approx(wilson(hit.hits, hit.count))
        assert hit.recall_interval == pytest.approx(wilson(hit.found, scores.matches.n))
    every = scores.hits_at(scores.places(min_precision=0.05, per_book=3))
    assert every[:10] == scores.best(10, min_precision=0.05, per_book=3)
    passing = (scores.hits >= 1) & (scores.precision >= 0.05)
    assert len(scores.places(min_precision=0.05)) == passing.sum()
    with pytest.raises(InputError, match="sort 'size': choose f1"):
        scores.best(sort="size")


def test_matches_end_at_documents_and_go_on_past_blocks(planted):
    corpus = planted[0].corpus
    matches = find_regex(corpus, r"(?s).+")
    assert matches.n == len(corpus.documents)
    # every document is one match, the end token in none
    np.testing.assert_array_equal(corpus.document_of(matches.tokens), matches.match)
    assert len(matches.tokens) == (~corpus.special[corpus.tokens]).sum()
    assert find_regex(corpus, r"\A").n == 0  # empty ones say nothing
    assert find_regex(corpus, "no such thing").n == 0
    assert search_regex(planted[0], "no such thing").best() == []
    assert find_regex(corpus, r"(\w*)*\w*\d{9}$").n == 0  # exponential for a backtracking engine


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "unclosed group"), (r"(a)\1", "backreferences are not supported"), ("(?=a)", "look-around"), ("", "empty")],
)
def test_patterns_that_the_engine_lacks_are_one_line(planted, pattern, message):
    with pytest.raises(InputError, match=message) as error:
        search_regex(planted[0], pattern)
    assert "\n" not in str(error.value)


def test_tokens(planted):
    index, _ = planted
    scores = search_token(index, "York")
    assert scores.matches.n == (index.corpus.tokens == 2).sum()
    np.testing.assert_array_equal(scores.hits, search_regex(index, "York").hits)
    for token, message in (("New York", "is no single token"), ("", "is empty")):
        with pytest.raises(InputError, match=message):
            search_token(index, token)


def test_similar_contexts_against_brute_force(planted):
    index, ids = planted
    token = 834
    wanted = {f"a{i}.h0": part[token] for i, part in enumerate(ids)}
    contexts = search_similar(index, wanted, 15)
    assert contexts[0].token == token or contexts[0].score == pytest.approx(1)
    on = {(book, int(code)) for book, codes in wanted.items() for code in codes}
    idf = {code: np.log(1200 / index.count(*code)) for code in on}
    score = np.zeros(1200)
    for (book, code), value in idf.items():
        score[(ids[int(book[1])] == code).any(1)] += value
    expected = np.sort(score)[::-1][:15] / sum(idf.values())
    np.testing.assert_allclose([context.score for context in contexts], expected)
    assert search_similar(index, {"a0.h0": np.array([-1, 39])}, 3)[0].shared <= 1
    with pytest.raises(InputError, match="no codebook 'a9.h0'"):
        search_similar(index, {"a9.h0": np.array([0])})


def test_rare_codes_read_only_their_spans(tmp_path):
    rng = np.random.default_rng(0)
    n = 64 * 1024
    corpus = word_corpus(WORDS, rng.integers(1, len(WORDS) + 1, n), context=64)
    ids = rng.integers(0, 20, (n, 2))
    ids[5000:5003, 1] = 777
    index = synthetic_index(tmp_path / "i", corpus, [ids], 1000)
    span = index.manifest["span"]
    assert span == span_of(index.layout) > 1
    listed = np.unpackbits(index.tables["lists"][777])
    assert listed.sum() == 1 and listed[5000 // (1024 * span)]
    assert index.positions("a0.h0", 777).tolist() == [5000, 5001, 5002]
    assert index.positions("a0.h0", 778).tolist() == []
    page = code_page(index, "a0.h0", 778)
    assert page.count == 0 and page.contexts == page.related == page.tokens == []


def test_wilson():
    assert wilson(26, 40) == pytest.approx((0.4951, 0.7787), abs=1e-3)  # 65 % of 40
    assert wilson(0, 40)[0] == 0 and wilson(0, 40)[1] == pytest.approx(0.0876, abs=1e-3)
    assert wilson(0, 0) == (0, 1)
    for hits, n in ((0, 7), (1, 7), (3, 7), (7, 7), (1, 1), (999, 1_000_000)):
        theirs = binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


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


def test_codes_by_name(index):
    for name in ("m0.g1=4", " m0.g1=4 "):
        assert index.layout.named(name) == ("m0.g1", 4)
    for name in ("", "m0.g1", "m0.g1:", "m0.g1:-1", "m0.g1:x", "m0.g1:4:5", f"m0.g1:{'9' * 5000}", "m0.g1:٣"):
        with pytest.raises(InputError, match="write SITE=ID"):
            index.layout.named(name)
    for name, message in (("<b>=1", "<b>"), ("m0.g1=16", "code 16 of m0.g1")):
        with pytest.raises(InputError, match=message):
            index.layout.named(name)
