"""Training: it learns, it resumes with the same losses, it leaves what other tools read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.tokfsm.__main__ import main
from benchmarks.tokfsm.coded import Books, ExponentialMovingAverage, unexplained
from benchmarks.tokfsm.data import BOS, generator_of, make_machine, sequences
from benchmarks.tokfsm.folder import save
from benchmarks.tokfsm.neox import Cache, NeoX
from benchmarks.tokfsm.recipe import Recipe, recipe
from benchmarks.tokfsm.reproduce import CHECKPOINT, measure, train
from benchmarks.tokfsm.training import Training
from interp.bottlenecks import Bottleneck, Codebook, CodebookConfig
from interp.bottlenecks.attach import attach
from interp.errors import InputError
from interp.models import load_model
from tests.tokfsm.conftest import SHAPE, TINY


def test_a_cache_changes_nothing():
    model, tokens = NeoX(SHAPE, 3), sequences(make_machine(), 3, 0)[:, :20]
    books = Books(SHAPE, 30)
    with torch.no_grad():
        whole, cache = model(tokens, books.run()), Cache()
        steps = torch.cat([model(tokens[:, i : i + 1], books.run(), cache) for i in range(20)], 1)
    torch.testing.assert_close(steps, whole, atol=1e-5, rtol=1e-4)


def test_several_tokens_read_into_an_empty_cache_see_none_behind_them():
    model, tokens = NeoX(SHAPE, 3), sequences(make_machine(), 3, 0)[:, :20]
    with torch.no_grad():
        for weights in model.parameters():
            weights *= 5  # so that attention is not even
        cache = Cache()
        torch.testing.assert_close(model(tokens[:, :19], cache=cache), model(tokens[:, :19]))
        torch.testing.assert_close(model(tokens[:, 19:], cache=cache)[:, 0], model(tokens)[:, 19])
        with pytest.raises(InputError, match="2 tokens behind 20 in a cache"):
            model(tokens[:, :2], cache=cache)


def test_sampling_is_seeded_and_never_draws_bos():
    model = NeoX(SHAPE)
    first, again = (model.sample(5, generator_of(1), bos=BOS) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (5, 128)
    assert (first[:, 0] == BOS).all() and (first[:, 1:] < BOS).all()


def test_training_lowers_the_loss_in_both_parts(tiny):
    training = Training(replace(tiny, tokens=60 * 4 * 128))
    while training.step < training.recipe.steps:
        training.advance()
    losses = training.losses
    assert sum(losses[:3]) / 3 > 2.3  # ln 11 before anything is learned
    assert sum(losses[-3:]) / 3 < 2.31 and losses[-1] < losses[0]
    came_in = training.recipe.plain_steps
    assert sum(losses[-3:]) <= sum(losses[came_in : came_in + 3]) + 0.1
    assert training.coded and not torch.equal(
        training.plain["embed_in.weight"], training.model.embed_in.weight
    )


@pytest.mark.parametrize("stop", [3, 8, 11])
def test_a_killed_run_goes_on_with_the_same_losses(tiny, tmp_path, stop):
    whole = Training(tiny)
    while whole.step < tiny.steps:
        whole.advance()
    part = Training(tiny)
    for _ in range(stop):
        part.advance()
    part.save(tmp_path / "c.safetensors")
    rest = Training.load(tmp_path / "c.safetensors", tiny)
    while rest.step < tiny.steps:
        rest.advance()
    assert rest.losses == whole.losses
    for site, book in whole.books.items():
        assert torch.equal(book.codes, rest.books[site].codes), site


def test_codes_follow_the_running_means_of_their_vectors():
    book = Codebook(CodebookConfig(d_in=3, n_codes=4, groups=2, selection="matching_pursuit"))
    means, before = ExponentialMovingAverage(book, 0.5), book.codes.detach().clone()
    steps = [(torch.randn(5, 7, 2, 3), torch.randint(3, (5, 7, 2))) for _ in range(3)]  # code 3 never occurs
    for x, ids in steps:
        means.follow(book, x, ids)
    assert torch.equal(book.codes[:, 3], before[:, 3])
    for group in range(2):
        for code in range(3):
            now, mass, total = before[group, code], 0.0, torch.zeros(3)
            for x, ids in steps:
                theirs = x[..., group, :][ids[..., group] == code]
                mass, total = 0.5 * mass + len(theirs), 0.5 * total + theirs.sum(0)
                now = (total + now) / (mass + 1)
            torch.testing.assert_close(book.codes[group, code].detach(), now)


def test_the_coded_part_learns_from_what_the_model_without_codebooks_foretells(tiny):
    training = Training(tiny)
    while not training.coded or training.step < tiny.plain_steps + 3:  # codebooks come in with a step
        training.advance()
    tokens, running = sequences(training.machine, 3, 5), training.books.run()
    logits = training.model(tokens, running)
    with torch.no_grad():
        foretold = training.plain_model()(tokens)[:, :-1].softmax(-1)
    taught = -(foretold * logits[:, :-1].log_softmax(-1)).sum(-1).mean()
    by_site = torch.stack(running.commitment)
    assert by_site.shape == (2 * SHAPE.n_layers,) and (by_site > 0).all()
    torch.testing.assert_close(
        training._coded_loss(tokens, logits, running), taught + tiny.commitment * by_site.sum()
    )


def test_the_pull_to_codes_does_not_grow_with_the_activations():
    """Squared distances do, and drowned the language model's gradient after 20 M tokens."""
    x, codes = torch.randn(4, 7, 8, requires_grad=True), torch.randn(4, 7, 8)
    small, large = unexplained(x, codes), unexplained(100 * x, 100 * codes)
    assert large.item() == pytest.approx(small.item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(small, x)
    spread = (x.detach().flatten(0, 1) - x.detach().flatten(0, 1).mean(0)).square().sum()
    torch.testing.assert_close(gradient, 2 * (x.detach() - codes) / spread)


def test_what_heads_means_differ_by_is_no_spread():
    x, codes = torch.randn(4, 6, 3, 8), torch.randn(4, 6, 3, 8)
    apart = 100 * torch.randn(3, 8)
    torch.testing.assert_close(
        unexplained(x + apart, codes + apart), unexplained(x, codes), rtol=1e-3, atol=0
    )


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tiny, tmp_path):
    path = tmp_path / "c.safetensors"
    Training(tiny).save(path)
    with pytest.raises(InputError, match="seed 0, not 1: name another --out"):
        Training.load(path, replace(tiny, seed=1))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot read the checkpoint"):
        Training.load(path, tiny)


