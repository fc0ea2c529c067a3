"""Reports: a run in, one HTML file out that opens offline; needs no model."""

import contextlib
from pathlib import Path

from interp.files import write_text
from interp.report.page import render_report
from interp.runs.run import PROMPTS, REPORT, Run


def write_report(folder: Path | str, task: str | None = None) -> Path:
    """Write the report of the run in ``folder`` beside it, replacing an earlier one.

    Args:
        task: what its commands say for the task; if not given what the run was asked for, or the prompts that it keeps
            where that is a file that is not there.

    Raises:
        InputError: the folder holds no run, or a damaged one.
    """
    path, run = Path(folder) / REPORT, Run.load(folder)
    kept = next((path.with_name(name) for name in PROMPTS if path.with_name(name).is_file()), None)
    with contextlib.suppress(OSError):  # a task's name may be too long for a file's
        if task is None and kept is not None and not Path(run.task).is_file():
            task = str(kept)
    write_text(path, render_report(run, task))
    return path


__all__ = ["render_report", "write_report"]
