"""What the scripts share: a command line, tables, intervals, time, forms that take turns, and a browser."""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from interp.activations.stream import BATCH_SIZE, equal_length_batches
from interp.files import read_json
from interp.models import Model
from interp.prompts.pairs import PromptPairs

RESULTS = Path(__file__).parent / "results"


def arguments(doc: str | None, positional: Mapping[str, Any] | None = None, **options: Any) -> argparse.Namespace:
    """A command line from defaults; the docstring of the script says what they are.

    Of ``seeds=3`` the flag is ``--seeds N``, of a list it takes several, of ``False`` it is a switch. A type, such as
    ``Path``, stands for no default. A dict is given to argparse as it is. ``--threads`` are set.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (positional or {}).items():
        parser.add_argument(name, **_settings(default, "*"))
    for name, default in options.items():
        words = [f"--{name.replace('_', '-')}", *([f"-{name}"] if len(name) == 1 else [])]
        parser.add_argument(*words, dest=name, **_settings(default, "+"))
    given = parser.parse_args()
    if "threads" in given:
        torch.set_num_threads(given.threads)
    return given


def _settings(default: Any, several: str) -> dict[str, Any]:
    if isinstance(default, dict):
        return default
    if default is False:
        return {"action": "store_true"}
    if isinstance(default, type):
        return {"type": default}
    more = {"nargs": several} if isinstance(default, list | tuple) else {}
    kind = type(default[0] if more else default)
    return {"type": kind, "default": default, "help": f"[default: {default}]", **more}


def kept(path: Path, default: Any) -> Any:
    """The JSON that a run before has left."""
    return read_json(path) if path.is_file() else default


def print_table(
    columns: Iterable[str], rows: Iterable[Sequence[Any]], title: str | None = None, *, left: int = 1
) -> None:
    """Print rows of cells as Markdown; all columns but the first few hold numbers, and None is an empty cell."""
    head, *body = (
        ["" if cell is None else str(cell).replace("|", "\\|") for cell in row] for row in [tuple(columns), *rows]
    )
    body = [row + [""] * (len(head) - len(row)) for row in body]
    widths = [max(3, *map(len, column)) for column in zip(head, *body, strict=True)]
    rule = ["-" * width if number < left else "-" * (width - 1) + ":" for number, width in enumerate(widths)]
    if title is not None:
        print(f"\n**{title}**")
    print()
    for row in (head, rule, *body):
        cells = (
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print(f"| {' | '.join(cells)} |")
    print()


def interval(mean: float, low: float, high: float, form: str = ".2f") -> str:
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


class Timed(NamedTuple):
    """Seconds by the clock, and of the processors: the latter does not count what others on the machine do."""

    result: Any
    clock: float
    processor: float


def timed(work: Callable[[], Any]) -> Timed:
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    return Timed(result, time.perf_counter() - clock, time.process_time() - processor)


@torch.no_grad()
def bare(model: Model, pairs: PromptPairs) -> float:
    """Seconds of every prompt through the model, nothing hooked."""

    def run() -> None:
        for indices in equal_length_batches(pairs, BATCH_SIZE):
            for side in ("corrupt_tokens", "clean_tokens"):
                model(torch.tensor([getattr(pairs[i], side) for i in indices]))

    return timed(run).clock


@torch.no_grad()
def compare(
    forms: Mapping[str, Any], work: Callable[[int], int], rounds: int, goals: Mapping[str, str], title: str
) -> None:
    """Print the time of a unit within each form, of which the first is plain, after a round that warms up.

    On a shared machine only ratios within a round mean something, and best those of processor time.

    Args:
        forms: contexts by name.
        work: of a round; gives how many units it did.
    """
    taken: dict[str, list] = {name: [] for name in forms}
    for number in range(rounds + 1):
        for name, form in forms.items():
            with form:
                units, clock, processor = timed(lambda n=number: work(n))
            taken[name].append((clock / units, processor / units))
    rows, plain = [], np.array(next(iter(taken.values()))[1:])
    for name, each in taken.items():
        seconds = np.array(each[1:])
        ratios = seconds / plain
        cells = (f"{ratio:.2f}" for ratio in np.median(ratios, 0))
        spread = f"{ratios[:, 1].min():.2f}, {ratios[:, 1].max():.2f}"
        rows.append((name, f"{1000 * np.median(seconds, 0)[0]:.0f}", *cells, spread, goals.get(name)))
    columns = ("", "ms", "× plain", "× processor time", "smallest, largest", "goal")
    print_table(columns, rows, title)


@contextlib.contextmanager
def workbench(runs: Path, log: Path, threads: int) -> Iterator[tuple[str, Any]]:
    """The address of the workbench on a folder of runs, and a context of Chromium."""
    from playwright.sync_api import sync_playwright

    from tests.browser.workbench import serve
    from tests.chromium import FLAGS, chromium_path

    with (
        serve(runs, log, threads=threads) as address,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS) as browser,
        browser.new_context() as context,
    ):
        yield address, context
