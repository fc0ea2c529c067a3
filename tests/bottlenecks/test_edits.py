"""Edits change what they should and nothing else, with a KV cache and without; codes in a line of text."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from interp.bottlenecks import Codebook, CodebookConfig, DiscreteSAE, DiscreteSAEConfig
from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import code_edits, format_codes, parse_code
from interp.bottlenecks.kinds.metric_codebook import MetricCodebook
from interp.errors import InputError
from interp.models import Model, load_model
from interp.models.generate import generate
from interp.steering import AddCode, ForbidCode, SetCode, WeightedCode, parse_codes
from tests.oracles import kept

N_CODES, NAN = 12, float("nan")
EVERYWHERE = [SetCode("a0.h1", 3), SetCode("a1.h2", 5), AddCode("m1", 4, scale=2), ForbidCode("a1.h0", 2)]
EVERYWHERE += [SetCode("r0", 7)]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request, tiny_model_folder) -> Model:
    return load_model(str(tiny_model_folder(request.param)))


@pytest.fixture(scope="module")
def tokens(model) -> Tensor:
    return torch.randint(10, model.cfg.d_vocab, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def books(model, tokens) -> dict[str, Codebook]:
    return fitted(model, tokens, k=2, selection="matching_pursuit")


def fitted(model: Model, tokens: Tensor, **options) -> dict[str, Codebook]:
    """Codebooks of the activations of random texts, so that different codes are met."""
    width, heads = model.cfg.d_head, model.cfg.n_heads
    books = {}
    for site, hook in {
        "a0": "blocks.0.attn.hook_z",
        "a1": "blocks.1.attn.hook_z",
        "m1": "blocks.1.hook_mlp_out",
        "r0": "blocks.0.hook_resid_post",
    }.items():
        per_head = site.startswith("a")
        kind = MetricCodebook if per_head else Codebook
        size = {"d_in": width if per_head else model.cfg.d_model, "groups": heads if per_head else 1}
        book = kind(CodebookConfig(n_codes=N_CODES, **size, **options))
        books[site] = book.fit(activation(model, hook, tokens))
    return books


def activation(model: Model, hook: str, tokens: Tensor) -> Tensor:
    return kept(model, tokens, hook)[0]


@torch.no_grad()
def logits(model: Model, tokens: Tensor) -> Tensor:
    return model(tokens)


def under(model: Model, books: dict, tokens: Tensor, *edits, error_term: bool = True, **options):
    """Logits with codes edited, everywhere unless told otherwise, and what was attached."""
    attached = attach(model, books, error_term=error_term, read=False)
    with attached.edit(*edits, **{"positions": "all"} | options) as steered:
        return logits(model, tokens), steered


def test_codes_take_all_slots_or_one_slot_each(model, books, tokens):
    _, steered = under(model, books, tokens, SetCode("a1.h2", 5, slots=2), error_term=False)
    assert (steered.ids["a1"][:, :, 2] == 5).all()
    assert set(steered.ids) == set(books), "everything is spliced"
    several = [SetCode("a1.h2", 5), SetCode("a1.h2", 8)]
    _, steered = under(model, books, tokens, *several)
    assert (steered.ids["a1"][:, :, 2] == torch.tensor([5, 8])).all()
    assert set(steered.ids) == {"a1"}, "sites without edits are not attached"
    with pytest.raises(InputError, match="0 of 2"):
        under(model, books, tokens, *several, SetCode("a1.h2", 3))


def test_an_added_code_adds_its_vector_or_what_sets_it_apart_from_the_mean(model, books, tokens):
    hook = "blocks.1.hook_mlp_out"
    expected, edits = activation(model, hook, tokens), [AddCode("m1", 4, scale=-1.5), AddCode("m1", 6)]
    with attach(model, books, read=False).edit(*edits, positions=[2, 5]):
        after = activation(model, hook, tokens)
    untouched = [0, 1, 3, 4, 6, 7, 8]
    assert torch.equal(after[:, untouched], expected[:, untouched])
    expected[:, [2, 5]] += books["m1"].codes[0, 6].detach() - 1.5 * books["m1"].codes[0, 4].detach()
    torch.testing.assert_close(after, expected)

    hook, book = "blocks.1.attn.hook_z", books["a1"]
    expected = activation(model, hook, tokens)
    book.count(book.encode(expected).ids)
    with attach(model, books, read=False).edit(AddCode("a1.h2", 5, from_mean=True), positions="all"):
        after = activation(model, hook, tokens)
    codes, share = book.codes[2].detach(), book.counts[2] / book.counts[2].sum()
    expected[:, :, 2] += codes[5] - share @ codes
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"k": 1, "selection": "cosine"},
        {"k": 3, "selection": "cosine"},
        {"k": 3, "selection": "matching_pursuit", "magnitude": "scaled"},
    ],
    ids=str,
)
def test_a_forbidden_code_gives_way_to_the_next_best(model, tokens, options):
    books = fitted(model, tokens, **options)
    place = books["a1"]
    before = activation(model, "blocks.1.attn.hook_z", tokens)
    ids = place.encode(before).ids
    common = int(ids[:, :, 1, 0].long().flatten().mode().values)
    chosen = under(model, books, tokens, ForbidCode("a1.h1", common))[1].ids["a1"]
    assert not (chosen[:, :, 1] == common).any()
    had = (ids[:, :, 1] == common).any(-1)
    assert had.any() and torch.equal(chosen[:, :, 1][~had], ids[:, :, 1][~had])
    assert torch.equal(chosen[:, :, [0, 2]], ids[:, :, [0, 2]])
    if options["k"] == 1:  # an oracle: all cosines, the forbidden one struck out
        book, rows = place.codes[1].detach() @ place.metric[1], before[:, :, 1] @ place.metric[1]
        cosine = torch.nn.functional.cosine_similarity(rows[:, :, None], book, dim=-1)
        cosine[..., common] = -2
        assert torch.equal(chosen[:, :, 1, 0].long(), cosine.argmax(-1))


def test_what_is_forbidden_in_a_row_is_so_together_and_in_other_rows_does_not_count(model, tokens):
    books = fitted(model, tokens, k=1)
    everywhere, here = ForbidCode("a1.h0", 2), ForbidCode("a1.h1", 3, rows=[1])
    bans = [replace(edit, code=code) for edit in (everywhere, here) for code in range(6)]
    again = [replace(here, site="a1.h0", code=code, rows=[0, 1]) for code in range(6, 9)]
    for edits in ([everywhere, here], [here, everywhere], bans + again, again + bans):
        _, steered = under(model, books, tokens, *edits)
        for edit in edits:
            rows, head = slice(None) if edit.rows is None else list(edit.rows), int(edit.site[-1])
            assert (steered.ids["a1"][rows][:, :, head] != edit.code).all()
    last = ForbidCode("m1", N_CODES - 1)
    by_row = (replace(last, code=code, rows=[code % 2]) for code in range(N_CODES - 1))
    under(model, books, tokens, *by_row, last)
    all_of_row_0 = [replace(last, code=code, rows=None if code < 6 else [0]) for code in range(N_CODES)]
    with pytest.raises(InputError):
        under(model, books, tokens, *all_of_row_0)


def test_a_bias_is_not_added_with_a_code(model, tokens):
    x = activation(model, "blocks.1.hook_mlp_out", tokens)
    config = DiscreteSAEConfig(d_in=model.cfg.d_model, n_codes=16, k=2, epochs=20)
    sae = DiscreteSAE(config).fit(x.flatten(0, 1))
    with attach(model, {"m1": sae}, read=False).edit(AddCode("m1", 5, scale=2), positions="all"):
        added = activation(model, "blocks.1.hook_mlp_out", tokens) - x
    expected = (2 * sae.weights_.decoder[0, :, 5]).expand_as(added).contiguous()
    torch.testing.assert_close(added, expected, atol=1e-4, rtol=1e-4)


def test_rows_can_be_steered_differently(model, books, tokens):
    same = tokens[:1].repeat(3, 1)
    edits = [SetCode("a1.h2", 5, rows=[1]), SetCode("a1.h2", 8, rows=[2]), AddCode("m1", 4, rows=[2])]
    together, _ = under(model, books, same, *edits)
    torch.testing.assert_close(together[0], logits(model, same)[0])
    for row in (1, 2):
        mine = [replace(edit, rows=None) for edit in edits if row in edit.rows]
        torch.testing.assert_close(together[row], under(model, books, same, *mine)[0][0])


def test_edits_of_some_rows_leave_slots_that_another_has_taken(model, books, tokens):
    edits = [SetCode("a1.h2", 3), SetCode("a1.h2", 5, rows=[1])]
    for order in (edits, edits[::-1]):
        ids = under(model, books, tokens, *order)[1].ids["a1"][:, :, 2]
        assert (ids[[0, 2]] == 3).any(-1).all()
        assert (ids[1].sort(-1).values == torch.tensor([3, 5])).all()
    ids = under(model, books, tokens, *edits[::-1], SetCode("a1.h2", 7, rows=[0]))[1].ids["a1"]
    assert (ids[0, :, 2].sort(-1).values == torch.tensor([3, 7])).all()
    with pytest.raises(InputError, match="0 of 2"):
        under(model, books, tokens, *edits, SetCode("a1.h2", 7, rows=[1]))


@pytest.mark.parametrize(
    ("positions", "fraction", "error_term"),
    [
        *(("generated", 1.0, True), ("generated", 0.5, True), ("generated", 1.0, False)),
        *(("prompt", 1.0, True), ("all", 1.0, False), ("generated:4", 1.0, False)),
        *((slice(11, None), 1.0, True), ([10, 14], 1.0, False)),
    ],
)
def test_generation_is_the_same_with_and_without_a_cache(model, books, tokens, positions, fraction, error_term):
    texts = {}
    for cached in (True, False):
        with attach(model, books, error_term=error_term, read=False).edit(
            *EVERYWHERE, positions=positions, fraction=fraction, seed=3
        ) as steered:
            texts[cached] = generate(model, tokens, 10, use_cache=cached)
            codes = steered.ids["a1"][:, :, 2, 0]
        first = {"generated": 8, "generated:4": 11, "prompt": 0, "all": 0}.get(str(positions))
        if fraction == 1 and first is not None:
            assert (codes[:, first : 9 if positions == "prompt" else None] == 5).all()
    assert torch.equal(texts[True], texts[False])
    assert not torch.equal(texts[True], generate(model, tokens, 10))


def test_the_share_is_seeded_and_a_row_does_not_depend_on_the_batch(model, books):
    many = torch.randint(10, model.cfg.d_vocab, (24, 40), generator=torch.Generator().manual_seed(1))

    def where(tokens: Tensor, fraction: float, seed: int) -> Tensor:
        book = books["a1"]
        free = book.encode(activation(model, "blocks.1.attn.hook_z", tokens)).ids[:, :, 2, 0]
        _, steered = under(model, books, tokens, SetCode("a1.h2", 5), fraction=fraction, seed=seed)
        return (steered.ids["a1"][:, :, 2, 0] == 5) & (free != 5)

    whole = where(many, 0.25, 0)
    assert torch.equal(where(many, 0.25, 0), whole)
    assert torch.equal(where(many[:2], 0.25, 0), whole[:2])
    assert not torch.equal(where(many, 0.25, 1), whole)
    possible = where(many, 1.0, 0)
    assert 0.2 < whole.sum() / possible.sum() < 0.3
    assert not where(many, 0.0, 0).any()
    assert (whole & ~where(many, 0.5, 0)).sum() == 0, "a larger share holds a smaller one"


def test_what_cannot_be_is_refused(model, books, tokens):
    """Beside what is so for every kind."""
    possible = SetCode("a0.h1", 1)
    wrong = [AddCode("m1", -1), *(AddCode("m1", 1, scale=x) for x in (NAN, 1e300))]
    wrong += [replace(possible, strength=2.0), replace(possible, rows=[-1]), replace(possible, rows=[])]
    places = [{"fraction": 1.5}, {"fraction": NAN}, {"positions": "generated:0"}]
    for edits, options in (
        *(([edit], {}) for edit in wrong),
        *(([possible], options) for options in places),
        ([], {}),
        ([ForbidCode("m1", code) for code in range(11)], {}),
    ):
        with pytest.raises(InputError):
            attach(model, books).edit(*edits, **options)
    with pytest.raises(InputError, match=f"a0.h0 to a0.h{model.cfg.n_heads - 1}"):
        attach(model, books).edit(SetCode("a0", 1))
    beyond = attach(model, books, read=False).edit(replace(possible, rows=[7]))
    with beyond, pytest.raises(InputError):
        model(tokens)


def test_a_later_call_takes_the_place_of_an_earlier_one_and_all_can_be_taken_back(model, books, tokens):
    plain = logits(model, tokens)
    with attach(model, books).edit(SetCode("a1.h2", 5), positions=[2, 3]) as attached:
        attached.edit(SetCode("a1.h2", 7), positions=3).edit(ForbidCode("a1.h2", 7), positions=[2, 3])
        attached.edit(AddCode("m1", 4), positions=6)
        logits(model, tokens)
        # a code set by hand stays where it is forbidden later
        assert (attached.ids["a1"][:, 2:4, 2, 0] == torch.tensor([5, 7])).all()
        assert set(attached.edited_positions(1, 9)[0].nonzero()[:, 0].tolist()) == {2, 3, 6}
        attached.clear("a1.h2")
        assert torch.equal(logits(model, tokens)[:, :6], plain[:, :6])
        attached.clear()
        assert torch.equal(logits(model, tokens), plain)


def test_codes_are_read_as_they_are_written():
    codes = [
        WeightedCode("a12.h3", 417),
        WeightedCode("m5", 31, 0.1),
        WeightedCode("a1.h0", 0, -2.0),
        WeightedCode("r4", 7, 1.5e-05),
    ]
    assert format_codes(codes) == "a12.h3=417,m5=31*0.1,a1.h0=0*-2.0,r4=7*1.5e-05"
    assert parse_codes(format_codes(codes)) == codes
    assert parse_codes(" a12.h3=417, m5=31*.5\n") == [codes[0], WeightedCode("m5", 31, 0.5)]
    assert parse_codes("L12H3=417,blocks.5.hook_mlp_out=31")[1] == WeightedCode("m5", 31)
    assert parse_code("L12H3=417") == ("a12.h3", 417)


@pytest.mark.parametrize(
    "text", ["", "a1", "=3", "a1=x", "a1=3*", "a1=3*x", "a1=3*nan", "a1=3*1e999", "a1=-3", "a1=3*2*2", "a1=²"]
)
def test_anything_else_is_a_clear_error(text):
    with pytest.raises(InputError, match="SITE=ID"):
        parse_codes(text)


def test_weights_multiply_what_is_added_and_nothing_else():
    codes = [WeightedCode("a12.h3", 417, 0.5), WeightedCode("m5", 31)]
    assert code_edits(codes, "added", scale=2, rows=(1,)) == [
        AddCode("a12.h3", 417, 1.0, (1,), from_mean=True),
        AddCode("m5", 31, 2.0, (1,), from_mean=True),
    ]
    assert code_edits(codes[1:], "set") == [SetCode("m5", 31)]
    assert code_edits(codes[1:], "forbidden") == [ForbidCode("m5", 31)]
    for how in ("set", "forbidden"):
        with pytest.raises(InputError):
            code_edits(codes, how)
