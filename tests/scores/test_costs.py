"""Forward-pass equivalents are what was run: token by token and layer by layer, counted by hooks."""

from contextlib import contextmanager

import numpy as np
import pytest

from interp.activations.stream import feed
from interp.models import hooked
from interp.scores.acdc import acdc
from interp.scores.patch_runner import BAND, PatchRunner
from interp.scores.patching import PATCH_ROWS, patching
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
        found = method(*case)
    assert found.cost.forwards == pytest.approx(ran[0], rel=rel)


@pytest.mark.parametrize("band", [1, 2, BAND])
def test_of_patches_of_single_heads(case, band, monkeypatch):
    """Patches of a band of layers share a forward: what a row runs before its own layer is run and not counted."""
    monkeypatch.setattr("interp.scores.patch_runner.BAND", band)
    model, pairs = case
    n_layers = model.cfg.n_layers
    runner = PatchRunner(model, pairs, range(6))
    feed(model, pairs, [runner])
    runner.effects(*(np.array([0]) for _ in range(3)))
    runner._known[:] = np.nan
    which = [i.ravel() for i in np.indices((6, n_layers, model.cfg.n_heads))]
    with counted(model, pairs) as ran:
        _, cost = runner.effects(*which)
    assert cost == pytest.approx(float((1 - which[1] / n_layers).sum()))
    begins = []
    for of_band in np.unique(which[1] // band):
        layers = np.sort(which[1][which[1] // band == of_band])
        begins += [layers[row // PATCH_ROWS * PATCH_ROWS] for row in range(len(layers))]
    assert ran[0] == pytest.approx(float((1 - np.array(begins) / n_layers).sum()))
    assert (ran[0] == pytest.approx(cost)) == (band == 1)
    with counted(model, pairs) as ran:
        _, again = runner.effects(*which)
    assert again == cost and ran[0] == 0, "what is known is counted, and not run"
