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


def test_pooled_cells_equal_the_method_alone(tmp_path):
    model = load_model(PLANTED)
    pool = load_task(PLANTED).sample(model.tokenizer, 20, 0)
    runner = Runner(
        "adaptive-patching",
        model,
        pool,
        tmp_path,
        weights="of the test",
        edges_compared=False,
        batch_size=16,
        say=print,
    )
    cells = [(4, 0), (4, 1), (8, 0)]
    runner.prepare(cells, lambda _share: None)
    for n, seed in cells:
        told: list[float] = []
        outcome = runner.outcome(n, seed, told.append)
        alone = AdaptivePatchingBase(Context(model, pool.subset(drawn(seed, n, 20))), kept=range(n))
        ranking = alone.rank(range(n), AdaptivePatchingConfig(seed=seed))
        np.testing.assert_allclose(outcome.heads, ranking.heads, atol=1e-3)
        assert outcome.forwards == pytest.approx(4 * n + ranking.forwards)
    again = runner.heads([drawn(0, 8, 20)[0]] * 4 + drawn(0, 8, 20)[:4], 0)
    assert again.shape == outcome.heads.shape
    assert np.isfinite(again).all()


def test_edges_are_scored_apart_where_they_are_compared(tmp_path):
    model = load_model(PLANTED)
    pool = load_task(PLANTED).sample(model.tokenizer, 6, 0)
    runner = Runner(
        "adaptive-patching",
        model,
        pool,
        tmp_path,
        weights="of the test",
        edges_compared=True,
        batch_size=16,
        say=print,
    )
    runner.prepare([(4, 0)], lambda _share: None)
    outcome = runner.outcome(4, 0, lambda _share: None)
    assert runner.scores_edges_apart
    assert {(edge.sender, edge.receiver, edge.into) for edge in outcome.edges[:4]} == set(
        planted_truth(PLANTED).edges
    )
    assert 0 < outcome.edge_forwards <= 26 * 4
    assert outcome.forwards <= 8 * 4, "what edges cost is told apart from what heads cost"


def test_scores_of_another_precision_are_made_again(tmp_path):
    found = {}
    for dtype in ("float32", "bfloat16", "float32"):
        model = load_model(PLANTED, dtype=dtype)
        pool = load_task(PLANTED).sample(model.tokenizer, 6, 0)
        for folder in (tmp_path / "kept", tmp_path / dtype):
            runner = Runner(
                "attribution",
                model,
                pool,
                folder,
                weights="of the test",
                edges_compared=False,
                batch_size=16,
                say=print,
            )
            runner.prepare([(4, 0)], lambda _share: None)
            found[folder.name, dtype] = runner.outcome(4, 0, lambda _share: None).heads
        np.testing.assert_array_equal(found["kept", dtype], found[dtype, dtype])
    assert not np.array_equal(found["kept", "float32"], found["kept", "bfloat16"])


def test_the_batch_size_counts_where_it_moves_scores(tmp_path):
    model = load_model(PLANTED)
    pool = load_task(PLANTED).sample(model.tokenizer, 6, 0)

    def settings(method: str, batch_size: int) -> dict:
        return Runner(
            method,
            model,
            pool,
            tmp_path,
            weights="of the test",
            edges_compared=False,
            batch_size=batch_size,
            say=print,
        ).settings()

    assert settings("attribution", 4) == settings("attribution", 16)
    assert settings("subnetwork-probing", 4) != settings("subnetwork-probing", 16)


def test_one_pair_by_itself_tells_nothing_of_what_the_others_do(tmp_path):
    """HISP's score of a pair depends on the others, which a cell of one pair cannot show."""
    model = load_model(PLANTED)
    pool = load_task(PLANTED).sample(model.tokenizer, 8, 0)
    # HISP ranks subsets of a pool by itself, unless edges are compared
    runner = Runner(
        "hisp", model, pool, tmp_path, weights="of the test", edges_compared=True, batch_size=16, say=print
    )
    made_before = [tmp_path / "n1-seed0.json", tmp_path / "stability-n4.json", tmp_path / "pool.safetensors"]
    for path in made_before:
        path.write_text("of a version that looked at one pair")
    runner.prepare([(1, 0), (4, 0)], lambda _share: None)
    assert runner.per_pair is None
    assert not any(path.exists() for path in made_before)
    outcome = runner.outcome(4, 0, lambda _share: None)
    alone = runner.run(drawn(0, 4, 8), 0, lambda _share: None)
    np.testing.assert_allclose(outcome.heads, alone.heads, atol=1e-6)
    alone = Runner(
        "attribution",
        model,
        pool,
        tmp_path / "more",
        weights="of the test",
        edges_compared=False,
        batch_size=16,
        say=print,
    )
    alone.prepare([(1, 0)], lambda _share: None)
    assert alone.per_pair is not None
    assert alone._first[0] == (2, 0), "looked at with two pairs"
