"""The page of tables says what the kept results say."""

import torch

from benchmarks.common import RESULTS
from benchmarks.tables import PAGE, filled


def test_the_page_is_what_the_kept_results_give(monkeypatch):
    """Run ``python -m benchmarks.tables`` where it is not."""
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # scripts set it for themselves
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page


def test_every_kept_result_is_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    assert not [path.name for path in RESULTS.iterdir() if f"`{path.name}" not in page]
