"""The codebook against its formulas, written out with plain loops."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from interp.bottlenecks import NO_CODE, Codebook, CodebookConfig, Codes, DiscreteSAEConfig
from interp.bottlenecks.kinds.metric_codebook import MetricCodebook
from interp.errors import InputError

SELECTIONS = [(how, magnitude) for how in ("cosine", "matching_pursuit") for magnitude in ("unit", "scaled")]


def codebook(**changes) -> Codebook:
    return Codebook(CodebookConfig(**{"d_in": 6, "n_codes": 20} | changes))


def mixtures(n_rows: int, d_in: int = 16, n_atoms: int = 24) -> Tensor:
    """Sums of two of a few directions, of various lengths."""
    atoms = torch.nn.functional.normalize(torch.randn(n_atoms, d_in), dim=-1)
    pairs = torch.randint(n_atoms, (n_rows, 2))
    return (atoms[pairs] * torch.tensor([[3.0], [1.5]])).sum(1) * (0.9 + 0.2 * torch.rand(n_rows, 1))


def test_codes_are_the_most_cosine_similar_and_their_plain_sum_replaces_the_vector(monkeypatch):
    book, x = codebook(k=3), torch.randn(4, 5, 6)
    codes = book.encode(x)
    similar = cosine_similarity(x[..., None, :], book.codes[0], dim=-1)
    assert torch.equal(codes.ids.long(), similar.topk(3).indices)
    torch.testing.assert_close(book(x), book.codes[0][codes.ids.long()].sum(-2))
    assert (codes.values == 1).all() and book.encode(torch.randn(0, 6)).ids.shape == (0, 3)
    torch.testing.assert_close(book(10 * x), book(x))  # how long the vector is does not matter
    monkeypatch.setattr("interp.bottlenecks.kmeans.IN_CACHE", 200)
    assert torch.equal(book.encode(x).ids, codes.ids), "in parts as at once"
    large = codebook(n_codes=40_000)
    large.codes.detach()[0, 39_999] = 5 * torch.ones(6)
    last = large.encode(torch.ones(1, 6))
    assert last.ids.dtype == torch.int32 and last.ids.item() == 39_999


def test_kept_magnitude_is_the_factor_of_least_squares():
    book, x = codebook(k=3, magnitude="scaled"), torch.randn(30, 6)
    codes = book.encode(x)
    total = book.codes[0][codes.ids.long()].sum(1)
    for row in range(30):
        best = torch.linalg.lstsq(total[row][:, None], x[row][:, None]).solution.clamp(min=0)
        torch.testing.assert_close(codes.values[row], best[0].expand(3), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(book(10 * x), 10 * book(x))


@pytest.mark.parametrize("magnitude", ["unit", "scaled"])
def test_residual_selection_takes_the_code_that_leaves_least_each_time(magnitude):
    book, x = codebook(k=4, selection="matching_pursuit", magnitude=magnitude), torch.randn(20, 6)
    codes = book.encode(x)
    for row in range(20):
        rest = x[row].clone()
        for slot in range(4):
            factors = (
                (book.codes[0] @ rest).clamp(min=0) / book.codes[0].square().sum(-1)
                if magnitude == "scaled"
                else torch.ones(20)
            )
            left = (rest - factors[:, None] * book.codes[0]).square().sum(-1)
            best = int(left.argmin())
            if factors[best] > 1e-5:  # else none helps, and which one gets the factor 0 is open
                assert codes.ids[row, slot] == best
            torch.testing.assert_close(codes.values[row, slot], factors[best])
            rest = rest - factors[best] * book.codes[0][best]
        torch.testing.assert_close(book(x[row]), x[row] - rest, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("selection", "magnitude"), SELECTIONS)
def test_groups_together_equal_each_alone(selection, magnitude):
    book, x = codebook(k=2, groups=3, selection=selection, magnitude=magnitude), torch.randn(7, 3, 6)
    codes = book.encode(x)
    assert codes.ids.shape == (7, 3, 2)
    for group in range(3):
        alone = codebook(k=2, selection=selection, magnitude=magnitude)
        alone.codes.data = book.codes.data[group : group + 1]
        assert torch.equal(alone.encode(x[:, group]).ids, codes.ids[:, group])
        torch.testing.assert_close(alone(x[:, group]), book(x)[:, group])


def test_gradient_goes_straight_through_and_to_the_chosen_codes_alone():
    book, x = codebook(k=2, groups=2), torch.randn(3, 2, 6, requires_grad=True)
    upstream = torch.randn(3, 2, 6)
    (book(x) * upstream).sum().backward()
    assert torch.equal(x.grad, upstream)
    ids = book.encode(x.detach()).ids
    expected = torch.zeros_like(book.codes)
    for row in range(3):
        for group in range(2):
            for code in ids[row, group].tolist():
                expected[group, code] += upstream[row, group]
    torch.testing.assert_close(book.codes.grad, expected)


def test_loss_is_lambda_times_the_squared_error_and_moves_the_codes_only():
    book, x = codebook(k=2, mse_weight=0.5), torch.randn(7, 6, requires_grad=True)
    loss = book.loss(x, book.decode(book.encode(x)))
    torch.testing.assert_close(loss, 0.5 * (book(x) - x).square().sum(-1).mean())
    loss.backward()
    assert x.grad is None
    moved = book.codes.grad[0].any(-1).nonzero()[:, 0].tolist()
    assert set(moved) == set(book.encode(x).ids.flatten().tolist())


@pytest.mark.parametrize(("selection", "magnitude"), SELECTIONS)
@pytest.mark.parametrize("k", [1, 3])
def test_kmeans_makes_grouped_codes_that_explain_the_vectors(selection, magnitude, k):
    x = torch.stack([mixtures(1500), mixtures(1500)], dim=1)
    book = codebook(d_in=16, n_codes=90, k=k, groups=2, selection=selection, magnitude=magnitude)
    before = book.codes.clone()
    book.fit(x)
    assert not (before == book.codes).any(-1).any(), "every code of every group is set"
    unexplained = (book(x) - x).square().sum((0, 2)) / x.square().sum((0, 2))
    assert (unexplained < 0.35).all()
    if selection == "matching_pursuit" and k > 1:
        assert (unexplained < 0.12).all()


@pytest.mark.parametrize(
    ("selection", "magnitude", "k"), [("cosine", "unit", 1), ("cosine", "unit", 3), ("matching_pursuit", "scaled", 2)]
)
def test_a_small_last_shard_does_not_decide_how_long_codes_are(selection, magnitude, k):
    scales = torch.linspace(1, 20, 32)[torch.arange(3200) % 32, None]
    x = nn.functional.normalize(mixtures(32), dim=-1)[torch.arange(3200) % 32] * scales
    book = codebook(d_in=16, n_codes=64, selection=selection, magnitude=magnitude, k=k)
    for shard in x.split(800):
        book.partial_fit(shard)
    before = (book(x) - x).square().sum()
    book.partial_fit(x[:8])
    more = (book(x) - x).square().sum() - before
    assert more < 0.1 * x.square().sum()  # lengths of that shard alone: 0.18


def test_counts_and_sums_leave_out_empty_slots():
    book = codebook(groups=2, k=2)
    book.count(torch.tensor([[[0, 1], [1, 1]], [[0, NO_CODE], [5, 19]]]))
    assert book.counts.sum() == 7
    assert book.counts[0, :2].tolist() == [2, 1] and book.counts[1, [1, 5, 19]].tolist() == [2, 1, 1]
    book = codebook()
    with_one = book.decode(Codes(torch.tensor([[4, NO_CODE]]), torch.ones(1, 2)))
    assert torch.equal(with_one[0], book.codes[0, 4])


def test_the_first_position_of_texts_is_seen_and_no_part_of_the_mean():
    """At some MLPs BOS is hundreds of times as long as all else: counted, it would be most of what codes share."""
    book = codebook(d_in=2, n_codes=3)
    with torch.no_grad():
        book.codes[0] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [10_000.0, 0.0]])
    for block in ([2, 0, 1, 0], [2, 1, 1, 0]):
        book.count_text(torch.tensor([block, block])[..., None])
    assert book.counts.tolist() == [[6, 6, 1]]
    book.counts[0, 2] = 0
    torch.testing.assert_close(book.means()[:, 0], torch.tensor([[0.5, 0.5]]))


def test_dead_codes_are_replaced_and_their_optimizer_state_is_reset():
    book, x = codebook(n_codes=30, groups=2), torch.randn(40, 2, 6)
    optimizer = torch.optim.Adam(book.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        book.loss(x, book(x)).backward()
        optimizer.step()
    state = optimizer.state[book.codes]
    state["exp_avg"][:] = 1  # as if a dead code had been alive before
    codes = book.encode(x)
    book.count(codes.ids)
    dead, before = book.counts == 0, book.codes.detach().clone()
    assert dead.any() and not dead.all()
    assert book.replace_dead(x, optimizer) == dead.sum()
    assert (before != book.codes).all(-1).equal(dead)
    assert (state["exp_avg"][dead] == 0).all() and (state["exp_avg"][~dead] == 1).all()
    assert (state["exp_avg_sq"][dead] == 0).all() and (state["exp_avg_sq"][~dead] > 0).any()
    assert (book.counts == 0).all()
    for group in range(2):
        new = book.codes[group, dead[group]]
        assert torch.allclose(new.norm(dim=-1), before[group, ~dead[group]].norm(dim=-1).mean())
        similar = cosine_similarity(new[:, None], x[None, :, group], dim=-1)
        assert (similar.max(-1).values > 1 - 1e-5).all()
    book.count(book.encode(x).ids)
    assert (book.counts == 0).sum() < dead.sum(), "replaced codes come alive"


def test_a_dead_code_is_replaced_by_what_the_others_explain_least():
    book = codebook(n_codes=5, selection="matching_pursuit").requires_grad_(False)
    book.codes[0, 0] = 1e4
    odd = torch.randn(6)
    x = torch.cat([book.codes[0, 1:].repeat(10, 1), odd[None]])
    book.count(book.encode(x).ids)
    assert book.replace_dead(x) == 1 and cosine_similarity(book.codes[0, 0], odd, dim=0) > 0.999
    # where every code is dead it takes the vectors themselves
    book, x = codebook(n_codes=5, k=2), torch.randn(40, 6)
    assert book.replace_dead(x) == 5
    assert all((code == x / 2).all(-1).any() for code in book.codes[0])
    book.counts[0, 1:] = 1
    assert book.replace_dead(x, own_length=True) == 1
    assert (book.codes[0, 0] == x / 2).all(-1).any()


WRONG = {
    CodebookConfig: [("d_in", 0), ("n_codes", 0), ("k", 21), ("k", 0), ("groups", 0), ("mse_weight", -1.0)],
    DiscreteSAEConfig: [("epochs", -1), ("l1", -0.1), ("l1", float("nan")), ("lr", 0.0), ("seed", -1)],
}


@pytest.mark.parametrize(
    ("config", "name", "value"), [(config, *case) for config, wrong in WRONG.items() for case in wrong]
)
def test_impossible_settings_are_refused_by_name(config, name, value):
    with pytest.raises(InputError, match=f"{name} {value}"):
        config(**{"d_in": 6, "n_codes": 20, name: value})


def test_fewer_vectors_than_codes_are_refused():
    with pytest.raises(InputError, match="10 vectors for 20 codes"):
        codebook().fit(torch.randn(10, 6))


@pytest.mark.parametrize("kind", [Codebook, MetricCodebook])
def test_similarities_are_float32_under_autocast(kind):
    book, x = kind(CodebookConfig(d_in=6, n_codes=400)), torch.randn(500, 6)
    if kind is MetricCodebook:
        book.compare_by(torch.randn(1, 6, 20))
    again = kind.restored(book.config, book.tensors())
    plain = again.encode(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(book.encode(x).ids, plain.ids)
    assert torch.equal(book.encode(x).ids, plain.ids)
