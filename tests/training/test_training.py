"""What training does to codebooks: losses fall, nothing else changes."""

import json
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.attach import attach
from interp.bottlenecks.base import count_codes, straight_through
from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.bottlenecks.kinds.layer_norm_codebook import LayerNormCodebook
from interp.bottlenecks.store import Codebooks
from interp.errors import InputError
from interp.evaluation.codebook_quality import evaluate_codebooks
from interp.models import hooked, load_model, weights_digest
from interp.models.save import save_model, trained_weights
from interp.text import load_text
from interp.training import TrainConfig, Trainer, train_codebooks
from interp.training.run import batch_of
from interp.training.trained_codebook import TrainedCodebook
from interp.training.trainer import RelativeAdam, Teacher, kl_and_gradient
from tests.tiny_models import FAMILIES

QUICK = TrainConfig(epochs=4, lr=0.02, checkpoint_every=20, replace_every=10)


def kl_on(model, books, text) -> float:
    with torch.no_grad():
        plain = model(text.tokens).log_softmax(-1)
        with attach(model, books, error_term=False):
            coded = model(text.tokens).log_softmax(-1)
    return float((plain.exp() * (plain - coded)).sum(-1).mean())


def error_on(model, books, text) -> float:
    """Share of variance not explained, over all sites."""
    trainer = Trainer(model, books, TrainConfig(objective="local", lr=0.0), 1)
    return 1 - trainer.step(0, text.tokens).explained


def test_steps_rise_to_the_whole_size_and_fall_to_nothing():
    sizes = [TrainConfig(warmup=0.25).step_size(step, 20) for step in range(20)]
    assert sizes == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0] + [1 - k / 15 for k in range(15)])
    plain = [TrainConfig(warmup=0.0).step_size(step, 4) for step in range(4)]
    assert plain == pytest.approx([1.0, 1.0, 2 / 3, 1 / 3]) and TrainConfig().step_size(0, 1) > 0


# of twelve codes the first position takes two where a vector has four
@pytest.mark.parametrize(("k", "heldout_share"), [(1, 0.98), (4, 0.99)])
def test_distilled_training_brings_held_out_kl_down(k, heldout_share, model, text, tmp_path):
    fit = FitConfig(n_codes=12, k=k, selection="matching_pursuit")
    start = fit_codebooks(model, ["heads", "m0"], text, tmp_path / "fitted", fit)
    heldout = load_text("stdlib", model, n_tokens=32 * 32, context=32, split="heldout")
    before = weights_digest(model)
    saved = train_codebooks(model, start, text, tmp_path / "out", replace(QUICK, epochs=8))
    fitted, trained = (Codebooks.from_pretrained(folder, model) for folder in (start.folder, saved.folder))
    assert kl_on(model, trained, text) < 0.95 * kl_on(model, fitted, text)
    assert kl_on(model, trained, heldout) < heldout_share * kl_on(model, fitted, heldout)
    assert weights_digest(model) == before and not any(p.requires_grad for p in model.parameters())
    assert all(book.config == fitted[site].config for site, book in trained.items())
    assert saved.manifest["training"]["objective"] == "distilled" and saved.sites == start.sites
    assert not (saved.folder / ".work").exists()
    result = evaluate_codebooks(model, {k: trained}, heldout, text, control_blocks=0)
    assert result.usage[k]["variance_explained_mean"] > 0


def test_local_training_lowers_the_error_and_gives_each_site_its_own_gradient(model, text, start, tmp_path):
    saved = train_codebooks(model, start, text, tmp_path, replace(QUICK, objective="local"))
    fitted, trained = (Codebooks.from_pretrained(folder, model) for folder in (start.folder, saved.folder))
    assert error_on(model, trained, text) < error_on(model, fitted, text)
    # the first site's gradient is the same whatever stands behind it
    gradients = []
    for sites in (["a0"], ["a0", "a1", "m0"]):
        books = Codebooks.from_pretrained(start.folder, model)
        trainer = Trainer(model, {s: books[s] for s in sites}, TrainConfig(objective="local", lr=0.0), 2)
        trainer.step(0, text.tokens[:8])
        gradients.append(books["a0"].codes.grad * len(sites))
    torch.testing.assert_close(*gradients)


