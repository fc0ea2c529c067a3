"""The model that most of these tests steer."""

import pytest

from interp.models import Model, load_model


@pytest.fixture(scope="session")
def model(tiny_model_folder) -> Model:
    return load_model(str(tiny_model_folder("llama")))
