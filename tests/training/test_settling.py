"""Trained codes go a part of the way to what they stand for."""

import pytest
import torch

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.attach import attach
from interp.bottlenecks.book_folder import load_codebooks
from interp.bottlenecks.metric_codebook import MetricCodebook
from interp.bottlenecks.refit import RIDGE
from interp.training.settling import SHARE, settle

SITES = {"a0": "blocks.0.attn.hook_z", "m1": "blocks.1.hook_mlp_out"}


def what_comes(model, tokens, books, site):
    """What reaches a site with the books before it in place."""
    seen = []
    earlier = {
        name: book for name, book in books.items() if list(SITES).index(name) < list(SITES).index(site)
    }
    with (
        torch.no_grad(),
        attach(model, earlier),
        model.hooks([(SITES[site], lambda x, hook: seen.append(x))]),
    ):
        model(tokens)
    return seen[0]


def one_code_each(model, tokens):
    books = {}
    for site, config in (
        (
            "a0",
            CodebookConfig(d_in=model.cfg.d_head, n_codes=6, groups=model.cfg.n_heads, selection="residual"),
        ),
        ("m1", CodebookConfig(d_in=model.cfg.d_model, n_codes=6, selection="residual")),
    ):
        books[site] = MetricCodebook(config) if site == "a0" else Codebook(config)
        x = what_comes(model, tokens, books, site)
        with torch.no_grad():
            books[site].fit(x)
            books[site].codes += 0.3 * x.std() * torch.randn(books[site].codes.shape)
    return books


def test_one_code_goes_towards_the_mean_of_its_vectors(model, text):
    tokens, books = text.tokens[:24], one_code_each(model, text.tokens[:24])
    expected = {}
    for site, book in books.items():
        x = what_comes(model, tokens, books, site)[:, 1:]
        ids = book.encode(x).ids[..., 0].reshape(-1, book.config.groups)
        vectors = x.reshape(-1, book.config.groups, book.config.d_in)
        expected[site] = book.codes.detach().clone()
        for group in range(book.config.groups):
            for code in range(book.config.n_codes):
                its = vectors[ids[:, group] == code, group]
                if len(its):
                    way = SHARE * len(its) / (len(its) + RIDGE)
                    expected[site][group, code] += way * (its.mean(0) - expected[site][group, code])
    settle(model, books, tokens, batch_size=7)
    for site, book in books.items():
        torch.testing.assert_close(book.codes.detach(), expected[site])


@pytest.mark.parametrize("magnitude", ["dropped", "kept"])
def test_several_codes_together_explain_more(model, text, magnitude):
    tokens = text.tokens[:24]
    x = what_comes(model, tokens, {}, "m1")
    config = CodebookConfig(
        d_in=model.cfg.d_model, n_codes=24, k=3, selection="residual", magnitude=magnitude
    )
    book = Codebook(config).fit(x)
    with torch.no_grad():
        book.codes += 0.3 * book.codes.std() * torch.randn(book.codes.shape)
        book.codes[0, 23] = 1e4 * torch.randn(config.d_in)  # nothing is like it
    ids, far = book.encode(x), book.codes[0, 23].clone()
    error = (x - book.decode(ids))[:, 1:].square().sum()
    settle(model, {"m1": book}, tokens, batch_size=8)
    assert (x - book.decode(ids))[:, 1:].square().sum() < 0.95 * error
    if magnitude == "dropped":
        assert torch.equal(book.codes[0, 23], far)


def test_training_ends_with_it(model, text, start, tmp_path, monkeypatch):
    from interp.training import TrainConfig, run, train_codebooks

    config = TrainConfig(epochs=2, lr=0.02)
    settled = load_codebooks(train_codebooks(model, start, text, tmp_path / "a", config).folder, model)
    monkeypatch.setattr(run, "settle", lambda *_: None)
    left = load_codebooks(train_codebooks(model, start, text, tmp_path / "b", config).folder, model)
    for blocks in run.settled_on(text.tokens, config):
        settle(model, left, blocks, config.batch_size)
    for site, book in left.items():
        assert torch.equal(book.codes, settled[site].codes)
