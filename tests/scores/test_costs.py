"""Forward-pass equivalents are what was run: token by token and layer by layer, counted by hooks."""

from contextlib import contextmanager

import numpy as np
import pytest

from interp.activations.stream import feed
from interp.models import hooked
from interp.scores.acdc import acdc
from interp.scores.patch_runner import PatchRunner
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
        found = method(*case)
    assert found.cost.forwards == pytest.approx(ran[0], rel=rel)


def test_of_patches_of_single_heads(case):
    model, pairs = case
    runner = PatchRunner(model, pairs, range(6))
    feed(model, pairs, [runner])
    runner.effects(*(np.array([0]) for _ in range(3)))
    runner._known[:] = np.nan
    which = (i.ravel() for i in np.indices((6, model.cfg.n_layers, model.cfg.n_heads)))
    with counted(model, pairs) as ran:
        _, cost = runner.effects(*which)
    by_layer = runner.cost(range(6)).sum() * 6 * model.cfg.n_heads
    assert cost == pytest.approx(by_layer)
    # patches of near layers share a forward, so some rows run layers before their own
    assert cost <= ran[0] + 1e-6 <= cost + 6 * model.cfg.n_heads * model.cfg.n_layers
    one_layer = (np.repeat(np.arange(6), model.cfg.n_heads), np.full(6 * model.cfg.n_heads, 1))
    with counted(model, pairs) as ran:
        _, cost = runner.effects(*one_layer, np.tile(np.arange(model.cfg.n_heads), 6))
    assert cost > 0 and ran[0] == 0, "what is known is counted, and not run"
    runner._known[:] = np.nan
    with counted(model, pairs) as ran:
        _, cost = runner.effects(*one_layer, np.tile(np.arange(model.cfg.n_heads), 6))
    assert cost == pytest.approx(ran[0])
