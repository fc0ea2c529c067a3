"""One discovery with a program, of a circuit that is known."""

import pytest

from interp.runs.discover import find_circuit
from interp.runs.run import Run

INHIBITION = "planted-inhibition"


@pytest.fixture(scope="session")
def run() -> Run:
    return find_circuit(INHIBITION, INHIBITION, n=40, program=True)