def test_joint_training_lowers_the_loss_and_the_finetuned_model_is_saved(tiny_model_folder, text, start, tmp_path):
    folder = str(tiny_model_folder("llama"))
    model = load_model(folder)
    before = weights_digest(model)
    config = replace(QUICK, objective="joint", model_lr=1e-2)
    saved = train_codebooks(model, start, text, tmp_path / "out", config)
    history = json.loads((saved.folder / "training.json").read_text())
    assert sum(history["ce"][-8:]) < sum(history["ce"][:8]) - 1 and set(history["kl"]) == {None}
    assert weights_digest(model) != before and all(p.grad is None for p in model.parameters())
    again = load_model(saved.manifest["model"]["spec"])
    assert torch.equal(again(text.tokens[:4]), model(text.tokens[:4]))
    Codebooks.from_pretrained(saved.folder, again)
    with pytest.raises(InputError, match="holds codebooks of"):
        Codebooks.from_pretrained(saved.folder, load_model(folder))
    done = train_codebooks(load_model(folder), start, text, tmp_path / "out", config)
    assert done.manifest == saved.manifest, "asked for once more, it is done"
    # it moves with its folder
    moved = saved.folder.rename(tmp_path / "elsewhere")
    spec = Codebooks.from_pretrained(moved).manifest["model"]["spec"]
    assert spec == str(moved / "model")
    Codebooks.from_pretrained(moved, load_model(spec))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_finetuned_model_is_saved_as_it_is(family, tiny_model_folder, tmp_path):
    model = load_model(str(tiny_model_folder(family)))
    tokens = torch.randint(5, 200, (2, 12))
    plain, weights = model(tokens), trained_weights(model)
    for parameter in weights.values():
        parameter.requires_grad_(True)
    model(tokens).square().mean().backward()
    assert all(parameter.grad is not None for parameter in weights.values())
    torch.optim.SGD(weights.values(), lr=1e-3).step()
    model.requires_grad_(False)
    changed = model(tokens)
    assert not torch.allclose(changed, plain)
    save_model(model, tmp_path)
    torch.testing.assert_close(load_model(str(tmp_path))(tokens), changed)


def test_steps_are_adams_over_the_uses_of_each_code():
    """What torch's Adam does on a code's gradients alone, the steps in which it had none left out."""
    generator = torch.Generator().manual_seed(0)
    units, lr = torch.tensor([1.0, 30.0]), 0.02
    codes = torch.nn.Parameter(torch.randn(2, 5, 3, generator=generator))
    alone = {place: torch.nn.Parameter(codes.detach()[place].clone()) for place in np.ndindex(2, 5)}
    theirs = {place: torch.optim.Adam([p], lr=lr, betas=(0.9, 0.99)) for place, p in alone.items()}
    ours = RelativeAdam([codes], lr)
    for _ in range(12):
        used = torch.rand(2, 5, generator=generator) < 0.4
        used[1, 4] = False
        codes.grad = torch.randn(2, 5, 3, generator=generator) * used[..., None]
        before = codes.detach().clone()
        ours.step_in([units])
        assert torch.equal(codes[~used], before[~used])
        for place, p in alone.items():
            if used[place]:
                p.grad, old = codes.grad[place], p.detach().clone()
                theirs[place].step()
                p.data = old + units[place[0]] * (p.data - old)
    for place, p in alone.items():
        torch.testing.assert_close(codes[place], p)


@pytest.mark.parametrize(
    ("objective", "codes"),
    [
        ("local", {"k": 1}),
        ("nested", {"k": 4, "selection": "matching_pursuit"}),
        ("distilled", {"k": 4, "selection": "matching_pursuit", "magnitude": "scaled"}),
        ("distilled", {"k": 4, "selection": "cosine"}),
    ],
)
def test_the_first_position_is_exact_and_stays(objective, codes, model, text, tmp_path):
    start = fit_codebooks(model, ["heads"], text, tmp_path / "fitted", FitConfig(n_codes=24, **codes))
    given = {"nested": True} if objective == "nested" else {"objective": objective}
    saved = train_codebooks(model, start, text, tmp_path / "out", replace(QUICK, **given))
    tokens = text.tokens[:3]
    plain, coded, before = {}, {}, {}
    for seen, folder in ((plain, None), (coded, saved.folder), (before, start.folder)):
        books = Codebooks.from_pretrained(folder, model) if folder else {}
        watch = {f"blocks.{layer}.hook_resid_post": partial(seen.__setitem__, layer) for layer in range(2)}
        coding = attach(model, books, error_term=False) if books else nullcontext()
        with torch.no_grad(), coding, hooked(model, watch):
            model(tokens)
    for layer, x in plain.items():
        torch.testing.assert_close(coded[layer][:, 0], x[:, 0])
        assert not torch.allclose(coded[layer][:, 1:], x[:, 1:], rtol=1e-3)
    assert not torch.allclose(before[1][:, 0], plain[1][:, 0])


