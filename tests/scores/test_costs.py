"""Forward-pass equivalents are what was run: token by token and layer by layer, counted by hooks."""

from contextlib import contextmanager

import numpy as np
import pytest

from interp.activations.stream import feed
from interp.interventions.clean_run import MOST_ROWS, CleanRun
from interp.models import hooked
from interp.scores.baselines.acdc import acdc
from interp.scores.patching import patching
from tests.oracles import planted


@pytest.fixture(scope="module")
def case():
    model, pairs = planted("planted-backup", 6)
    assert len({len(pair.clean_tokens) for pair in pairs}) == 1
    return model, pairs


@contextmanager
def counted(model, pairs):
    """Whole forwards of one prompt that are run meanwhile."""
    ran, layers = [0.0], range(model.cfg.n_layers)
    whole = len(pairs[0].clean_tokens) * model.cfg.n_layers

    def count(z) -> None:
        ran[0] += z.shape[0] * z.shape[1] / whole

    with hooked(model, {f"blocks.{layer}.attn.hook_z": count for layer in layers}):
        yield ran


@pytest.mark.parametrize(("method", "rel"), [(patching, 1e-6), (acdc, 0.02)])
def test_of_methods(case, method, rel):
    method(*case)  # what it looks up about a model is looked up once
    with counted(*case) as ran:
        scores = method(*case)
    assert scores.cost.forwards == pytest.approx(ran[0], rel=rel)


@pytest.mark.parametrize(("overhead", "forwards"), [(0, 4), (10**9, 2)])
def test_of_patches_of_single_heads(case, overhead, forwards, monkeypatch):
    """Patches of some layers may share a forward: what a row runs before its own layer is run and not counted."""
    monkeypatch.setattr("interp.interventions.clean_run.OVERHEAD", overhead)
    model, pairs = case
    n_layers, begun = model.cfg.n_layers, []
    runner = CleanRun(model, pairs, range(6))
    feed(model, pairs, [runner])
    runner.effects(*(np.array([0]) for _ in range(3)))
    runner._known[:] = np.nan
    patches = [i.ravel() for i in np.indices((6, n_layers, model.cfg.n_heads))]
    metric = runner.metric
    runner.metric = lambda rows, layer, *rest: begun.append((len(rows), layer)) or metric(rows, layer, *rest)
    with counted(model, pairs) as ran:
        _, cost = runner.effects(*patches)
    assert cost == pytest.approx(float((1 - patches[1] / n_layers).sum()))
    assert len(begun) == forwards and max(rows for rows, _ in begun) <= MOST_ROWS
    assert ran[0] == pytest.approx(sum(rows * (1 - layer / n_layers) for rows, layer in begun))
    assert (ran[0] == pytest.approx(cost)) == (overhead == 0)
    with counted(model, pairs) as ran:
        _, again = runner.effects(*patches)
    assert again == cost and ran[0] == 0, "what is known is counted, and not run"
