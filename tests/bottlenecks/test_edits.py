"""Edits change what they should and nothing else, with a KV cache and without."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from interp.bottlenecks import Codebook, CodebookConfig, DiscreteSAE, DiscreteSAEConfig
from interp.bottlenecks.attach import attach
from interp.bottlenecks.metric_codebook import MetricCodebook
from interp.errors import InputError
from interp.models import Model, hooked, load_model
from interp.models.generate import generate
from interp.steering import AddCode, ForbidCode, SetCode

N_CODES = 12
EVERYWHERE = [
    SetCode("a0.h1", 3),
    SetCode("a1.h2", 5),
    AddCode("m1", 4, scale=2),
    ForbidCode("a1.h0", 2),
    SetCode("r0", 7),
]


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
        books[site] = kind(CodebookConfig(n_codes=N_CODES, **size, **options)).fit(
            activation(model, hook, tokens)
        )
    return books


@torch.no_grad()
def activation(model: Model, hook: str, tokens: Tensor) -> Tensor:
    seen = []
    with hooked(model, {hook: lambda x: seen.append(x.clone())}):
        model(tokens)
    return seen[0]


@torch.no_grad()
def logits(model: Model, tokens: Tensor) -> Tensor:
    return model(tokens)


def test_a_set_code_changes_one_head_by_the_difference_of_two_codes(model, books, tokens):
    # the layers after it see it too, so look at the head itself
    hook = "blocks.1.attn.hook_z"
    before = activation(model, hook, tokens)
    with attach(model, books, read=False).edit(SetCode("a1.h2", 5), positions="all") as steered:
        after = activation(model, hook, tokens)
    was = books["a1"].encode(before)
    book = books["a1"].codes[2].detach()
    expected = before.clone()
    expected[:, :, 2] += book[5] - book[was.ids[:, :, 2, 0].long()]
    torch.testing.assert_close(after, expected)
    others = [0, 1, *range(3, model.cfg.n_heads)]
    assert torch.equal(after[:, :, others], before[:, :, others])
    assert (steered.ids["a1"][:, :, 2, 0] == 5).all()
    assert torch.equal(steered.ids["a1"][:, :, 2, 1], was.ids[:, :, 2, 1])
    assert set(steered.ids) == {"a1"}, "sites without edits are not attached"


def test_all_slots_and_all_sites_as_published(model, books, tokens):
    with attach(model, books, error_term=False, read=False).edit(
        SetCode("a1.h2", 5, slots=2), positions="all"
    ) as steered:
        logits(model, tokens)
    assert (steered.ids["a1"][:, :, 2] == 5).all()
    assert set(steered.ids) == set(books), "everything is spliced"


def test_several_codes_of_a_head_take_one_slot_each(model, books, tokens):
    with attach(model, books, read=False).edit(
        SetCode("a1.h2", 5), SetCode("a1.h2", 8), positions="all"
    ) as steered:
        logits(model, tokens)
    assert (steered.ids["a1"][:, :, 2] == torch.tensor([5, 8])).all()
    with pytest.raises(InputError, match="0 of 2"):
        attach(model, books, read=False).edit(SetCode("a1.h2", 5), SetCode("a1.h2", 8), SetCode("a1.h2", 3))


def test_an_added_code_adds_its_vector(model, books, tokens):
    hook = "blocks.1.hook_mlp_out"
    before = activation(model, hook, tokens)
    with attach(model, books, read=False).edit(
        AddCode("m1", 4, scale=-1.5), AddCode("m1", 6), positions=[2, 5]
    ):
        after = activation(model, hook, tokens)
    expected = before.clone()
    expected[:, [2, 5]] += books["m1"].codes[0, 6].detach() - 1.5 * books["m1"].codes[0, 4].detach()
    torch.testing.assert_close(after, expected)
    untouched = [0, 1, 3, 4, 6, 7, 8]
    assert torch.equal(after[:, untouched], before[:, untouched])


def test_an_added_code_can_leave_out_what_all_codes_have_in_common(model, books, tokens):
    hook = "blocks.1.attn.hook_z"
    before = activation(model, hook, tokens)
    book = books["a1"]
    book.count(book.encode(before).ids)
    with attach(model, books, read=False).edit(AddCode("a1.h2", 5, from_mean=True), positions="all"):
        after = activation(model, hook, tokens)
    book, share = book.codes[2].detach(), book.counts[2] / book.counts[2].sum()
    expected = before.clone()
    expected[:, :, 2] += book[5] - share @ book
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
    with attach(model, books, read=False).edit(ForbidCode("a1.h1", common), positions="all") as steered:
        logits(model, tokens)
    found = steered.ids["a1"]
    assert not (found[:, :, 1] == common).any()
    had = (ids[:, :, 1] == common).any(-1)
    assert had.any() and torch.equal(found[:, :, 1][~had], ids[:, :, 1][~had])
    assert torch.equal(found[:, :, [0, 2]], ids[:, :, [0, 2]])
    if options["k"] == 1:  # an oracle: all cosines, the forbidden one struck out
        book, rows = place.codes[1].detach() @ place.metric[1], before[:, :, 1] @ place.metric[1]
        cosine = torch.nn.functional.cosine_similarity(rows[:, :, None], book, dim=-1)
        cosine[..., common] = -2
        assert torch.equal(found[:, :, 1, 0].long(), cosine.argmax(-1))


def test_what_is_forbidden_in_a_row_is_so_together(model, tokens):
    books = fitted(model, tokens, k=1)
    everywhere, here = ForbidCode("a1.h0", 2), ForbidCode("a1.h1", 3, rows=[1])
    both = [*(ForbidCode("a1.h0", code) for code in range(6)), *(replace(here, code=c) for c in range(6))]
    again = [replace(here, site="a1.h0", code=c, rows=[0, 1]) for c in range(6, 9)]
    for edits in ([everywhere, here], [here, everywhere], both + again, again + both):
        with attach(model, books, read=False).edit(*edits, positions="all") as steered:
            logits(model, tokens)
        for edit in edits:
            rows, head = slice(None) if edit.rows is None else list(edit.rows), int(edit.site[-1])
            assert (steered.ids["a1"][rows][:, :, head] != edit.code).all()


def test_what_is_forbidden_in_other_rows_does_not_count(model, tokens):
    books = fitted(model, tokens, k=1)
    edits = [ForbidCode("m1", code, rows=[code % 2]) for code in range(N_CODES - 1)]
    with attach(model, books, read=False).edit(*edits, ForbidCode("m1", N_CODES - 1), positions="all"):
        logits(model, tokens)
    everywhere = [ForbidCode("m1", code) for code in range(6)]
    with pytest.raises(InputError):
        attach(model, books, read=False).edit(
            *everywhere, *(ForbidCode("m1", code, rows=[0]) for code in range(6, 12))
        )


def test_a_bias_is_not_added_with_a_code(model, tokens):
    x = activation(model, "blocks.1.hook_mlp_out", tokens)
    sae = DiscreteSAE(DiscreteSAEConfig(d_in=model.cfg.d_model, n_codes=16, k=2, epochs=20)).fit(
        x.flatten(0, 1)
    )
    with attach(model, {"m1": sae}, read=False).edit(AddCode("m1", 5, scale=2), positions="all"):
        added = activation(model, "blocks.1.hook_mlp_out", tokens) - x
    atom = sae.weights_.decoder[0, :, 5] if sae.weights_.decoder.ndim == 3 else sae.weights_.decoder[:, 5]
    torch.testing.assert_close(added, (2 * atom).expand_as(added).contiguous(), atol=1e-4, rtol=1e-4)


def test_earlier_positions_and_other_rows_stay_bit_equal(model, books, tokens):
    plain = logits(model, tokens)
    with attach(model, books, read=False).edit(*EVERYWHERE, positions=slice(4, None)):
        late = logits(model, tokens)
    assert torch.equal(late[:, :4], plain[:, :4])
    assert not torch.isclose(late[:, 4:], plain[:, 4:]).all(-1).any()
    one_row = [type(edit)(**{**vars(edit), "rows": (1,)}) for edit in EVERYWHERE]
    with attach(model, books, read=False).edit(*one_row, positions="all"):
        row = logits(model, tokens)
    assert torch.equal(row[[0, 2]], plain[[0, 2]])
    assert not torch.isclose(row[1], plain[1]).all(-1).any()


def test_rows_can_be_steered_differently(model, books, tokens):
    same = tokens[:1].repeat(3, 1)
    edits = [SetCode("a1.h2", 5, rows=[1]), SetCode("a1.h2", 8, rows=[2]), AddCode("m1", 4, rows=[2])]
    with attach(model, books, read=False).edit(*edits, positions="all"):
        together = logits(model, same)
    torch.testing.assert_close(together[0], logits(model, same)[0])
    for row in (1, 2):
        mine = [type(edit)(**{**vars(edit), "rows": None}) for edit in edits if row in edit.rows]
        with attach(model, books, read=False).edit(*mine, positions="all"):
            torch.testing.assert_close(together[row], logits(model, same)[0])


def test_edits_of_some_rows_leave_slots_that_another_has_taken(model, books, tokens):
    edits = [SetCode("a1.h2", 3), SetCode("a1.h2", 5, rows=[1])]
    for order in (edits, edits[::-1]):
        with attach(model, books, read=False).edit(*order, positions="all") as steered:
            model(tokens)
        found = steered.ids["a1"][:, :, 2]
        assert (found[[0, 2]] == 3).any(-1).all()
        assert (found[1].sort(-1).values == torch.tensor([3, 5])).all()
    with attach(model, books, read=False).edit(
        edits[1], edits[0], SetCode("a1.h2", 7, rows=[0]), positions="all"
    ) as steered:
        model(tokens)
    assert (steered.ids["a1"][0, :, 2].sort(-1).values == torch.tensor([3, 7])).all()
    with pytest.raises(InputError, match="0 of 2"):
        attach(model, books, read=False).edit(*edits, SetCode("a1.h2", 7, rows=[1]))


def test_a_code_set_by_hand_stays_where_others_are_forbidden(model, books, tokens):
    with attach(model, books, read=False).edit(ForbidCode("a0.h1", 3), positions="all") as steered:
        steered.edit(SetCode("a0.h0", 7), SetCode("a0.h1", 3), positions="all")
        model(tokens)
    assert (steered.ids["a0"][:, :, 0, 0] == 7).all() and (steered.ids["a0"][:, :, 1, 0] == 3).all()


@pytest.mark.parametrize("error_term", [True, False])
@pytest.mark.parametrize(
    ("positions", "fraction"),
    [
        ("generated", 1.0),
        ("prompt", 1.0),
        ("all", 1.0),
        ("generated", 0.5),
        ("generated:4", 1.0),
        (slice(11, None), 1.0),
        ([10, 14], 1.0),
    ],
)
def test_generation_is_the_same_with_and_without_a_cache(
    model, books, tokens, positions, fraction, error_term
):
    texts = {}
    for cached in (True, False):
        with attach(model, books, error_term=error_term, read=False).edit(
            *EVERYWHERE, positions=positions, fraction=fraction, seed=3
        ) as steered:
            texts[cached] = generate(model, tokens, 10, use_cache=cached)
            codes = steered.ids["a1"][:, :, 2, 0]
        if fraction == 1:
            first = {"generated": 8, "generated:4": 11, "prompt": 0, "all": 0}.get(str(positions))
            if first is not None:
                stop = 9 if positions == "prompt" else None
                assert (codes[:, first:stop] == 5).all()
    assert torch.equal(texts[True], texts[False])
    assert not torch.equal(texts[True], generate(model, tokens, 10))


def test_generated_begins_where_the_first_new_token_is_made(model, books, tokens):
    with attach(model, books, read=False).edit(SetCode("r0", 7)):
        one = logits(model, tokens)
        first = generate(model, tokens, 1)[:, -1]
    assert torch.equal(one.argmax(-1)[:, -1], first)
    plain = logits(model, tokens)
    assert torch.equal(one[:, :-1], plain[:, :-1]) and not torch.equal(one[:, -1], plain[:, -1])


def test_the_share_is_seeded_and_a_row_does_not_depend_on_the_batch(model, books):
    many = torch.randint(10, model.cfg.d_vocab, (24, 40), generator=torch.Generator().manual_seed(1))

    def where(tokens: Tensor, fraction: float, seed: int) -> Tensor:
        book = books["a1"]
        free = book.encode(activation(model, "blocks.1.attn.hook_z", tokens)).ids[:, :, 2, 0]
        with attach(model, books, read=False).edit(
            SetCode("a1.h2", 5), positions="all", fraction=fraction, seed=seed
        ) as steered:
            logits(model, tokens)
        return (steered.ids["a1"][:, :, 2, 0] == 5) & (free != 5)

    whole = where(many, 0.25, 0)
    assert torch.equal(where(many, 0.25, 0), whole)
    assert torch.equal(where(many[:2], 0.25, 0), whole[:2])
    assert not torch.equal(where(many, 0.25, 1), whole)
    possible = where(many, 1.0, 0)
    assert 0.2 < whole.sum() / possible.sum() < 0.3
    assert not where(many, 0.0, 0).any()
    assert (whole & ~where(many, 0.5, 0)).sum() == 0, "a larger share holds a smaller one"


def test_codes_of_a_head_with_a_codebook_of_its_own_and_of_codes_with_strengths(model, tokens):
    config = CodebookConfig(
        d_in=model.cfg.d_head, n_codes=N_CODES, selection="matching_pursuit", magnitude="scaled"
    )
    own = {"a1.h2": Codebook(config).fit(activation(model, "blocks.1.attn.hook_z", tokens)[:, :, 2])}
    with attach(model, own, read=False).edit(SetCode("a1.h2", 5, strength=3.0), positions="all") as steered:
        logits(model, tokens)
    assert (steered.codes["a1.h2"].values == 3).all() and (steered.ids["a1.h2"] == 5).all()
    with pytest.raises(InputError):
        attach(model, own, read=False).edit(SetCode("a1.h2", 5))


@pytest.mark.parametrize(
    ("edits", "options"),
    [
        ([], {}),
        ([SetCode("a9.h0", 1)], {}),
        ([SetCode("m0", 1)], {}),
        ([SetCode("a0", 1)], {}),
        ([SetCode("a0.h1", 12)], {}),
        ([AddCode("m1", -1)], {}),
        ([SetCode("a0.h1", 1, slots=3)], {}),
        ([SetCode("a0.h1", 1, strength=2.0)], {}),
        ([ForbidCode("m1", i) for i in range(11)], {}),
        ([SetCode("a0.h1", 1)], {"fraction": 1.5}),
        ([SetCode("a0.h1", 1)], {"fraction": float("nan")}),
        ([SetCode("a0.h1", 1)], {"positions": "last"}),
        ([SetCode("a0.h1", 1)], {"positions": "generated:0"}),
        ([SetCode("a0.h1", 1)], {"positions": -1}),
        ([AddCode("m1", 1, scale=float("nan"))], {}),
        ([AddCode("m1", 1, scale=1e300)], {}),
        ([SetCode("a0.h1", 1, rows=[-1])], {}),
        ([SetCode("a0.h1", 1, rows=[])], {}),
    ],
    ids=str,
)
def test_bad_input(model, books, edits, options):
    attached = attach(model, books)
    with pytest.raises(InputError):
        attached.edit(*edits, **options)


def test_a_code_of_a_layer_with_a_book_a_head_asks_for_the_head(model, books):
    with pytest.raises(InputError, match=f"a0.h0 to a0.h{model.cfg.n_heads - 1}"):
        attach(model, books).edit(SetCode("a0", 1))


def test_sites_of_other_notations_are_the_same_sites(model, books, tokens):
    with attach(model, books).edit(SetCode("a1.h2", 5), positions="all"):
        expected = logits(model, tokens)
    for site in ("L1H2", "blocks.1.attn.hook_z.h2"):
        with attach(model, books).edit(SetCode(site, 5), positions="all") as attached:
            assert torch.equal(logits(model, tokens), expected)
        assert torch.equal(attached.ids[site], attached.ids["a1"][:, :, 2])
        assert torch.equal(attached.codes[site].values, attached.codes["a1"].values[:, :, 2])
        with pytest.raises(KeyError):
            attached.codes["a1.h99"]


def test_a_later_call_takes_the_place_of_an_earlier_one_and_all_can_be_taken_back(model, books, tokens):
    plain = logits(model, tokens)
    with attach(model, books).edit(SetCode("a1.h2", 5), positions=[2, 3]) as attached:
        attached.edit(SetCode("a1.h2", 7), positions=3).edit(ForbidCode("a1.h2", 7), positions=[2, 3])
        attached.edit(AddCode("m1", 4), positions=6)
        logits(model, tokens)
        assert (attached.ids["a1"][:, 2:4, 2, 0] == torch.tensor([5, 7])).all()
        assert set(attached.edited_positions(1, 9)[0].nonzero()[:, 0].tolist()) == {2, 3, 6}
        attached.clear("a1.h2")
        assert torch.equal(logits(model, tokens)[:, :6], plain[:, :6])
        attached.clear()
        assert torch.equal(logits(model, tokens), plain)


def test_a_row_that_the_batch_lacks(model, books, tokens):
    with (
        attach(model, books, read=False).edit(SetCode("a0.h1", 1, rows=[7])),
        pytest.raises(InputError),
    ):
        model(tokens)
