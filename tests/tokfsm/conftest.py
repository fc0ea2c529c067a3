"""Recipes small enough to train in a second."""

import pytest

from benchmarks.tokfsm.neox import NeoXShape
from benchmarks.tokfsm.recipe import Recipe

SHAPE = NeoXShape(d_model=32, n_layers=2, n_heads=2, d_mlp=64)
TINY = Recipe(
    tokens=16 * 4 * 128,
    batch=4,
    n_codes=40,
    plain_share=0.5,
    lr=1e-2,
    lr_coded=3e-3,
    warmup=2,
    fit_sequences=4,
    shape=SHAPE,
)


@pytest.fixture
def tiny() -> Recipe:
    return TINY
