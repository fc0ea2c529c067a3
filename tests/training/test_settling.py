"""Trained codes go a part of the way to what they stand for."""

import pytest
import torch
from torch import Tensor

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.attach import attach
from interp.bottlenecks.book_folder import load_codebooks
from interp.bottlenecks.metric_codebook import MetricCodebook
from interp.bottlenecks.refit import RIDGE
from interp.models import hooked
from interp.training import TrainConfig, run, train_codebooks
from interp.training.settling import SHARE, settle


def what_comes(model, tokens, hook: str, earlier) -> Tensor:
    """What reaches a hook with the books before it in place."""
    seen = []
    with torch.no_grad(), attach(model, earlier), hooked(model, {hook: lambda x: seen.append(x.clone())}):
        model(tokens)
    return seen[0]


def test_one_code_goes_towards_the_mean_of_its_vectors(model, text):
    tokens, books, expected = text.tokens[:24], {}, {}
    heads = CodebookConfig(d_in=model.cfg.d_head, n_codes=6, groups=model.cfg.n_heads, selection="residual")
    layer = CodebookConfig(d_in=model.cfg.d_model, n_codes=6, selection="residual")
    for site, hook, book in (
        ("a0", "blocks.0.attn.hook_z", MetricCodebook(heads)),
        ("m1", "blocks.1.hook_mlp_out", Codebook(layer)),
    ):
        x = what_comes(model, tokens, hook, books)
        book.fit(x)
        codes = book.codes.detach()  # shares the memory
        codes += 0.3 * x.std() * torch.randn(codes.shape)
        # the first position has no say
        vectors = x[:, 1:].reshape(-1, book.config.groups, book.config.d_in)
        ids = book.encode(x).ids[:, 1:].reshape(-1, book.config.groups)
        books[site], expected[site] = book, codes.clone()
        for group, code in torch.cartesian_prod(torch.arange(book.config.groups), torch.arange(6)).tolist():
            its = vectors[ids[:, group] == code, group]
            if len(its):
                way = SHARE * len(its) / (len(its) + RIDGE)
                expected[site][group, code] += way * (its.mean(0) - codes[group, code])
    settle(model, books, tokens, batch_size=7)
    for site, book in books.items():
        torch.testing.assert_close(book.codes.detach(), expected[site])


@pytest.mark.parametrize("magnitude", ["dropped", "kept"])
def test_several_codes_together_explain_more(model, text, magnitude):
    tokens = text.tokens[:24]
    x = what_comes(model, tokens, "blocks.1.hook_mlp_out", {})
    config = CodebookConfig(
        d_in=model.cfg.d_model, n_codes=24, k=3, selection="residual", magnitude=magnitude
    )
    book = Codebook(config).fit(x)
    codes = book.codes.detach()
    codes += 0.3 * codes.std() * torch.randn(codes.shape)
    found = book.encode(x)
    error = (x - book.decode(found))[:, 1:].square().sum()
    unused = torch.ones(24, dtype=torch.bool).index_fill(0, found.ids[:, 1:].flatten().long(), False)
    before = codes.clone()
    settle(model, {"m1": book}, tokens, batch_size=8)
    assert (x - book.decode(found))[:, 1:].square().sum() < 0.95 * error
    torch.testing.assert_close(codes[0, unused], before[0, unused])


def test_training_ends_with_it(model, text, start, tmp_path, monkeypatch):
    config = TrainConfig(epochs=2, lr=0.02)
    settled = load_codebooks(train_codebooks(model, start, text, tmp_path / "a", config).folder, model)
    monkeypatch.setattr(run, "settle", lambda *_: None)
    left = load_codebooks(train_codebooks(model, start, text, tmp_path / "b", config).folder, model)
    for blocks in run.settled_on(text.tokens, config):
        settle(model, left, blocks, config.batch_size)
    for site, book in left.items():
        assert torch.equal(book.codes, settled[site].codes)
