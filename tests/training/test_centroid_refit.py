"""Trained codes go a part of the way to what they stand for."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.attach import attach
from interp.bottlenecks.kinds.metric_codebook import MetricCodebook
from interp.bottlenecks.kmeans import RIDGE
from interp.bottlenecks.store import Codebooks
from interp.models import hooked
from interp.training import TrainConfig, run, train_codebooks
from interp.training.centroid_refit import SHARE, refit_centroids


def what_comes(model, tokens, hook: str, earlier) -> Tensor:
    """What reaches a hook with the books before it in place."""
    seen = []
    with (
        torch.no_grad(),
        attach(model, earlier, error_term=False) if earlier else nullcontext(),
        hooked(model, {hook: lambda x: seen.append(x.clone())}),
    ):
        model(tokens)
    return seen[0]


def test_one_code_goes_towards_the_mean_of_its_vectors(model, text, tmp_path):
    tokens, books, moved = text.tokens[:24], {}, {}
    options = {"n_codes": 6, "selection": "matching_pursuit"}
    heads = CodebookConfig(d_in=model.cfg.d_head, groups=model.cfg.n_heads, **options)
    layer = CodebookConfig(d_in=model.cfg.d_model, **options)
    for site, hook, book in (
        ("a0", "blocks.0.attn.hook_z", MetricCodebook(heads)),
        ("m1", "blocks.1.hook_mlp_out", Codebook(layer)),
    ):
        x = what_comes(model, tokens, hook, moved)  # layer by layer: earlier codes have moved by then
        book.fit(x)
        codes = book.codes.detach()  # shares the memory
        codes += 0.3 * x.std() * torch.randn(codes.shape)
        # the first position has no say
        vectors = x[:, 1:].reshape(-1, book.config.groups, book.config.d_in)
        ids = book.encode(x).ids[:, 1:].reshape(-1, book.config.groups)
        books[site], moved[site] = book, copy.deepcopy(book)
        expected, held = moved[site].codes.detach(), book.encode(x).ids[0, 0].flatten()
        for group, code in torch.cartesian_prod(torch.arange(book.config.groups), torch.arange(6)).tolist():
            members = vectors[ids[:, group] == code, group]
            if len(members) and code != held[group]:
                share = SHARE * len(members) / (len(members) + RIDGE)
                expected[group, code] += share * (members.mean(0) - codes[group, code])
    refit_centroids(model, books, tokens, tmp_path)
    for site, book in books.items():
        torch.testing.assert_close(book.codes, moved[site].codes)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("per_head", "n_books", "magnitude"),
    [(False, 1, "unit"), (True, 1, "scaled"), (True, 4, "unit"), (True, 4, "scaled")],
    ids=["a layer's book", "one book for all heads", "one book a head", "of given lengths"],
)
def test_several_codes_together_explain_more(model, text, tmp_path, per_head, n_books, magnitude):
    tokens, d_in = text.tokens[:24], model.cfg.d_head if per_head else model.cfg.d_model
    site, hook = ("a1", "blocks.1.attn.hook_z") if per_head else ("m1", "blocks.1.hook_mlp_out")
    x = what_comes(model, tokens, hook, {})
    options = {"k": 3, "selection": "matching_pursuit", "magnitude": magnitude}
    book = Codebook(CodebookConfig(d_in=d_in, n_codes=24, groups=n_books, **options)).fit(x)
    codes = book.codes.detach()
    # far off, since the first position's codes, of so few a good part, do not move
    codes += 0.5 * codes.std() * torch.randn(codes.shape)
    encoded = book.encode(x)
    error = (x - book.decode(encoded))[:, 1:].square().sum()
    ids = encoded.ids[:, 1:].reshape(-1, n_books, 3)
    used = {(group, code) for group in range(n_books) for code in ids[:, group].flatten().tolist()}
    before = codes.clone()
    refit_centroids(model, {site: book}, tokens, tmp_path)
    assert (x - book.decode(encoded))[:, 1:].square().sum() < 0.95 * error
    for place in {*np.ndindex(n_books, 24)} - used:
        torch.testing.assert_close(codes[place], before[place])


def test_a_head_that_writes_nothing_is_left_alone(model, text, tmp_path):
    tokens, hook = text.tokens[:8], "blocks.1.attn.hook_z"
    size = {"d_in": model.cfg.d_head, "groups": model.cfg.n_heads, "n_codes": 9, "k": 2}
    config = CodebookConfig(**size, selection="matching_pursuit", magnitude="scaled")
    book = Codebook(config).fit(what_comes(model, tokens, hook, {}))
    before = book.codes.detach().clone()
    with hooked(model, {hook: lambda z: z * (torch.arange(z.shape[2]) > 0)[:, None]}):
        refit_centroids(model, {"a1": book}, tokens, tmp_path)
    assert torch.equal(book.codes[0], before[0]) and not torch.equal(book.codes[1:], before[1:])


def test_training_ends_with_it(model, text, start, tmp_path):
    config = TrainConfig(epochs=2, lr=0.02, centroid_refits=2)
    books = []
    for rounds in (2, 0):
        asked = replace(config, centroid_refits=rounds)
        trained = train_codebooks(model, start, text, tmp_path / str(rounds), asked)
        books.append(Codebooks.from_pretrained(trained.folder, model))
    refitted, left = books
    assert not any(torch.equal(book.codes, refitted[site].codes) for site, book in left.items())
    for blocks in run.refit_blocks(text.tokens, config):
        refit_centroids(model, left, blocks, tmp_path)
    for site, book in left.items():
        assert torch.equal(book.codes, refitted[site].codes)