def test_books_pass_on_as_much_of_the_gradient_as_they_pass_on_of_a_shift():
    """Predict from the share of variance explained, then shift the vectors and compare."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 1, 3, generator=generator)
    book = Codebook(CodebookConfig(d_in=3, n_codes=16, selection="matching_pursuit")).fit(x)
    wrapper = TrainedCodebook(book, alone=False)
    blocks = x.reshape(100, 200, 3)
    wrapper.loss(blocks, wrapper.decode(wrapper.encode(blocks)))
    shift = 0.2 * torch.randn(3, generator=generator)
    with torch.no_grad():
        moved = (book.decode(book.encode(x + shift)) - book.decode(book.encode(x))).mean((0, 1))
    share = float(moved @ shift / shift.square().sum())
    assert float(wrapper.gain) == pytest.approx(share, abs=0.03) and 0.6 < share < 0.9

    x = x[:5].requires_grad_()
    decoded = wrapper.decode(wrapper.encode(x))
    assert torch.equal(decoded, book.decode(book.encode(x)))
    straight_through(x, decoded).sum().backward()
    torch.testing.assert_close(x.grad, wrapper.gain.expand_as(x))


def test_kl_and_its_gradient_are_those_of_autograd():
    logits, teacher = torch.randn(3, 70, 11, requires_grad=True), torch.randn(3, 70, 11)
    log_p, log_q = teacher.log_softmax(-1), logits.log_softmax(-1)
    expected = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    expected.backward()
    kl, gradient = kl_and_gradient(logits, teacher)
    torch.testing.assert_close(kl, expected.detach())
    torch.testing.assert_close(gradient, logits.grad)


def test_the_gradient_of_a_code_is_the_slope_of_the_loss(model, text, start):
    """A step along one code's gradient changes KL + λ·error by as much as the gradient says, the ids being the same."""
    tokens, config = text.tokens[:4], TrainConfig(lr=0.0, mse_weight=0.3)

    def loss_with(change) -> tuple[float, dict]:
        books = {"m0": Codebooks.from_pretrained(start.folder, model)["m0"]}
        with torch.no_grad():
            books["m0"].codes += change
        return Trainer(model, books, config, 2).step(0, tokens).loss, books

    base, books = loss_with(torch.zeros(()))
    gradient = books["m0"].codes.grad
    code = int(gradient[0].norm(dim=-1).argmax())
    change = torch.zeros_like(gradient)
    change[0, code] = gradient[0, code] / gradient[0, code].norm() * 1e-3
    up, down = loss_with(change)[0], loss_with(-change)[0]
    assert (up - down) / 2e-3 == pytest.approx(float(gradient[0, code].norm()), rel=0.1)


def test_steps_are_in_units_of_the_spread_at_the_site(model, text, start):
    books = Codebooks.from_pretrained(start.folder, model)
    before = {site: book.codes.detach().clone() for site, book in books.items()}
    seen = []
    with torch.no_grad(), hooked(model, {"blocks.0.attn.hook_z": lambda x: seen.append(x.clone())}):
        model(text.tokens[:8])
    Trainer(model, books, TrainConfig(lr=0.01, warmup=0.0), 2).step(0, text.tokens[:8])
    moved = (books["a0"].codes.detach() - before["a0"]).abs().amax(-1)
    gradient = books["a0"].codes.grad.abs().amax(-1)
    vectors = books["a0"].comparable(seen[0][:, 1:].flatten(0, 1).transpose(0, 1))
    spread = vectors.var(1, correction=0).mean(-1).sqrt()
    used = gradient > 1e-5
    expected = (0.01 * spread)[:, None].expand_as(moved)
    torch.testing.assert_close(moved[used], expected[used], rtol=0.01, atol=1e-6)
    first = books["a0"].encode(seen[0][:1, :1]).ids  # put where its vector is
    held = count_codes(first, *moved.shape[::-1]) > 0
    assert (moved[(gradient == 0) & ~held] == 0).all() and used.any() and not gradient[held].any()


def test_nested_training_serves_every_number_of_codes(model, text, start, tmp_path):
    saved = train_codebooks(model, start, text, tmp_path / "out", replace(QUICK, nested=True))
    for k in (1, 2, 4):
        fitted, trained = (Codebooks.from_pretrained(f, model, k=k) for f in (start.folder, saved.folder))
        assert kl_on(model, trained, text) < kl_on(model, fitted, text)
    assert all(book.config.k == 4 for book in Codebooks.from_pretrained(saved.folder, model).values())


def test_codes_that_are_never_used_are_replaced_until_near_the_end(model, text, start):
    def with_dead_codes() -> Codebook:
        book = Codebooks.from_pretrained(start.folder, model)["a0"]
        book.codes.detach()[:, :3] = 1e4  # nothing is near them
        return book

    book = with_dead_codes()  # without replacement they are counted all the same
    step = Trainer(model, {"a0": book}, TrainConfig(replace_every=0), 4).step(0, text.tokens[:8])
    assert step.dead >= 3 / 12 and (book.codes > 1e3).any()
    book = with_dead_codes()
    trainer = Trainer(model, {"a0": book}, TrainConfig(replace_every=4), 8)
    for number in range(8):
        result = trainer.step(number, text.tokens[8 * number :][:8])
        assert (book.codes > 1e3).any() == (number < 3)
        if number < 3:
            assert result.dead == 0
        if number == 3:
            assert result.dead >= 3 / 12
            assert not trainer.optimizer.state[book.codes]["exp_avg"][:, :3].any()
            replaced = book.codes.detach().clone()
    assert (book.codes - replaced).abs().max() < 1, "no second replacement after four fifths"


