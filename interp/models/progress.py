"""What is drawn while a model is fetched, converted or read: one spinner, not three libraries' bars."""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator

from rich.console import Console
from transformers.utils import logging as hf_logging

log = logging.getLogger(__name__)


@contextlib.contextmanager
def status(message: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr when that is a terminal, else a log line; yields what changes the message."""
    console = Console(stderr=True)
    with _quiet_bars():
        if not console.is_terminal:
            log.info(message)
            yield log.info
            return
        with console.status(message) as spinner:
            yield spinner.update


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars, nor what a library that asks nobody writes to stderr."""
    with _quiet_bars(), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _quiet_bars() -> Iterator[None]:
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
