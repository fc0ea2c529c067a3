"""Attached codebooks in a planted model, whose change under a set code is known beforehand, and odd fits."""

import pytest
import torch
from torch import Tensor

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import AddCode, SetCode
from interp.errors import InputError
from interp.models import Model, hooked, load_model, parse_site
from interp.models.generate import generate
from interp.planted.models import load_planted_model
from interp.planted.tasks import NOUNS, VOCABULARY, load_planted_task

PROMPT = "When Mary and John went to the store, John gave a drink to"


def codebook(d_in: int, **changes) -> Codebook:
    return Codebook(CodebookConfig(**{"d_in": d_in, "n_codes": 12} | changes))


def site_activation(model: Model, site: str, tokens: Tensor) -> Tensor:
    seen, place = [], parse_site(site)
    with hooked(model, {place.hook: lambda x: seen.append(x.clone())}):
        model(tokens)
    return seen[0] if place.head is None else seen[0][:, :, place.head]


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
    for layer, (ours, theirs) in enumerate(zip(others, plain, strict=True)):
        heads = [h for h in range(ours.shape[2]) if (layer, h) != (1, 1)]
        # a later head that reads no output notices nothing
        torch.testing.assert_close(ours[:, :, heads], theirs[:, :, heads], atol=2e-3, rtol=1e-3)


def hidden(model: Model, tokens: Tensor) -> list[Tensor]:
    """z of all heads of every layer."""
    seen: list[Tensor] = []
    hooks = {f"blocks.{i}.attn.hook_z": lambda z: seen.append(z.clone()) for i in range(model.cfg.n_layers)}
    with hooked(model, hooks):
        model(tokens)
    return seen


def test_codes_set_while_a_planted_model_generates_choose_the_word(planted):
    model, tokens = planted.model, planted.tokens[:4]
    target = planted.present[0]
    with attach(model, {planted.site: planted.book}, error_term=False) as attached:
        # strong enough to outvote the second induction head, which has its own mind
        attached.edit(AddCode(planted.site, target, scale=3.0))
        for use_cache in (True, False):
            written = generate(model, tokens, 3, use_cache=use_cache)[:, tokens.shape[1] :]
            assert (written == planted.words[target]).all()


def test_a_site_that_is_named_twice_is_refused(tiny_model):
    model = tiny_model("llama")
    with pytest.raises(InputError):
        attach(
            model, {"m1": codebook(model.cfg.d_model), "m01": codebook(model.cfg.d_model)}, error_term=False
        )


def test_heads_of_a_layer_can_have_bottlenecks_of_their_own(tiny_model):
    model = tiny_model("llama")
    tokens = model.to_tokens(PROMPT)
    books = {f"a1.h{h}": codebook(model.cfg.d_head, seed=h) for h in (0, 2)}
    z = site_activation(model, "a1", tokens)
    with attach(model, books, error_term=False):
        coded = site_activation(model, "a1", tokens)
    assert torch.equal(coded[:, :, [1, 3]], z[:, :, [1, 3]])
    for head in (0, 2):
        assert torch.equal(coded[:, :, head], books[f"a1.h{head}"](z[:, :, head]))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_head_by_itself_equals_the_layer_with_a_group_per_head(family, tiny_model):
    model = tiny_model(family)
    together, apart = layer_books(model, n_codes=64, k=3)
    compare_together_and_apart(model, model.to_tokens(PROMPT), together, apart)


def test_gradients_of_heads_by_themselves_equal_those_of_the_layer(tiny_model):
    model = tiny_model("gpt2")
    together, apart = layer_books(model, n_codes=30, k=2)
    for books in (together, apart):
        with attach(model, books, error_term=False) as attached:
            (model(PROMPT, return_type="loss") + attached.loss() / len(books)).backward()
    for site, book in together.items():
        for head in range(model.cfg.n_heads):
            torch.testing.assert_close(apart[f"{site}.h{head}"].codes.grad[0], book.codes.grad[head])


@pytest.mark.slow
def test_270_sites_of_one_head_each_equal_30_of_nine(smollm2):
    together, apart = layer_books(smollm2, n_codes=512, k=1)
    assert len(apart) == 270
    compare_together_and_apart(smollm2, smollm2.to_tokens(PROMPT), together, apart)


