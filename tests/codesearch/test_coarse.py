"""The coarse level: planted groups come back, an index at that level answers for them, and codes are named at both."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.bottlenecks.edits import parse_codes
from interp.codesearch import (
    CoarseIndex,
    CodeIndex,
    Labels,
    coarse,
    coarse_code,
    coarse_level,
    code_page,
    fine_codes,
    label_index,
    labels_of,
    search_token,
)
from interp.codesearch.coarse import merged_vectors, variance_kept
from interp.codesearch.labels import keep
from interp.errors import InputError
from tests.codesearch.conftest import synthetic_index, word_corpus

WORDS = [f" w{i}x" for i in range(3)]
CONTEXT, N, PARTS = 16, 40_000, 4
"""Codes that each group of tokens is shared out among, at random."""


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> CodeIndex:
    """Head a0.h0 tells by three groups of codes which word it looks at, a1.h0 which it stands at; two codes a token at
    a2.h0, of which the second is noise."""
    rng = np.random.default_rng(0)
    corpus = word_corpus(WORDS, 1 + rng.choice(3, N, p=(0.2, 0.3, 0.5)), context=CONTEXT)
    tokens, place = np.asarray(corpus.tokens).astype(int), np.arange(N) % CONTEXT
    looked = (rng.random(N) * (place + 1)).astype(int)
    seen = tokens[np.arange(N) - place + looked]

    def shared_out(words: np.ndarray) -> np.ndarray:
        group = np.where(words == 1, 1, np.where(words == 2, 2, 0))
        return (group * PARTS + rng.integers(0, PARTS, N))[:, None]

    ids = [shared_out(seen), shared_out(tokens)]
    ids.append(np.concatenate([ids[1], 12 + rng.integers(0, 2, (N, 1))], 1))
    return synthetic_index(tmp_path_factory.mktemp("coarse"), corpus, ids, 14, [looked] * 3)


@pytest.fixture(scope="module")
def labels(index) -> Labels:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coarse, "N_COARSE", 3)
        labels = label_index(index)
    keep(index, labels)
    return labels


def test_codes_that_share_a_group_out_are_merged_and_named_by_it(labels):
    for book, looks in (("a0.h0", "looks at “ w0x”"), ("a1.h0", "“ w0x”")):
        groups = labels.groups[book][:12].reshape(3, PARTS)
        assert (groups == groups[:, :1]).all() and len(set(groups[:, 0])) == 3
        assert groups[0, 0] == 0  # on most often
        coarse, fine = labels.coarse_of(book, PARTS), labels.of(book, PARTS)
        assert (coarse.text, coarse.f1) == (looks, 1) and coarse.recall == 1
        assert abs(fine.recall - 1 / PARTS) < 0.05 and fine.precision == 1
        assert labels.name(book, 5) == f"{book}={groups[1, 0]}.5"
    bits = labels.coarse.about["bits"]["a0.h0"]
    assert abs(bits[0] - bits[1] - 2) < 0.01  # four codes of equal share are two bits


def test_an_index_at_the_coarse_level_answers_for_its_codes(index, labels):
    level = coarse_level(index)
    group = int(labels.groups["a1.h0"][PARTS])
    fine = [index.positions("a1.h0", PARTS + i) for i in range(PARTS)]
    assert (level.positions("a1.h0", group) == np.sort(np.concatenate(fine))).all()
    assert level.count("a1.h0", group) == sum(map(len, fine))
    assert level.members("a1.h0", group)[:4] == [4, 5, 6, 7]
    (best, *_) = search_token(level, "w0x").best(1)
    assert (best.book, best.code, best.f1) == ("a1.h0", group, 1)
    assert search_token(index, "w0x").best(1)[0].f1 < 0.6
    page = code_page(level, *level.named(f"a1.h0={group}.all"))
    assert page.count == level.count("a1.h0", group) and [token.text for token in page.tokens] == [" w0x"]
    assert labels_of(level).of("a1.h0", group).f1 == 1


def test_of_several_codes_a_token_a_coarse_one_counts_once(index, labels):
    level = CoarseIndex(index, {**labels.groups, "a2.h0": np.zeros(14, int)})
    assert level.count("a2.h0", 0) == N and (level.ids.book(2)[0, :, 1] == 1).all()
    assert (level.ids.rows(2, np.arange(5)) == [0, 1]).all()


def test_both_levels_are_saved_and_a_part_keeps_them(tmp_path, labels):
    labels.save(tmp_path / "labels.parquet")
    again = Labels.open(tmp_path / "labels.parquet")
    assert again.about == labels.about and again.coarse.about == labels.coarse.about
    for book, groups in labels.groups.items():
        assert (again.groups[book] == groups).all()
        assert all(again.coarse.text(book, i) == labels.coarse.text(book, i) for i in range(3))
    beyond = {"coarse": np.where(labels.columns["coarse"] == 0, 9, labels.columns["coarse"])}
    replace(labels, columns=labels.columns | beyond).save(tmp_path / "wrong.parquet")
    with pytest.raises(InputError, match="coarse"):
        Labels.open(tmp_path / "wrong.parquet")


def test_a_coarse_code_stands_for_its_codes(labels):
    group = int(labels.groups["a0.h0"][PARTS])
    name = f"a0.h0={group}.all"
    assert coarse_code(name) == ("a0.h0", group) and coarse_code("a0.h0=3") is None
    assert fine_codes(f"a0.h0={group}.5", labels) == "a0.h0=5" and fine_codes("a9.h9=3", None) == "a9.h9=3"
    assert [code.code for code in parse_codes(fine_codes(name, labels, "forbidden"))][:4] == [4, 5, 6, 7]
    added = parse_codes(fine_codes(f"{name}*-2,a1.h0=1", labels, "added"))
    assert [code.code for code in added] == [4, 5, 6, 7, 1] and added[-1].weight == 1
    assert sum(code.weight for code in added[:4]) == pytest.approx(-2, abs=1e-3)
    assert all(code.weight == pytest.approx(-0.5, abs=0.05) for code in added[:4])
    (fine_code,) = parse_codes(fine_codes(name, labels, "set"))
    assert fine_code.code in (4, 5, 6, 7)


@pytest.mark.parametrize("name", ["a0.h0=9.all", "a0.h0=0.99", "a0.h0=9.5", "a7.h0=0.all"])
def test_a_code_of_another_coarse_one_is_refused(name, labels):
    for known in (labels, replace(labels, coarse=None)):
        with pytest.raises(InputError):
            fine_codes(name, known)


def test_merged_vectors_are_means_and_keep_the_variance_between_them():
    vectors, groups = torch.tensor([[0.0, 1], [0, 3], [4, 0]]), np.array([0, 0, 1])
    counts = np.array([1, 3, 4])
    merged = merged_vectors(vectors, groups, counts)
    assert torch.allclose(merged, torch.tensor([[0, 2.5], [4, 0]]), atol=1e-5)
    within = (1 * 1.5**2 + 3 * 0.5**2) / 8
    whole = float(((vectors - torch.tensor([2, 1.25])) ** 2).sum(1) @ torch.tensor([1.0, 3, 4])) / 8
    assert variance_kept(vectors, groups, counts) == pytest.approx(1 - within / whole, abs=1e-4)
    assert variance_kept(vectors, np.array([0, 1, 2]), counts) == pytest.approx(1, abs=1e-6)
