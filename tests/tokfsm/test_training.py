"""Training: it learns, it resumes with the same losses, it leaves what other tools read."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from interp.bottlenecks import Codebook, CodebookConfig, load_bottleneck
from interp.bottlenecks.attach import attach
from interp.bottlenecks.moving_means import MovingMeans
from interp.models import load_model
from interp.models.neox import Cache, NeoX
from interp.tasks.errors import InputError
from interp.tokfsm.coded import Books, unexplained
from interp.tokfsm.data import BOS, generator_of, make_machine, sequences
from interp.tokfsm.folder import save
from interp.tokfsm.recipe import Recipe, recipe
from interp.tokfsm.reproduce import CHECKPOINT, measure, train
from interp.tokfsm.training import BEFORE, Training
from tests.tokfsm.conftest import SHAPE


def test_a_cache_changes_nothing():
    model, tokens = NeoX(SHAPE, 3), sequences(make_machine(), 3, 0)[:, :20]
    books = Books(SHAPE, 30)
    with torch.no_grad():
        whole, cache = model(tokens, books.run()), Cache()
        steps = torch.cat([model(tokens[:, i : i + 1], books.run(), cache) for i in range(20)], 1)
    torch.testing.assert_close(steps, whole, atol=1e-5, rtol=1e-4)


def test_sampling_is_seeded_and_never_draws_bos():
    model = NeoX(SHAPE)
    first, again = (model.sample(5, generator_of(1), bos=BOS) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (5, 128)
    assert (first[:, 0] == BOS).all() and (first[:, 1:] < BOS).all()


def test_training_lowers_the_loss_in_both_parts(each):
    training = Training(replace(each, tokens=60 * 4 * 128))
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
def test_a_killed_run_goes_on_with_the_same_losses(each, tmp_path, stop):
    whole = Training(each)
    while whole.step < each.steps:
        whole.advance()
    part = Training(each)
    for _ in range(stop):
        part.advance()
    part.save(tmp_path / "c.safetensors")
    rest = Training.load(tmp_path / "c.safetensors", each)
    while rest.step < each.steps:
        rest.advance()
    assert rest.losses == whole.losses
    for site, book in whole.books.items():
        assert torch.equal(book.codes, rest.books[site].codes), site


def test_dead_codes_are_replaced_and_forgotten_by_the_optimizer(tiny):
    training = Training(tiny)
    while not tiny.replaces_at(training.step):
        training.advance()
    book = training.books["m1"]
    with torch.no_grad():  # nothing is most similar to zero
        book.codes[0, :5] = 0
    book.counts[0, :5] = 0
    training.advance()
    lengths = book.codes.detach().norm(dim=-1)[0]
    assert (lengths[:5] > 0.1 * lengths[5:].mean()).all()
    moments = training.optimizers[-1].state[book.codes]
    assert (moments["exp_avg"][0, :5] == 0).all() and (moments["exp_avg_sq"][0, :5] == 0).all()
    assert (moments["exp_avg"][0, 5:] != 0).any()


def test_codes_follow_the_running_means_of_their_vectors():
    book = Codebook(CodebookConfig(d_in=3, n_codes=4, groups=2, selection="residual"))
    means, before = MovingMeans(book, 0.5), book.codes.detach().clone()
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


def _after_a_coded_step(recipe, foretold=None):
    training = Training(recipe)
    if foretold is not None:
        training._foretold = foretold
    while not training.coded:  # codebooks come in with a step
        training.advance()
    return training.model.state_dict()


def test_a_taught_part_learns_from_what_the_model_without_codebooks_foretells(tiny):
    """Certain of the text's next digit, that model teaches what the text would; as it is, something else."""

    def certain(tokens):
        return torch.nn.functional.one_hot(tokens[:, 1:], 11).float()

    taught = replace(tiny, taught=True)
    by_text, by_certain = _after_a_coded_step(tiny), _after_a_coded_step(taught, certain)
    by_model = _after_a_coded_step(taught)
    for name, value in by_text.items():
        torch.testing.assert_close(by_certain[name], value)
    assert not torch.allclose(by_model["embed_out.weight"], by_text["embed_out.weight"])


