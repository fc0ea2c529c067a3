"""``interp bench`` as a user meets it."""

import json

import pandas
import pytest

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_the_table_is_printed_and_kept_in_three_forms(command, tmp_path):
    size = "--pairs", "10", "--seeds", "2", "--out", "mine"
    words = "bench", "--tasks", "planted-induction", "--methods", "attribution,layer-index", *size
    done = command(*words)
    assert done.code == 0 and not done.err.strip(), done.err
    for text in ("planted models", "exact patching", "attribution", "layer-index", "AP minus attribution"):
        assert text in done.out
    result = json.loads((tmp_path / "mine/bench.json").read_text())
    frame = pandas.read_parquet(tmp_path / "mine/bench.parquet")
    assert len(frame) == len(result["cells"]) == 3 * 2
    assert frame["roc_auc"].tolist() == [row["roc_auc"] for row in result["cells"]]
    assert "layer-index" in (tmp_path / "mine/bench.html").read_text()
    again = command(*words)
    assert again.code == 0 and json.loads((tmp_path / "mine/bench.json").read_text()) == result
