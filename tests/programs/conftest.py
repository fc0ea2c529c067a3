"""One discovery with a program, of a circuit that is known."""

import pytest

import interp.programs.program as programs
from interp.runs.discover import find_circuit
from interp.runs.run import Run

INHIBITION = "planted-inhibition"


@pytest.fixture(scope="session")
def run() -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "JUDGE_PAIRS", 60)
        return find_circuit(INHIBITION, INHIBITION, n=40, program=True)
