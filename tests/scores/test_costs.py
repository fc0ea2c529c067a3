"""Forward-pass equivalents are what was run: token by token and layer by layer, counted by hooks."""

from contextlib import contextmanager

import numpy as np
import pytest

from interp.activations.stream import feed
from interp.models import hooked, load_model
from interp.scores.acdc import acdc
from interp.scores.patch_runner import PatchRunner
from interp.scores.patching import patching
from interp.tasks import load_task


@pytest.fixture(scope="module")
def planted():
    model = load_model("planted-backup")
    pairs = load_task("planted-backup").sample(model.tokenizer, 6, 0)
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


def test_of_activation_patching(planted):
    model, pairs = planted
    patching(model, pairs)  # what it looks up about a model is looked up once
    with counted(model, pairs) as ran:
        found = patching(model, pairs)
    assert found.cost.forwards == pytest.approx(ran[0])


def test_of_patches_of_single_heads(planted):
    model, pairs = planted
    runner = PatchRunner(model, pairs, range(6))
    feed(model, pairs, [runner])
    runner.effects(*(np.array([0]) for _ in range(3)))
    runner._known[:] = np.nan
    pair, layer, head = (i.ravel() for i in np.indices((6, model.cfg.n_layers, model.cfg.n_heads)))
    with counted(model, pairs) as ran:
        _, cost = runner.effects(pair, layer, head)
    assert cost == pytest.approx(ran[0])


def test_of_acdc(planted):
    model, pairs = planted
    acdc(model, pairs)
    with counted(model, pairs) as ran:
        found = acdc(model, pairs)
    assert found.cost.forwards == pytest.approx(ran[0], rel=0.02)
