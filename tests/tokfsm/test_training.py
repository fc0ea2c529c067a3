"""Training: it learns, it resumes with the same losses, it leaves what other tools read."""

import json

import pytest
import torch

from benchmarks.tokfsm.coded import Books
from benchmarks.tokfsm.data import BOS, generator_of, make_machine, sequences
from benchmarks.tokfsm.folder import save
from benchmarks.tokfsm.neox import Cache, NeoX, NeoXShape
from benchmarks.tokfsm.recipe import Recipe
from benchmarks.tokfsm.reproduce import CHECKPOINT, measure, train
from benchmarks.tokfsm.table import print_seeds
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
