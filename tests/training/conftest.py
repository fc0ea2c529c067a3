"""A tiny model, text, and books fitted to it."""

import pytest

from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.bottlenecks.store import Codebooks
from interp.text import TextBlocks, load_text


@pytest.fixture(scope="session")
def text(model) -> TextBlocks:
    return load_text("stdlib", model, n_tokens=64 * 32, context=32)


@pytest.fixture(scope="session")
def start(model, text, tmp_path_factory) -> Codebooks:
    config = FitConfig(n_codes=12, k=4, selection="matching_pursuit")
    return fit_codebooks(model, ["heads", "m0"], text, tmp_path_factory.mktemp("fitted"), config)
