"""Methods that rank subsets of one pool give what they give alone."""

import numpy as np
import pytest

from interp.bench.cells import Runner
from interp.bench.plan import drawn
from interp.models import load_model
from interp.planted.models import planted_truth
from interp.scores.adaptive_patching.method import AdaptivePatchingBase, AdaptivePatchingConfig
from interp.scores.method import Context
from interp.tasks import load_task

PLANTED = "planted-inhibition"


@pytest.fixture
def made(tmp_path):
    """A method's runner on so many pairs."""

    def make(method, n=6, folder="", dtype="float32", batch_size=16, edges=False) -> Runner:
        model = load_model(PLANTED, dtype=dtype)
        pool = load_task(PLANTED).sample(model.tokenizer, n, 0)
        options = {"weights": "of the test", "edges_compared": edges, "batch_size": batch_size, "say": print}
        return Runner(method, model, pool, tmp_path / folder, **options)

    return make


def quiet(_share: float) -> None:
    """Progress that nobody reads."""


def test_pooled_cells_equal_the_method_alone(made):
    runner, cells = made("adaptive-patching", n=20), [(4, 0), (4, 1), (8, 0)]
    runner.prepare(cells, quiet)
    for n, seed in cells:
        outcome = runner.outcome(n, seed, quiet)
        pairs = runner.pool.subset(drawn(seed, n, 20))
        alone = AdaptivePatchingBase(Context(runner.model, pairs), kept=range(n))
        ranking = alone.rank(range(n), AdaptivePatchingConfig(seed=seed))
        np.testing.assert_allclose(outcome.heads, ranking.heads, atol=1e-3)
        assert outcome.forwards == pytest.approx(4 * n + ranking.forwards)
    again = runner.heads([drawn(0, 8, 20)[0]] * 4 + drawn(0, 8, 20)[:4], 0)
    assert again.shape == outcome.heads.shape and np.isfinite(again).all()


def test_edges_are_scored_apart_where_they_are_compared(made):
    runner, written = made("adaptive-patching", edges=True), planted_truth(PLANTED).edges
    runner.prepare([(4, 0)], quiet)
    outcome = runner.outcome(4, 0, quiet)
    assert {(edge.sender, edge.receiver, edge.into) for edge in outcome.edges[:4]} == set(written)
    assert 0 < outcome.edge_forwards <= 20 * 4
    assert outcome.forwards <= 8 * 4, "what edges cost is told apart from what heads cost"


def test_scores_of_another_precision_are_made_again(made):
    head_scores = {}
    for dtype in ("float32", "bfloat16", "float32"):
        for folder in ("kept", dtype):
            runner = made("attribution", folder=folder, dtype=dtype)
            runner.prepare([(4, 0)], quiet)
            head_scores[folder, dtype] = runner.outcome(4, 0, quiet).heads
        np.testing.assert_array_equal(head_scores["kept", dtype], head_scores[dtype, dtype])
    assert not np.array_equal(head_scores["kept", "float32"], head_scores["kept", "bfloat16"])


def test_one_pair_by_itself_tells_nothing_of_what_the_others_do(made):
    """HISP's score of a pair depends on the others, which a cell of one pair cannot show."""
    # HISP ranks subsets of a pool by itself, unless edges are compared
    runner = made("hisp", n=8, edges=True)
    runner.prepare([(1, 0), (4, 0)], quiet)
    assert runner.per_pair is None
    alone = runner.run(drawn(0, 4, 8), 0, quiet)
    np.testing.assert_allclose(runner.outcome(4, 0, quiet).heads, alone.heads, atol=1e-6)
    alone = made("attribution", n=8, folder="more")
    alone.prepare([(1, 0)], quiet)
    assert alone.per_pair is not None
    assert alone._first[0] == (2, 0), "looked at with two pairs"
