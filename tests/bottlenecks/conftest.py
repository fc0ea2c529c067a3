"""The models and bottlenecks of the conformance suite."""

import pytest

from interp.bottlenecks import Bottleneck
from interp.models import Model
from tests.bottlenecks.conformance import CASES, FAMILIES, Case, fit_all

SETTINGS = [(family, name) for family in FAMILIES for name in CASES]
# every kind is attached to every family above: of the model in real size one is enough
SETTINGS += [pytest.param(("smollm2", next(iter(CASES))), marks=pytest.mark.slow, id="smollm2")]


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
