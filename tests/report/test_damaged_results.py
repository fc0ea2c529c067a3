"""Result files that parse and lack what a page shows: one line, made again how, and never a page that fails."""

import json
from collections.abc import Callable

import pytest

from interp.bottlenecks.store import PRETRAINED
from interp.errors import InputError
from interp.report.bench import read_bench
from interp.report.tables import read_quality
from tests.report.synthetic import make_bench

QUALITY = json.loads(next(PRETRAINED.glob("*-k1/quality.json")).read_text())


def silent_bench() -> dict:
    """A bench that has rows and not one number in them."""
    result = make_bench()
    for row in (*result["table"], *result["groups"]):
        row.update({key: None for key, value in row.items() if isinstance(value, dict | float)})
    return result


@pytest.mark.parametrize(
    ("read", "result"),
    [
        (read_quality, QUALITY | {"texts": []}),
        (read_bench, silent_bench()),
        *((read, "[" * 200_000) for read in (read_quality, read_bench)),
        *((read_bench, text) for text in ("", "{}", '{"table": 3}', '{"task": "t", "rows": []}', "\x00")),
    ],
)
def test_what_a_page_could_not_show_is_one_line(tmp_path, read: Callable, result: dict | str):
    path = tmp_path / "result.json"
    path.write_text(result if isinstance(result, str) else json.dumps(result))
    with pytest.raises(InputError, match=str(path)) as error:
        read(path)
    assert "\n" not in str(error.value) and "again" in str(error.value)
