"""Training: it learns, it resumes with the same losses, it leaves what other tools read."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.tokfsm.coded import Books, unexplained
from benchmarks.tokfsm.data import BOS, generator_of, make_machine, sequences
from benchmarks.tokfsm.folder import save
from benchmarks.tokfsm.neox import Cache, NeoX, NeoXShape
from benchmarks.tokfsm.recipe import Recipe, recipe
from benchmarks.tokfsm.reproduce import CHECKPOINT, measure, train
from benchmarks.tokfsm.table import print_seeds
from benchmarks.tokfsm.training import Training
from interp.bottlenecks import Bottleneck
from interp.bottlenecks.attach import attach
from interp.errors import InputError
from interp.models import load_model

SHAPE = NeoXShape(d_model=32, n_layers=2, n_heads=2, d_mlp=64)
SIZE = {"tokens": 16 * 4 * 128, "batch": 4, "n_codes": 40, "fit_sequences": 4, "shape": SHAPE}
TINY = Recipe(**SIZE, plain_share=0.5, lr=1e-2, lr_coded=3e-3, warmup=2)


def test_a_cache_changes_nothing():
    model, tokens = NeoX(SHAPE, 3), sequences(make_machine(), 3, 0)[:, :20]
    books = Books(SHAPE, 30)
    with torch.no_grad():
        whole, cache = model(tokens, books.run()), Cache()
        steps = torch.cat([model(tokens[:, i : i + 1], books.run(), cache) for i in range(20)], 1)
        torch.testing.assert_close(steps, whole, atol=1e-5, rtol=1e-4)
        for weights in model.parameters():
            weights *= 5  # so that attention is not even
        cache = Cache()  # several tokens read into an empty one see none behind them
        torch.testing.assert_close(model(tokens[:, :19], cache=cache), model(tokens[:, :19]))
        torch.testing.assert_close(model(tokens[:, 19:], cache=cache)[:, 0], model(tokens)[:, 19])
        with pytest.raises(InputError, match="2 tokens behind 20 in a cache"):
            model(tokens[:, :2], cache=cache)
    first, again = (model.sample(5, generator_of(1), bos=BOS) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (5, 128)
    assert (first[:, 0] == BOS).all() and (first[:, 1:] < BOS).all()


@pytest.mark.parametrize("stop", [3, 11])
def test_a_killed_run_goes_on_with_the_same_losses(tmp_path, stop):
    whole = Training(TINY)
    while whole.step < TINY.steps:
        whole.advance()
    part = Training(TINY)
    for _ in range(stop):
        part.advance()
    path = tmp_path / "c.pt"
    part.save(path)
    rest = Training.load(path, TINY)
    while rest.step < TINY.steps:
        rest.advance()
    assert rest.losses == whole.losses
    for site, book in whole.books.items():
        assert torch.equal(book.codes, rest.books[site].codes), site
    with pytest.raises(InputError, match="seed 0, not 1: name another --out"):
        Training.load(path, replace(TINY, seed=1))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot read the checkpoint"):
        Training.load(path, TINY)
    for wrong in (lambda: recipe("gpu"), lambda: recipe("cpu", tokens=1000), lambda: Recipe(n_codes=0)):
        with pytest.raises(InputError):
            wrong()


def test_the_coded_part_learns_from_what_the_model_without_codebooks_foretells():
    training = Training(TINY)
    while not training.coded or training.step < TINY.plain_steps + 3:  # codebooks come in with a step
        training.advance()
    tokens, running = sequences(training.machine, 3, 5), training.books.run()
    logits = training.model(tokens, running)
    with torch.no_grad():
        foretold = training.plain_model()(tokens)[:, :-1].softmax(-1)
    taught = -(foretold * logits[:, :-1].log_softmax(-1)).sum(-1).mean()
    by_site = torch.stack(running.commitment)
    assert by_site.shape == (2 * SHAPE.n_layers,) and (by_site > 0).all()
    expected = taught + TINY.commitment * by_site.sum()
    torch.testing.assert_close(training._coded_loss(tokens, logits, running), expected)


def test_the_pull_to_codes_does_not_grow_with_the_activations():
    """Squared distances do, and drowned the language model's gradient after 20 M tokens."""
    x, codes = torch.randn(4, 7, 8, requires_grad=True), torch.randn(4, 7, 8)
    small, large = unexplained(x, codes), unexplained(100 * x, 100 * codes)
    assert large.item() == pytest.approx(small.item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(small, x)
    spread = (x.detach().flatten(0, 1) - x.detach().flatten(0, 1).mean(0)).square().sum()
    torch.testing.assert_close(gradient, 2 * (x.detach() - codes) / spread)
    # what heads' means differ by is no spread
    x, codes, apart = torch.randn(4, 6, 3, 8), torch.randn(4, 6, 3, 8), 100 * torch.randn(3, 8)
    far, near = unexplained(x + apart, codes + apart), unexplained(x, codes)
    torch.testing.assert_close(far, near, rtol=1e-3, atol=0)


def test_what_is_saved_is_the_same_model_for_every_other_tool(tmp_path, capsys):
    training = train(TINY, tmp_path)
    measured = measure(training, evaluated=8, samples=4, pairs=4)
    result = save(training, measured, tmp_path, "python -m benchmarks.tokfsm run")
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result))
    print_seeds([result])
    assert "63.6" in capsys.readouterr().out
    assert train(TINY, tmp_path).step == TINY.steps  # nothing is left to do
    assert (tmp_path / CHECKPOINT).is_file()

    bridge = load_model(str(tmp_path / "model"))
    assert bridge.tokenizer("042").input_ids == [BOS, 0, 4, 2]
    books = {site: Bottleneck.from_pretrained(tmp_path / "codebooks" / site) for site in training.books}
    tokens = sequences(training.machine, 2, 9)
    with torch.no_grad():
        plain = training.model(tokens)
        torch.testing.assert_close(bridge(tokens), plain, atol=1e-4, rtol=1e-3)
        running = training.books.run()
        coded = training.model(tokens, running)
        with attach(bridge, books, error_term=False) as attached:
            bridged = bridge(tokens)
            ids = attached.ids
    # two codes can be as near but for the last digits: what comes before the first such place is the same
    other = [ids[site][..., 0].long() != running.ids[site].long() for site in books]
    assert sum(int(o.sum()) for o in other) <= 0.002 * sum(o.numel() for o in other)
    same = ~torch.stack([o.reshape(*tokens.shape, -1).any(-1) for o in other]).any(0).cummax(1).values
    assert same.float().mean() > 0.5
    torch.testing.assert_close(bridged[same], coded[same], atol=1e-4, rtol=1e-3)
