"""Attached codebooks in a planted model, whose change under a set code is known beforehand, and odd fits."""

import pytest
import torch
from torch import Tensor

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import SetCode
from interp.errors import InputError
from interp.models import Model, load_model, parse_site
from interp.models.generate import generate
from interp.planted.models import load_planted_model
from interp.planted.tasks import NOUNS, VOCABULARY, load_planted_task
from tests.oracles import kept

PROMPT = "When Mary and John went to the store, John gave a drink to"


def codebook(d_in: int, **changes) -> Codebook:
    return Codebook(CodebookConfig(**{"d_in": d_in, "n_codes": 12} | changes))


def site_activation(model: Model, site: str, tokens: Tensor) -> Tensor:
    place = parse_site(site)
    (x,) = kept(model, tokens, place.hook)
    return x if place.head is None else x[:, :, place.head]


class Planted:
    """``planted-induction`` with one code per noun at an induction head, a1.h1: what the head holds at END when
    that noun is the answer; the last code is what it holds when it rests on BOS."""

    site = "a1.h1"

    def __init__(self) -> None:
        self.model = load_planted_model("planted-induction")
        task = load_planted_task("planted-induction")
        pairs = task.sample(self.model.tokenizer, 128, 0, task.counterfactuals[0])
        self.tokens = torch.tensor([pair.clean_tokens for pair in pairs])
        self.answers = torch.tensor([pair.answers[0] for pair in pairs])
        self.words = torch.tensor([VOCABULARY.index(noun) for noun in NOUNS])
        z = site_activation(self.model, self.site, self.tokens)
        self.book = codebook(z.shape[-1], n_codes=len(NOUNS) + 1)
        present = [noun for noun, word in enumerate(self.words) if (self.answers == word).any()]
        with torch.no_grad():
            self.book.codes.zero_()
            for noun in present:
                self.book.codes[0, noun] = z[self.answers == self.words[noun], -1].mean(0)
            self.book.codes[0, -1] = z[:, 0].mean(0)
        self.present = present

    def direct(self, change: Tensor) -> Tensor:
        """What a change of the head's z does to the logits by itself: the model is linear from there on."""
        return change @ self.model.blocks[1].attn.W_O[1] @ self.model.W_U


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


def test_codes_of_a_planted_induction_head_name_the_noun_that_it_copies(planted):
    with attach(planted.model, {planted.site: planted.book}, error_term=False) as attached:
        planted.model(planted.tokens)
    at_end = attached.ids[planted.site][:, -1, 0].long()
    assert torch.equal(planted.words[at_end], planted.answers)


@pytest.mark.parametrize("error_term", [False, True])
def test_a_code_set_in_a_planted_model_changes_the_logits_as_predicted_and_nothing_else(planted, error_term):
    model, site, codes = planted.model, planted.site, planted.book.codes[0].detach()
    target = planted.present[3]
    with attach(model, {site: planted.book}, error_term=error_term) as attached:
        before, was = model(planted.tokens), attached.ids[site][:, -1, 0].long()
        attached.edit(SetCode(site, target))  # END is the last position
        others = hidden(model, planted.tokens)
        after = model(planted.tokens)
    assert torch.equal(after[:, :-1], before[:, :-1])
    predicted = planted.direct(codes[target] - codes[was])
    torch.testing.assert_close(after[:, -1] - before[:, -1], predicted, atol=2e-3, rtol=1e-3)
    gain = (after - before)[:, -1]
    changed = planted.answers != planted.words[target]
    assert (gain[changed, planted.words[target]] > 2).all(), "the set noun gains"
    assert (gain[changed].gather(1, planted.answers[changed, None]) < -2).all(), "the copied noun loses"
    untouched = torch.ones_like(gain, dtype=torch.bool)
    untouched[:, planted.words[target]] = False
    untouched.scatter_(1, planted.answers[:, None], False)
    assert gain[untouched].abs().max() < 0.01 * gain.abs().max()
    with attach(model, {site: planted.book}, error_term=error_term):
        plain = hidden(model, planted.tokens)
    for layer, (edited_z, plain_z) in enumerate(zip(others, plain, strict=True)):
        heads = [h for h in range(edited_z.shape[2]) if (layer, h) != (1, 1)]
        # a later head that reads no output notices nothing
        torch.testing.assert_close(edited_z[:, :, heads], plain_z[:, :, heads], atol=2e-3, rtol=1e-3)


