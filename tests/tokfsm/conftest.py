"""Recipes small enough to train in a second."""

from dataclasses import replace

import pytest

from interp.models.neox import NeoXShape
from interp.tokfsm.recipe import SCALES, Recipe

SHAPE = NeoXShape(d_model=32, n_layers=2, n_heads=2, d_mlp=64)
TINY = Recipe(
    tokens=16 * 4 * 128,
    batch=4,
    n_codes=40,
    plain_share=0.5,
    lr=1e-2,
    lr_coded=3e-3,
    warmup=2,
    replace_every=3,
    fit_sequences=4,
    shape=SHAPE,
)
KINDS = ("optimizer", "selection", "memory", "taught", "commitment")
"""In what the recipe of ``quick`` differs, other than in tokens and rates."""


@pytest.fixture
def tiny() -> Recipe:
    """As ``cpu`` trains."""
    return TINY


@pytest.fixture(params=["cpu", "quick"])
def each(request) -> Recipe:
    """As each scale trains."""
    scale = SCALES[request.param]
    replaced = TINY.replace_every if scale.replace_every else 0
    return replace(TINY, replace_every=replaced, **{name: getattr(scale, name) for name in KINDS})