def test_what_is_saved_is_the_same_model_for_every_other_tool(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.tokfsm.training.LOOKS", 2)
    training = train(tiny, tmp_path)
    measured = measure(training, evaluated=8, samples=4, pairs=4)
    result = save(training, measured, tmp_path, "python -m benchmarks.tokfsm run")
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result))
    page = (tmp_path / "table.md").read_text()
    assert "63.6" in page and "benchmarks.tokfsm run" in page
    assert train(tiny, tmp_path).step == tiny.steps  # nothing is left to do
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
            found = bridge(tokens)
            ids = attached.ids
    # two codes can be as near but for the last digits: what comes before the first such place is the same
    other = [ids[site][..., 0].long() != running.ids[site].long() for site in books]
    assert sum(int(o.sum()) for o in other) <= 0.002 * sum(o.numel() for o in other)
    same = ~torch.stack([o.reshape(*tokens.shape, -1).any(-1) for o in other]).any(0).cummax(1).values
    assert same.float().mean() > 0.5
    torch.testing.assert_close(found[same], coded[same], atol=1e-4, rtol=1e-3)


def test_the_rate_rises_and_falls_twice():
    tried = Recipe(tokens=2048 * 1000)
    rates = [tried.lr_at(step) for step in range(tried.steps)]
    cut = tried.plain_steps
    assert rates[0] < max(rates[:cut]) == tried.lr and rates[cut - 1] < 0.2 * tried.lr
    assert rates[cut] < max(rates[cut:]) > 0.85 * tried.lr_coded and rates[-1] < 0.02 * tried.lr_coded


def test_codes_follow_more_slowly_as_the_rate_falls():
    tried = Recipe(tokens=2048 * 1000)
    coded = range(tried.plain_steps, tried.steps)
    memories = [tried.memory_at(step) for step in coded]
    top = max(coded, key=tried.lr_at) - coded.start
    assert tried.memory <= memories[top] == min(memories) < memories[-1] < 1
    assert memories[top:] == sorted(memories[top:])
    training = Training(replace(TINY, memory=0.5))
    while training.step < TINY.steps:
        training.advance()
        if training.coded:
            assert {means.memory for means in training.means.values()} == {
                training.recipe.memory_at(training.step - 1)
            }


def test_the_coded_part_begins_with_an_optimizer_that_has_seen_nothing(tiny):
    training = Training(tiny)
    while training.step < tiny.plain_steps:
        training.advance()
    before = training.optimizers
    training.advance()
    assert training.optimizers is not before
    assert {int(state["step"]) for state in training.optimizers[1].state.values()} == {1}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: recipe("gpu"), "scale 'gpu': choose quick, cpu, full"),
        (lambda: recipe("cpu", tokens=1000), "tokens 1000: give at least 4096"),
        (lambda: recipe("cpu", seed=-1), "seed -1"),
        (lambda: Recipe(n_codes=0), "n_codes 0"),
        (lambda: Recipe(memory=1.0), "memory 1.0: it must be at least 0 and below 1"),
    ],
)
def test_bad_input(wrong, words):
    with pytest.raises(InputError, match=words):
        wrong()


def test_the_command_makes_a_run_and_prints_the_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = replace(TINY, scale="quick")
    monkeypatch.setattr("benchmarks.tokfsm.recipe.SCALES", {"quick": tiny})
    monkeypatch.setattr("benchmarks.tokfsm.reproduce.EVALUATED", 8)
    main(["run", "--scale", "quick", "--out", "here"])
    assert "saved    here" in capsys.readouterr().out
    assert Path("here/result.json").is_file()
    main(["seeds"])
    assert "state precision" in capsys.readouterr().out
    with pytest.raises(InputError):
        main(["run", "--tokens", "10"])
