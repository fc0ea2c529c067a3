"""Labels: a planted pattern is found by its name, a random code is mixed, a rare one rare, and the null stays low."""

from dataclasses import replace

import numpy as np
import pytest

from interp.bottlenecks.store import Codebooks, pretrained_names
from interp.codesearch import CodeIndex, build_index
from interp.codesearch.labels import LEAST, MIXED, RARE, Labels, keep, label_index, labels_of
from interp.codesearch.look_patterns import RELATIONS
from interp.codesearch.looks import PARTS
from interp.errors import InputError
from tests.codesearch.conftest import make_books, save_books, synthetic_index, word_corpus, zipf_ids

OTHER_WORDS = ' the|The| of| walking| 7|42| (|)| "|.|\n| Paris|PARIS| NASA| USA|{|};|é'
WORDS = [*(f" w{i}x" for i in range(40)), *OTHER_WORDS.split("|")]
CONTEXT = 16
N = 60_000


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[CodeIndex, list[str]]:
    """Every pattern a code in a book of its own; what is left has codes drawn at random."""
    rng = np.random.default_rng(0)
    weight = np.array([*np.geomspace(1.5, 0.4, 40), *([1.0] * 18)])
    weight[[40 + 2, 40 + 11]] *= 3
    corpus = word_corpus(WORDS, 1 + rng.choice(len(WORDS), N, p=weight / weight.sum()), context=CONTEXT)
    tokens = np.asarray(corpus.tokens).astype(int)
    number = {word: i + 1 for i, word in enumerate(WORDS)}
    before = np.concatenate([[0], tokens[:-1]])
    after = np.concatenate([tokens[1:], [0]])
    place = np.arange(N) % CONTEXT
    before[place == 0] = after[place == CONTEXT - 1] = -1
    first = np.zeros(N, bool)
    first[corpus.documents] = True

    inside, quotes, repeated = np.zeros((3, N), bool)
    for i, token in enumerate(tokens):
        if place[i] == 0 or first[i]:
            depth, marks, seen = 0, 0, set[int]()
        inside[i], quotes[i], repeated[i] = depth > 0, marks % 2 == 1, token in seen
        depth = max(0, depth + (token == number[" ("]) - (token == number[")"]))
        marks += token == number[' "']
        seen.add(token)
    patterns = {
        "“ of”": tokens == number[" of"],
        "“ w1x” “ w2x” “ w3x” +2": np.isin(tokens, [number[f" w{i}x"] for i in (1, 2, 3, 4, 5)]),
        "articles": np.isin(tokens, [number[" the"], number["The"]]),
        "“paris” in any case": np.isin(tokens, [number[" Paris"], number["PARIS"]]),
        "after “ of”": before == number[" of"],
        "before “ of”": after == number[" of"],
        "end of “ of Paris”": (before == number[" of"]) & (tokens == number[" Paris"]),
        "digits": np.isin(tokens, [number[" 7"], number["42"]]),
        "words in capitals": np.isin(tokens, [number[" NASA"], number[" USA"], number["PARIS"]]),
        "first token of a document": first,
        "first 2 tokens": place < 2,
        "inside ( )": inside,
        "inside quotes": quotes,
        "token said before": repeated,
        "after “.”": before == number["."],
        "random": rng.random(N) < 0.05,
        "rare": np.arange(N) % 3001 == 0,
    }
    ids = [np.where(on, 0, 1 + rng.integers(0, 5, N))[:, None] for on in patterns.values()]
    return synthetic_index(tmp_path_factory.mktemp("planted"), corpus, ids, 6), list(patterns)


@pytest.fixture(scope="module")
def labels(planted) -> Labels:
    return label_index(planted[0])


def test_every_planted_pattern_is_found_on_text_that_did_not_choose_it(planted, labels):
    names = [name for name in planted[1] if name not in ("random", "rare")]
    for i, name in enumerate(names):
        label = labels.of(f"a{i}.h0", 0)
        assert label.text == name
        assert (label.precision, label.recall, label.f1) == (1, 1, 1)
        assert label.firings >= LEAST


def test_a_random_code_is_mixed_and_a_rare_one_rare(planted, labels):
    random, rare = (labels.of(f"a{planted[1].index(name)}.h0", 0) for name in ("random", "rare"))
    assert random.text == MIXED and random.f1 < 0.15 and random.firings > 1000
    assert rare.text == RARE and 0 < rare.firings < LEAST
    assert not random.named and not rare.named and labels.of("a0.h0", 0).named


