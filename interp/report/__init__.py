"""Reports: a run in, one HTML file out that opens offline; needs no model."""

from pathlib import Path

from interp.files import write_text
from interp.report.page import render_report
from interp.runs import REPORT, Run


def write_report(folder: Path | str, task: str | None = None) -> Path:
    """Write the report of the run in ``folder`` beside it, replacing an earlier one.

    Args:
        task: what its commands say for the task, where that is not what the run was asked for.

    Raises:
        InputError: the folder holds no run, or a damaged one.
    """
    path = Path(folder) / REPORT
    write_text(path, render_report(Run.load(folder), task))
    return path


__all__ = ["render_report", "write_report"]