def hidden(model: Model, tokens: Tensor) -> list[Tensor]:
    """z of all heads of every layer."""
    return kept(model, tokens, *(f"blocks.{i}.attn.hook_z" for i in range(model.cfg.n_layers)))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_head_by_itself_equals_the_layer_with_a_group_per_head(family, tiny_model):
    model = tiny_model(family)
    heads, d_head = model.cfg.n_heads, model.cfg.d_head
    together = {f"a{i}": codebook(d_head, groups=heads, seed=i, n_codes=64, k=3) for i in range(2)}
    sites = [f"{layer}.h{head}" for layer in together for head in range(heads)]
    apart = {site: codebook(d_head, n_codes=64, k=3) for site in sites}
    for site, book in apart.items():
        layer, _, head = site.partition(".h")
        book.codes.data = together[layer].codes.data[int(head)][None].clone()
    reconstructed = []
    for books in (together, apart):
        with attach(model, books, error_term=False) as attached:
            (model(PROMPT, return_type="loss") + attached.loss() / len(books)).backward()
            reconstructed.append((model(PROMPT).detach(), attached.ids))
    assert torch.equal(reconstructed[0][0], reconstructed[1][0])
    for site, book in apart.items():
        layer, _, head = site.partition(".h")
        assert torch.equal(reconstructed[1][1][site], reconstructed[0][1][layer][:, :, int(head)])
        torch.testing.assert_close(book.codes.grad[0], together[layer].codes.grad[int(head)])


def test_one_book_of_a_layer_serves_each_head_or_all_at_once_or_shares_of_an_mlp(tiny_model):
    model = tiny_model("llama")
    tokens, d_head, heads = model.to_tokens(PROMPT), model.cfg.d_head, model.cfg.n_heads
    for site, book, flat in (
        ("a0", codebook(d_head, k=2), lambda x: x),
        ("a1", codebook(heads * d_head, k=2), lambda x: x.flatten(-2)),
        ("m0", codebook(6, groups=4, k=2), lambda x: x.unflatten(-1, (4, 6))),
    ):
        x = site_activation(model, site, tokens)
        with attach(model, {site: book}, error_term=False) as attached:
            out = site_activation(model, site, tokens)
            assert attached.ids[site].shape == (*flat(x).shape[:-1], 2)
            assert torch.equal(flat(out), book(flat(x)))
            if site == "a0":
                attached.edit(SetCode("a0.h2", 3, slots=2), positions="all")
                model(tokens)
                ids = attached.ids["a0"]
                assert (ids[:, :, 2] == 3).all() and not (ids[:, :, 1] == 3).all()
            else:
                with pytest.raises(InputError):
                    attached.edit(SetCode(f"{site}.h0", 1))


def test_the_loss_is_that_of_the_codebook_and_codes_that_were_set_do_not_count_in_it(tiny_model):
    model = tiny_model("gpt2")
    tokens, book = model.to_tokens(PROMPT), codebook(model.cfg.d_model, n_codes=30, mse_weight=0.1)
    x = site_activation(model, "m0", tokens)
    with attach(model, {"m0": book}, error_term=False) as attached:
        for edits in ([], [SetCode("m0", 3)]):
            if edits:
                attached.edit(*edits, positions="all")
            model(tokens)
            torch.testing.assert_close(attached.loss(), book.loss(x, book(x)))
        with torch.no_grad():
            model(tokens)
        with pytest.raises(RuntimeError):
            attached.loss()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_models_in_bfloat16_run_under_codes_and_are_restored(family, tiny_model_folder):
    model = load_model(str(tiny_model_folder(family)), dtype="bfloat16")
    before = model(PROMPT)
    books = {
        "a0": codebook(model.cfg.d_head, groups=model.cfg.n_heads, k=2),
        "r1": codebook(model.cfg.d_model).to(torch.bfloat16),
    }
    with attach(model, books, error_term=False) as attached:
        coded = model(PROMPT)
        assert coded.dtype == torch.bfloat16 and not torch.equal(coded, before)
        assert generate(model, PROMPT, 5) == generate(model, PROMPT, 5, use_cache=False)
        assert attached.ids["a0"].dtype == torch.int16
    with attach(model, books, error_term=True):
        assert torch.equal(model(PROMPT), before)
    assert torch.equal(model(PROMPT), before)