def test_codes_at_random_places_are_not_named(tmp_path, planted):
    """What the whole search makes of chance: a name for none of hundreds of codes of all frequencies."""
    index, rng = planted[0], np.random.default_rng(1)
    ids = [1 + zipf_ids(rng, (N, 1), 199) for _ in range(2)]
    random_labels = label_index(synthetic_index(tmp_path, index.corpus, ids, 200))
    assert (random_labels.columns["firings"] >= LEAST).sum() > 100
    named = [random_labels.of(f"a{i}.h0", code).named for i in range(2) for code in range(200)]
    assert not any(named)
    assert random_labels.about["random"] == {"a0": [0, 0], "a1": [0, 0]}


def test_a_share_of_a_pattern_is_mostly_it(tmp_path, planted):
    """Codes that share out one token among them say so, though none of them can be told from the token."""
    index, rng = planted[0], np.random.default_rng(2)
    tokens = np.asarray(index.corpus.tokens).astype(int)
    of = tokens == 1 + WORDS.index(" of")
    ids = np.where(of, rng.integers(0, 15, N), 15)[:, None]
    pattern_labels = label_index(synthetic_index(tmp_path, index.corpus, [ids], 16))
    for code in range(15):
        label = pattern_labels.of("a0.h0", code)
        assert label.text == "mostly “ of”"
        assert label.precision == 1 and 0.03 < label.recall < 0.15


def test_codes_of_several_slots_are_counted_once_a_token(tmp_path, planted):
    index = planted[0]
    tokens = np.asarray(index.corpus.tokens).astype(int)
    where = np.isin(tokens, [1 + WORDS.index(" 7"), 1 + WORDS.index("42")])
    first, second = where & (np.arange(N) % 2 == 0), where & (np.arange(N) % 2 == 1)
    ids = np.stack([np.where(first, 3, 1), np.where(second, 3, 2)], 1)
    label = label_index(synthetic_index(tmp_path, index.corpus, [ids], 4)).of("a0.h0", 3)
    assert (label.text, label.f1) == ("digits", 1)


@pytest.fixture(scope="module")
def looking(planted, tmp_path_factory) -> Labels:
    """Heads that look at a place drawn at random, or at nothing but the first token; codes that say what stands there,
    how it stands to the token, or what stands at the token itself."""
    corpus, rng = planted[0].corpus, np.random.default_rng(3)
    tokens, place = np.asarray(corpus.tokens).astype(int), np.arange(N) % CONTEXT
    looked = (rng.random(N) * (place + 1)).astype(int)
    seen = tokens[np.arange(N) - place + looked]
    number = {word: i + 1 for i, word in enumerate(WORDS)}
    on = [
        seen == number[" w3x"],
        looked == place,
        (looked < place - 1) & (seen == tokens) & (looked > 0),
        tokens == number[" w3x"],
        rng.random(N) < 0.05,
    ]
    ids = [np.where(where, 0, 1 + rng.integers(0, 5, N))[:, None] for where in on]
    folder = tmp_path_factory.mktemp("looking")
    return label_index(synthetic_index(folder, corpus, ids, 6, [looked] * len(on)))


def test_what_a_head_looks_at_names_its_codes_where_that_tells_more(looking):
    by_looks, by_relation, by_repeat, by_token, random = (looking.of(f"a{i}.h0", 0) for i in range(5))
    assert (by_looks.text, by_looks.f1) == ("looks at “ w3x”", 1)
    assert by_looks.looks == by_looks.text and by_looks.looks_f1 == 1 and by_looks.stands_f1 < 0.5
    assert (by_relation.text, by_relation.f1) == ("looks at itself", 1)
    assert (by_repeat.text, by_repeat.f1) == ("looks at the same token earlier", 1)
    assert (by_token.text, by_token.f1) == ("“ w3x”", 1)
    assert by_token.stands == by_token.text and by_token.looks_f1 < 0.5
    assert random.text == random.looks == random.stands == MIXED


