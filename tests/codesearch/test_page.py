"""One code's page, and what is gathered of its similarities, against what the index and the codebooks say."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from interp.bottlenecks import Codebook, CodebookConfig, MetricCodebook
from interp.bottlenecks.attach import attach
from interp.bottlenecks.kinds.vq import GroupedVQ, ResidualVQ, VQConfig
from interp.codesearch import (
    CodeIndex,
    build_index,
    code_contexts,
    code_page,
    context_at,
    logit_lens,
    nearest_codes,
    prompt_codes,
    related_codes,
    search_similar,
)
from interp.codesearch.firing_stats import FiringStatsWrapper
from interp.errors import InputError
from tests.codesearch.conftest import save_books, synthetic_index, word_corpus, zipf_ids


@pytest.fixture
def busy(index) -> tuple[str, int]:
    """The most frequent code of a head."""
    return "a0.h1", int(np.argmax(index.counts_of("a0.h1")))


def test_page(index, busy):
    page = code_page(index, *busy, n=5)
    on = set(index.positions(*busy).tolist())
    assert page.count == len(on) and page.frequency == len(on) / index.n_tokens
    margins = [context.margin for context in page.contexts]
    assert len(margins) == 5 and margins == sorted(margins, reverse=True)
    for context in page.contexts:
        assert context.token in on and context.active[context.focus]
        first = context.token - context.focus
        assert context.active == [t in on for t in range(first, first + len(context.pieces))]
        assert first // 40 == (first + len(context.pieces) - 1) // 40  # never beyond what the model saw
        assert context.focus <= 16 and len(context.pieces) <= 25
    documents = index.corpus.document_of(np.array(sorted(on)))
    assert page.n_documents == len(set(documents.tolist()))
    for entry in page.coverage:
        assert entry.count == (documents == entry.document).sum()
        assert entry.length == index.corpus.document_lengths()[entry.document]
    assert [e.share for e in page.coverage] == sorted((e.share for e in page.coverage), reverse=True)
    ids = index.corpus.tokens[sorted(on)]
    for shown in page.tokens:
        assert shown.count == (ids == shown.token).sum() and shown.precision == shown.count / len(on)
        assert shown.recall == shown.count / (index.corpus.tokens == shown.token).sum()
    assert page.similarities.fired.sum() > 0 and len(page.similarities.edges) == 25


def test_a_context_that_nobody_asked_a_code_of(index):
    context = context_at(index, 45, before=100, after=100)
    assert context.focus == 5 and len(context.pieces) == 40 and not any(context.active)
    assert context.pieces[0] == "<|endoftext|>" and context.similarity is None
    with pytest.raises(InputError, match="token 99999: the corpus has"):
        context_at(index, 99999)
    with pytest.raises(InputError, match="code 20 of a0.h1: there are 0 to 19"):
        code_page(index, "a0.h1", 20)


def test_nearest_codes_are_by_cosine_whatever_the_lengths(index, books):
    codes = books["m0"].codes[1]
    cosine = cosine_similarity(codes[4], codes, dim=-1)
    neighbours = nearest_codes(index, "m0.g1", 4, 15)
    for code in (-1, 16):
        with pytest.raises(InputError, match=f"code {code} of m0.g1"):
            nearest_codes(index, "m0.g1", code)
    assert len(neighbours) == 15 and 4 not in [neighbour.code for neighbour in neighbours]
    np.testing.assert_allclose(
        [neighbour.cosine for neighbour in neighbours], [cosine[neighbour.code] for neighbour in neighbours], atol=1e-6
    )
    assert [neighbour.cosine for neighbour in neighbours] == sorted(
        (neighbour.cosine for neighbour in neighbours), reverse=True
    )


@pytest.mark.parametrize("book", ["a0.h1", "a1.h3", "m0.g1", "r1"])
def test_logit_lens(index, model, books, book):
    site = book.partition(".")[0]
    group = int(book[-1]) if "." in book else 0
    codes = books[site].codes
    vector = codes[group if len(codes) > 1 else 0, 3]
    if site.startswith("a"):
        vector = vector @ model.blocks[int(site[1])].attn.W_O[group]
    elif site == "m0":
        vector = torch.cat([torch.zeros(12), vector])
    with torch.no_grad():
        logits = model.unembed(model.ln_final(vector[None, None]))[0, 0]
    lens = logit_lens(index, model, book, 3, 4)
    for ours, theirs in ((lens.up, logits.topk(4)), (lens.down, logits.topk(4, largest=False))):
        np.testing.assert_allclose([value for _, value in ours], theirs.values, rtol=1e-4, atol=1e-5)
        assert [text for text, _ in ours] == [index.corpus.token_text(i) for i in theirs.indices.tolist()]


def test_codes_that_go_together(tmp_path):
    rng = np.random.default_rng(0)
    corpus = word_corpus([" a", " b"], rng.integers(1, 3, 4096))
    ids = [zipf_ids(rng, (4096, 2), 30) for _ in range(3)]
    ids[1][ids[1] == 11] = 12
    ids[1][(ids[0] == 5).any(1), 0] = 11  # of another book
    index = synthetic_index(tmp_path, corpus, ids, 30)
    related, sample = related_codes(index, "a0.h0", 5, 3)
    assert (related[0].book, related[0].code, related[0].share) == ("a1.h0", 11, 1.0)
    assert related[0].lift == pytest.approx(4096 / index.count("a1.h0", 11))
    assert related[0].weight == pytest.approx(np.log2(related[0].lift)) and related[0].interval[1] == 1
    assert all(related_code.weight < 0.5 for related_code in related[1:])
    assert sample == min(1000, index.count("a0.h0", 5))
    assert all((related_code.book, related_code.code) != ("a0.h0", 5) for related_code in related)


def test_the_codes_of_a_prompt_and_contexts_like_it(index, model, books):
    prompt = "Mary gave 7 drinks to John"
    codes = prompt_codes(index, model, prompt)
    assert set(codes) == {book.name for book in index.books}
    tokens = model.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    tokens = torch.cat([torch.tensor([[model.tokenizer.eos_token_id]]), tokens], 1)
    with torch.no_grad(), attach(model, books, error_term=True) as attached:
        model(tokens)
    assert codes["a0.h3"].tolist() == attached.ids["a0"][0, -1, 3].tolist()
    assert codes["r1"].tolist() == attached.ids["r1"][0, -1].tolist()
    earlier = prompt_codes(index, model, prompt, position=0)
    assert earlier["m0.g0"].tolist() == attached.ids["m0"][0, 1, 0].tolist()
    with pytest.raises(InputError, match="position 99: the prompt has"):
        prompt_codes(index, model, prompt, position=99)
    with pytest.raises(InputError, match=f"the model reads at most {model.cfg.n_ctx}"):
        prompt_codes(index, model, [1] * (model.cfg.n_ctx + 1))

    # a context of the corpus finds itself
    row = index.corpus.tokens[80:100].tolist()
    itself = search_similar(index, prompt_codes(index, model, row[1:]), 3)[0]
    assert itself.score == pytest.approx(1) and itself.token == 99


def test_codebooks_are_read_only_where_it_is_allowed(model, text, books, tmp_path, busy):
    folder = tmp_path / "in" / "books"
    CodeIndex.build(model, save_books(model, text, books, folder), text, tmp_path / "ix")
    within = CodeIndex.open(tmp_path / "ix", books_within=[tmp_path / "in"])
    assert nearest_codes(within, *busy) == nearest_codes(CodeIndex.open(tmp_path / "ix"), *busy)
    outside = CodeIndex.open(tmp_path / "ix", books_within=[tmp_path / "ix"])
    with pytest.raises(InputError, match="not among the folders that are read"):
        outside.codebooks()
    assert code_page(outside, *busy).neighbours is None
    (folder / "a1").rename(tmp_path / "elsewhere")
    (folder / "a1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="not among the folders that are read"):
        CodeIndex.open(tmp_path / "ix", books_within=[tmp_path / "in"]).codebooks()


def test_every_order_of_contexts_shows_exactly_as_many_as_there_are(index, busy):
    """All of them, or N, each with its token marked: the anchor showed one, unmarked, and N + 2."""
    positions = index.positions(*busy).tolist()
    every = code_contexts(index, *busy, "corpus", None)
    assert [context.token for context in every] == positions
    assert all(context.active[context.focus] for context in every)
    for n in (1, 3, 10):
        assert [c.token for c in code_contexts(index, *busy, "corpus", n, start=2)] == positions[2 : 2 + n]
        assert len(code_contexts(index, *busy, "spread", n)) == n
        assert len(code_contexts(index, *busy, "margin", n)) == n
    by_similarity = code_contexts(index, *busy, "similarity", 10)
    similarities = [context.similarity for context in by_similarity]
    assert similarities == sorted(similarities, reverse=True)
    assert code_contexts(index, *busy, "corpus", 10, start=len(positions)) == []
    with pytest.raises(InputError, match="order 'size': choose margin, similarity, spread, corpus"):
        code_contexts(index, *busy, "size")


def test_an_index_without_its_codebooks_shows_the_rest(index, busy):
    bare = CodeIndex.open(index.folder)
    page = code_page(bare, *busy)
    assert page.neighbours is None and page.contexts
    with pytest.raises(InputError, match="does not say where its codebooks are"):
        nearest_codes(bare, *busy)


def test_a_spliced_index_has_the_codes_behind_other_codebooks_and_reads_prompts_so(model, text, books, index, tmp_path):
    build_index(model, books, text, tmp_path / "index", error_term=False)
    spliced = CodeIndex.open(tmp_path / "index", books)
    every = np.arange(index.n_tokens)
    same = [(index.ids.rows(i, every) == spliced.ids.rows(i, every)).all() for i in range(len(index.books))]
    assert same[:4] == [True] * 4 and not same[-1]
    ids_by_book = prompt_codes(spliced, model, spliced.corpus.tokens[81:100].tolist())
    for name, ids in ids_by_book.items():
        number = spliced.layout.number(name)
        kept = spliced.ids.rows(number, np.array([99]))[0].astype(int)
        assert set(ids.tolist()) - {-1} == set(kept.tolist()) - {spliced.books[number].n_codes}, name


def test_codes_that_are_compared_by_what_is_written_are_near_by_it(model, text, tmp_path):
    weights = model.blocks[0].attn.W_O.detach()
    config = CodebookConfig(model.cfg.d_head, 20, groups=model.cfg.n_heads, selection="matching_pursuit")
    book = MetricCodebook(config).compare_by(weights).requires_grad_(False)
    build_index(model, {"a0": book}, text, tmp_path / "index")
    neighbours = nearest_codes(CodeIndex.open(tmp_path / "index", {"a0": book}), "a0.h2", 4, 19)
    written = book.codes[2] @ weights[2]
    cosine = cosine_similarity(written[4], written, dim=-1)
    np.testing.assert_allclose([near.cosine for near in neighbours], cosine[[n.code for n in neighbours]], atol=2e-3)


@pytest.mark.parametrize("kind", [ResidualVQ, GroupedVQ])
def test_a_margin_is_over_the_codes_of_the_same_slot(kind):
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    book = kind(VQConfig(d_in=8, codes=6, slots=2)).fit(x)
    wrapper = FiringStatsWrapper(book)
    ids = wrapper.encode(x).ids.reshape(200, 2).long()
    margin, compared = wrapper.seen[2][:, 0], book.search_cache().codes[0]
    rest = book.comparable(book.rows(x))[0].clone()
    for slot in range(2):
        cosine = cosine_similarity(rest[:, None], compared[6 * slot : 6 * slot + 6][None], dim=-1)
        chosen = (ids[:, slot] - 6 * slot)[:, None]
        others = cosine.clone().scatter_(1, chosen, -torch.inf).amax(1)
        expected = cosine.gather(1, chosen)[:, 0] - others
        torch.testing.assert_close(margin[:, slot], expected, atol=1e-5, rtol=1e-4)
        if kind is ResidualVQ:
            rest -= compared[ids[:, slot]]
    assert (margin > 0).float().mean() > 0.5


def test_histograms_are_of_the_cosine_with_the_whole_vector():
    """Of a code taken second the similarity is with what the first leaves; those that do not fire have no first."""
    book = Codebook(CodebookConfig(8, 16, k=3, selection="matching_pursuit")).requires_grad_(False)
    book.codes.normal_()
    x = torch.randn(32, 8)
    wrappers = FiringStatsWrapper(book)
    codes = wrappers.encode(x)
    _, similarity, _, whole, sampled = wrappers.seen
    cosine = cosine_similarity(x[:, None], book.codes[0][None], dim=-1)
    taken = codes.ids.reshape(32, 3).long()
    torch.testing.assert_close(whole[:, 0], cosine.gather(1, taken))
    torch.testing.assert_close(sampled[:, 0], cosine[::16])
    assert not torch.allclose(similarity[:, 0, 1:], whole[:, 0, 1:])