def test_a_batch_is_part_of_an_epochs_own_order():
    config = TrainConfig(batch_size=4, epochs=3)
    seen = [batch_of(number, 14, config).tolist() for number in range(9)]
    for epoch in range(3):
        blocks = sum(seen[3 * epoch :][:3], [])
        assert len(set(blocks)) == 12
    assert seen[0] != seen[3] and seen == [batch_of(number, 14, config).tolist() for number in range(9)]
    assert seen[0] != batch_of(0, 14, replace(config, seed=1)).tolist()


def test_bfloat16_is_asked_for_on_a_processor(model, start, text):
    """Losses are nearly those of float32, and what is trained stays float32; ``auto`` is float32 here."""
    losses = {}
    for precision in ("auto", "float32", "bfloat16"):
        books = Codebooks.from_pretrained(start.folder, model)
        trainer = Trainer(model, books, replace(QUICK, precision=precision), 10)
        losses[precision] = [trainer.step(i, text.tokens[4 * i :][:4]).loss for i in range(3)]
        assert all(tensor.dtype != torch.bfloat16 for tensor in trainer.state().values())
    assert losses["auto"] == losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"warmup": 1.0}, "warmup 1.0"),
        ({"batch_size": 65}, "64 blocks of text: a batch is 65"),
        # only distilled codes for one k are refitted
        ({"centroid_refits": 2, "nested": True}, "centroid_refits 2"),
        ({"centroid_refits": 2, "objective": "local"}, "centroid_refits 2"),
    ],
)
def test_what_cannot_be_is_named(model, text, start, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        train_codebooks(model, start, text, tmp_path / "out", TrainConfig(**change))
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_trained_is_refused(model, text, start, tmp_path):
    heldout = load_text("stdlib", model, n_tokens=1024, context=32, split="heldout")
    cosine = fit_codebooks(model, ["a0"], text, tmp_path, FitConfig(n_codes=12, k=2, selection="cosine"))
    nested = replace(QUICK, nested=True)
    for books, words, config, message in (
        (start, heldout, QUICK, "split 'heldout': codebooks are trained on 'train' only"),
        (cosine, text, nested, "lengths of these codes are right for sums of 2"),
    ):
        with pytest.raises(InputError, match=message):
            train_codebooks(model, books, words, tmp_path / "out", config)
    size = model.cfg.d_head * model.cfg.n_heads
    single = Codebooks.from_pretrained(start.folder, model, k=1)
    misfit = {"a0": Codebook(CodebookConfig(d_in=5, n_codes=12))}
    for_reading = {"a0": LayerNormCodebook(CodebookConfig(d_in=size, n_codes=12))}
    for books, config, message in (
        (single, nested, "one code a vector, so there is no number to draw"),
        (misfit, QUICK, "site a0 has .* do not fit"),
        (for_reading, QUICK, "a0 is a layer_norm_codebook"),
    ):
        with pytest.raises(InputError, match=message):
            Trainer(model, books, config, 2)


@pytest.fixture
def first_layer(model, text):
    """Sizes of the batches of text that the first layer has seen."""
    seen = []

    def see(x) -> None:
        if x.shape[1] == text.tokens.shape[1]:  # not the two tokens by which starting_at learns of a model
            seen.append(len(x))

    with hooked(model, {"blocks.0.hook_resid_pre": see}):
        yield seen


def test_what_is_kept_of_the_plain_model_says_the_same_in_any_batch(model, text, first_layer):
    plain = Teacher(model, again=True)
    for rows in (slice(0, 4), slice(4, 8)):
        plain.logits(text.tokens[rows])
    mixed = text.tokens[[6, 1, 3, 4]]
    again = plain.logits(mixed)
    again.zero_()  # the caller's own
    assert torch.equal(plain.logits(mixed), model(mixed))
    plain.logits(text.tokens[[0, 8]])
    assert first_layer == [4, 4, 4, 2], "a batch with a block that is new goes through the whole model"


def test_later_epochs_run_the_plain_model_no_more(model, text, start, tmp_path, first_layer):
    train_codebooks(model, start, text, tmp_path / "out", TrainConfig(epochs=3, batch_size=16))
    steps = len(text.tokens) // 16
    assert len(first_layer) == 3 * steps + steps, "the spliced model every step, the plain one in one epoch"