def test_where_a_head_looks_is_counted_on_the_second_half(looking):
    looks = looking.about["looks"]["a0.h0"]
    share_of = dict(zip(RELATIONS, looks["tokens"], strict=True))
    # of a place t, one of t + 1 is the token itself, and one the first of the block
    expected = np.mean(1 / np.arange(1, CONTEXT + 1))
    assert abs(share_of["itself"] - expected) < 0.01
    assert abs(share_of["the first token"] - (expected - 1 / CONTEXT)) < 0.01
    assert abs(sum(looks["tokens"]) - 1) < 0.01
    assert abs(sum(looks["weight"]) - (PARTS - 0.5) / PARTS) < 0.01


def test_sides_are_saved_and_labels_of_before_are_read(tmp_path, looking, labels):
    looking.save(tmp_path / "labels.parquet")
    again = Labels.open(tmp_path / "labels.parquet")
    for i in range(5):
        read, saved = again.of(f"a{i}.h0", 0), looking.of(f"a{i}.h0", 0)
        assert (read.text, read.stands, read.looks) == (saved.text, saved.stands, saved.looks)
        assert abs(read.looks_f1 - saved.looks_f1) <= 0.005
    assert again.about["looks"] == looking.about["looks"]
    before = ("text", "precision", "recall", "f1", "null", "firings")
    of_before = {name: labels.columns[name] for name in before}
    replace(labels, columns=of_before, coarse=None).save(tmp_path / "before.parquet")
    read, saved = Labels.open(tmp_path / "before.parquet").of("a0.h0", 0), labels.of("a0.h0", 0)
    assert (read.text, read.firings) == (saved.text, saved.firings) and read.looks == read.stands == ""
    assert saved.stands == saved.text and saved.looks == ""


def test_the_clearest_are_named_and_different(labels):
    best = labels.clearest(5, per_site=1)
    assert len({labels.text(*code) for code in best}) == len({book for book, _ in best}) == 5
    assert all(labels.of(*code).f1 == 1 for code in best)


def test_the_codes_of_a_label_come_by_falling_f1(labels):
    for text in ("digits", MIXED):
        every = {(book, code) for book, (_, n) in labels.starts.items() for code in range(n)}
        codes = labels.codes(text)
        assert set(codes) == {book_and_code for book_and_code in every if labels.text(*book_and_code) == text} and codes
        scores = [labels.of(*book_and_code).f1 for book_and_code in codes]
        assert scores == sorted(scores, reverse=True)
    assert labels.codes("digits")[0] == ("a7.h0", 0) and labels.codes("no such label") == []


def test_a_damaged_file_is_one_line(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "noise").write_bytes(b"PAR1 no parquet PAR1")
    for name in ("empty", "noise", "missing"):
        with pytest.raises(InputError, match="cannot read the labels"):
            Labels.open(tmp_path / name)


def test_labels_of_fewer_codes_a_vector_do_not_go_to_the_codebooks(model, text, tmp_path):
    save_books(model, text, {"a0": make_books()["a0"]}, tmp_path / "books")
    folders = {}
    for k in (2, 1):
        books = Codebooks.from_pretrained(tmp_path / "books", model, k=k)
        index = build_index(model, books, text, tmp_path / f"index-{k}")
        folders[k] = [path.parent for path in keep(index, label_index(index))]
    assert folders == {2: [tmp_path / "index-2", tmp_path / "books"], 1: [tmp_path / "index-1"]}


def test_one_document_cannot_be_halved(tmp_path):
    corpus = word_corpus(WORDS, np.full(32, 3), documents=100)
    with pytest.raises(InputError, match="1 document"):
        label_index(synthetic_index(tmp_path, corpus, [np.zeros((32, 1), int)], 2))


@pytest.mark.parametrize("name", pretrained_names())
def test_codebooks_of_the_package_come_with_labels(name):
    """Of every code, of these very codebooks, and better than those of random codes."""
    books = Codebooks.from_pretrained(name)
    labels = labels_of(books)
    assert labels is not None and labels.about["n_tokens"] > 500_000
    sites = {book.partition(".")[0] for book in labels.starts}
    assert sites == set(books.sites) and all(n == 512 for _, n in labels.starts.values())
    measured = labels.columns["firings"] >= LEAST
    assert measured.mean() > 0.3
    assert labels.columns["f1"][measured].mean() > 5 * labels.columns["null"][measured].mean()
    assert len(labels.clearest(30)) == 30
