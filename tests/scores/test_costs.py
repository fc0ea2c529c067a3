"""Forward-pass equivalents are what was run: token by token and layer by layer, counted by hooks."""

import itertools
from contextlib import contextmanager

import numpy as np
import pytest

from interp.activations.stream import feed
from interp.models import hooked
from interp.scores.acdc import acdc
from interp.scores.patch_runner import OVERHEAD, PatchRunner, _cuts
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


@pytest.mark.parametrize(("overhead", "forwards"), [(0, 4), (10**9, 3)])
def test_of_patches_of_single_heads(case, overhead, forwards, monkeypatch):
    """Patches of some layers may share a forward: what a row runs before its own layer is run and not counted."""
    monkeypatch.setattr("interp.scores.patch_runner.OVERHEAD", overhead)
    model, pairs = case
    n_layers, begun = model.cfg.n_layers, []
    runner = PatchRunner(model, pairs, range(6))
    feed(model, pairs, [runner])
    runner.effects(*(np.array([0]) for _ in range(3)))
    runner._known[:] = np.nan
    which = [i.ravel() for i in np.indices((6, n_layers, model.cfg.n_heads))]
    patch = runner._patch
    runner._patch = lambda run, layers, *rest: begun.append(layers) or patch(run, layers, *rest)
    with counted(model, pairs) as ran:
        _, cost = runner.effects(*which)
    assert cost == pytest.approx(float((1 - which[1] / n_layers).sum()))
    assert len(begun) == forwards and max(map(len, begun)) <= PATCH_ROWS
    assert ran[0] == pytest.approx(sum(len(layers) * (1 - layers.min() / n_layers) for layers in begun))
    assert (ran[0] == pytest.approx(cost)) == (overhead == 0)
    with counted(model, pairs) as ran:
        _, again = runner.effects(*which)
    assert again == cost and ran[0] == 0, "what is known is counted, and not run"


@pytest.mark.parametrize("rows", [2, 9, PATCH_ROWS])
def test_rows_are_parted_into_forwards_as_cheaply_as_can_be(rows, monkeypatch):
    """Against all ways of parting nine rows."""
    monkeypatch.setattr("interp.scores.patch_runner.PATCH_ROWS", rows)
    generator = np.random.default_rng(0)
    for _ in range(20):
        layers, lengths = np.sort(generator.integers(1, 30, 9))[::-1], generator.integers(1, 60, 9)

        def cost(cuts, layers=layers, lengths=lengths) -> float:
            parts = np.split(np.arange(9), cuts)
            if max(map(len, parts)) > rows:
                return np.inf
            return sum(layers[part[0]] * (OVERHEAD + len(part) * lengths[part].max()) for part in parts)

        every = (cuts for n in range(9) for cuts in itertools.combinations(range(1, 9), n))
        assert cost(_cuts(layers, lengths)) == min(map(cost, map(list, every)))