def layer_books(model: Model, **options) -> tuple[dict[str, Codebook], dict[str, Codebook]]:
    """A grouped codebook for every layer, and the same codes head by head."""
    heads, d_head = model.cfg.n_heads, model.cfg.d_head
    together = {f"a{i}": codebook(d_head, groups=heads, seed=i, **options) for i in range(model.cfg.n_layers)}
    apart = {}
    for site, book in together.items():
        for head in range(heads):
            apart[f"{site}.h{head}"] = codebook(d_head, **options)
            apart[f"{site}.h{head}"].codes.data = book.codes.data[head : head + 1].clone()
    return together, apart


def compare_together_and_apart(model: Model, tokens: Tensor, together: dict, apart: dict) -> None:
    with torch.no_grad(), attach(model, together, error_term=False) as whole:
        expected = model(tokens)
    with torch.no_grad(), attach(model, apart, error_term=False) as single:
        assert torch.equal(model(tokens), expected)
    for site, ids in whole.ids.items():
        for head in range(model.cfg.n_heads):
            assert torch.equal(single.ids[f"{site}.h{head}"], ids[:, :, head])


def test_heads_can_share_one_codebook(tiny_model):
    model = tiny_model("llama")
    tokens, book = model.to_tokens(PROMPT), codebook(model.cfg.d_head, k=2)
    z = site_activation(model, "a0", tokens)
    with attach(model, {"a0": book}, error_term=False) as attached:
        assert torch.equal(site_activation(model, "a0", tokens), book(z))
        assert attached.ids["a0"].shape == (*z.shape[:3], 2)
        attached.edit(SetCode("a0.h2", 3, slots=2), positions="all")
        model(tokens)
        assert (attached.ids["a0"][:, :, 2] == 3).all() and not (attached.ids["a0"][:, :, 1] == 3).all()


def test_one_dictionary_can_take_all_heads_of_a_layer_at_once(tiny_model):
    model = tiny_model("llama")
    tokens, book = model.to_tokens(PROMPT), codebook(4 * model.cfg.d_head, k=2)
    z = site_activation(model, "a1", tokens)
    with attach(model, {"a1": book}, error_term=False) as attached:
        out = site_activation(model, "a1", tokens)
        assert attached.ids["a1"].shape == (*z.shape[:2], 2)
        assert torch.equal(out.flatten(-2), book(z.flatten(-2)))
        with pytest.raises(InputError):
            attached.edit(SetCode("a1.h0", 1))


def test_an_mlp_can_be_shared_out_to_several_codebooks(tiny_model):
    model = tiny_model("pythia")
    tokens, book = model.to_tokens(PROMPT), codebook(6, groups=4, k=2)
    x = site_activation(model, "m0", tokens)
    with attach(model, {"m0": book}, error_term=False) as attached:
        out = site_activation(model, "m0", tokens)
    assert attached.ids["m0"].shape == (*x.shape[:2], 4, 2)
    assert torch.equal(out, book(x.unflatten(-1, (4, 6))).flatten(-2))


def test_training_the_codes_lowers_the_loss_of_model_and_codes(tiny_model):
    model = tiny_model("gpt2")
    tokens = model.to_tokens(PROMPT)
    book = codebook(model.cfg.d_model, n_codes=30, mse_weight=0.1)
    optimizer = torch.optim.Adam(book.parameters(), lr=0.03)
    losses = []
    with attach(model, {"m0": book}, error_term=False) as attached:
        for _ in range(30):
            loss = model(tokens, return_type="loss") + attached.loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            model(tokens)
        with pytest.raises(RuntimeError):
            attached.loss()
    assert losses[-1] < 0.8 * losses[0]


def test_codes_that_were_set_do_not_count_in_the_loss(tiny_model):
    model = tiny_model("gpt2")
    book = codebook(model.cfg.d_model)
    with attach(model, {"m0": book}, error_term=False) as attached:
        model(PROMPT)
        loss = attached.loss().item()
        attached.edit(SetCode("m0", 3), positions="all")
        model(PROMPT)
        assert attached.loss().item() == loss


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


def test_codes_of_a_forward_replace_those_of_the_one_before(tiny_model):
    model = tiny_model("llama")
    with attach(model, {"m0": codebook(model.cfg.d_model)}, error_term=False) as attached:
        generate(model, PROMPT, 5)
        model(PROMPT[:20])
        assert attached.ids["m0"].shape[1] == model.to_tokens(PROMPT[:20]).shape[1]


def test_no_code_at_all_is_an_error_for_no_bottleneck(tiny_model):
    model = tiny_model("llama")
    before = model(PROMPT)
    with attach(model, {}) as attached:
        assert torch.equal(model(PROMPT), before)
        assert attached.ids == {}
        with pytest.raises(InputError):
            attached.edit(SetCode("m0", 1))
