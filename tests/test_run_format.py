"""Whatever one value of a run's files is changed to, it is a line or a report, never a traceback."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

import interp
from interp.errors import InputError
from interp.report.compare import compare_runs
from interp.report.page import render_report
from interp.runs.run import RESULT, Run

RENDERED = 1
"""Reports made of a place's values that are let through: making one is what takes time."""
WRONG = (None, True, -1.0, "x", [], {}, [[]], {"x": None})


@pytest.fixture(scope="module")
def finished() -> Run:
    return interp.find_circuit("planted-induction", "planted-induction", n=8)


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Where values lie; of a list's entries the last stands for all."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*path, key))
    elif value and isinstance(value, list):
        yield from _places(value[-1], (*path, len(value) - 1))


def _changed(value: Any, path: tuple, wrong: Any) -> Any:
    value = json.loads(json.dumps(value))
    inner = value
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = wrong
    return value


def test_a_wrong_value_anywhere_is_a_line_or_harmless(finished, tmp_path):
    folder = finished.save(tmp_path / "run")
    whole = json.loads((folder / RESULT).read_text())
    found = harmless = 0
    for path in _places(whole):
        rendered = 0
        for wrong in WRONG:
            changed = _changed(whole, path, wrong)
            (folder / RESULT).write_text(json.dumps(changed))
            try:
                run = Run.load(folder)
            except InputError as error:
                assert "\n" not in str(error) and "damaged" in str(error)
                found += 1
                continue
            harmless += 1
            rendered += 1
            if rendered > RENDERED:
                continue
            render_report(run)
            try:
                compare_runs(finished, run)
            except InputError as error:
                assert "one shape" in str(error)
    assert found > harmless > 0, (found, harmless)
