"""The models and bottlenecks of the conformance suite."""

import pytest

from interp.bottlenecks import Bottleneck
from interp.models import Model
from tests.bottlenecks.conformance import CASES, FAMILIES, Case, first_of_each_kind, fit_all

SETTINGS = [(family, name) for family in FAMILIES for name in CASES]
SETTINGS += [
    pytest.param(("smollm2", name), marks=pytest.mark.slow, id=f"smollm2-{name}")
    for name in first_of_each_kind()
]


@pytest.fixture(scope="session", params=SETTINGS, ids="-".join)
def setting(request) -> tuple[str, str]:
    """A model family and a case."""
    return request.param


@pytest.fixture(scope="session")
def model(request, setting) -> Model:
    family = setting[0]
    if family == "smollm2":
        return request.getfixturevalue("smollm2")
    return request.getfixturevalue("tiny_model")(family)


@pytest.fixture(scope="session")
def case(setting) -> Case:
    return CASES[setting[1]]


@pytest.fixture(scope="session")
def fitted(model, case) -> dict[str, Bottleneck]:
    return fit_all(model, case)