def test_a_checkpoint_made_before_recipes_could_differ_goes_on(tiny, tmp_path):
    path = tmp_path / "c.safetensors"
    training = Training(tiny)
    training.advance()
    training.save(path)
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    said = {key: value for key, value in json.loads(facts["recipe"]).items() if key not in BEFORE}
    save_file(tensors, path, facts | {"recipe": json.dumps(said)})
    assert Training.load(path, tiny).advance() == training.advance()
    with pytest.raises(InputError, match="optimizer adam, not muon"):
        Training.load(path, replace(tiny, optimizer="muon"))


def test_the_pull_to_codes_does_not_grow_with_the_activations():
    """Squared distances do, and drowned the language model's gradient at ``cpu`` scale."""
    x, codes = torch.randn(4, 7, 8, requires_grad=True), torch.randn(4, 7, 8)
    small, large = unexplained(x, codes), unexplained(100 * x, 100 * codes)
    assert large.item() == pytest.approx(small.item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(small, x)
    spread = (x.detach().flatten(0, 1) - x.detach().flatten(0, 1).mean(0)).square().sum()
    torch.testing.assert_close(gradient, 2 * (x.detach() - codes) / spread)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tiny, tmp_path):
    path = tmp_path / "c.safetensors"
    Training(tiny).save(path)
    with pytest.raises(InputError, match="seed 0, not 1: name another --out"):
        Training.load(path, replace(tiny, seed=1))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot read the checkpoint"):
        Training.load(path, tiny)


def test_what_is_saved_is_the_same_model_for_every_other_tool(each, tmp_path, monkeypatch):
    monkeypatch.setattr("interp.tokfsm.training.LOOKS", 2)
    training = train(each, tmp_path)
    measured = measure(training, evaluated=8, samples=4, pairs=4)
    result = save(training, measured, tmp_path, ["interp", "reproduce", "tokfsm"])
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result))
    page = (tmp_path / "table.md").read_text()
    assert "63.6" in page and "interp reproduce tokfsm" in page
    assert train(each, tmp_path).step == each.steps  # nothing is left to do
    assert (tmp_path / CHECKPOINT).is_file()

    bridge = load_model(str(tmp_path / "model"))
    assert bridge.tokenizer("042").input_ids == [BOS, 0, 4, 2]
    books = {site: load_bottleneck(tmp_path / "codebooks" / site) for site in training.books}
    tokens = sequences(training.machine, 2, 9)
    with torch.no_grad():
        plain = training.model(tokens)
        torch.testing.assert_close(bridge(tokens), plain, atol=1e-4, rtol=1e-3)
        running = training.books.run()
        coded = training.model(tokens, running)
        with attach(bridge, books) as attached:
            found = bridge(tokens)
            ids = attached.ids
    torch.testing.assert_close(found, coded, atol=1e-4, rtol=1e-3)
    assert all(torch.equal(ids[site][..., 0].long(), running.ids[site].long()) for site in books)


def test_the_rate_rises_and_falls_twice():
    tried = Recipe(tokens=2048 * 1000)
    rates = [tried.lr_at(step) for step in range(tried.steps)]
    cut = tried.plain_steps
    assert rates[0] < max(rates[:cut]) == tried.lr and rates[cut - 1] < 0.2 * tried.lr
    assert rates[cut] < max(rates[cut:]) == tried.lr_coded and rates[-1] < 0.02 * tried.lr_coded
    assert not tried.replaces_at(cut) and not tried.replaces_at(tried.steps - 1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: recipe("gpu"), "scale 'gpu': choose quick, cpu, full"),
        (lambda: recipe("cpu", tokens=1000), "tokens 1000: give at least 4096"),
        (lambda: recipe("cpu", seed=-1), "seed -1"),
        (lambda: Recipe(n_codes=0), "n_codes 0"),
        (lambda: Recipe(memory=1.0, replace_every=0), "memory 1.0: it must be at least 0 and below 1"),
        (lambda: Recipe(memory=0.9), "replace_every: .* make it 0"),
    ],
)
def test_bad_input(wrong, words):
    with pytest.raises(InputError, match=words):
        wrong()


def test_the_command_prints_the_page_and_names_what_is_wrong(command, elsewhere):  # noqa: ARG001
    assert "38 M" in command("reproduce", "tokfsm", "--help").out
    failed = command("reproduce", "tokfsm", "--scale", "huge")
    assert failed.code == 2 and "huge is not quick or cpu or full" in failed.error
    assert "tokens 10: give at least 4096" in command("reproduce", "tokfsm", "--tokens", "10").error
