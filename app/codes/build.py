"""Building a small code index behind the pages: one at a time, seen in every tab, gone on with where it was left.

The thread takes its turn at the model batch by batch, so that other tabs can use it meanwhile.
"""

import contextlib
import logging
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from interp import DEFAULT_MODEL
from interp.app import engine
from interp.app.widgets import run_store
from interp.app.widgets.codebook_picker import load, model_option, source_of
from interp.bottlenecks.store import pretrained_names
from interp.codesearch import build_index
from interp.codesearch.index import MANIFEST
from interp.errors import InputError
from interp.text import load_text

TOKENS = 24_000  # rather more than a minute for the default model on two idle cores, which read 400 tokens a second
SIZES = (8_000, TOKENS, 100_000)
CONTEXT = 128
BLOCKS = 4  # blocks of text a batch: how long another tab waits for its turn
SAVE_SECONDS = 5.0


@dataclass(frozen=True)
class IndexPlan:
    """What is built: the folder's name says it, so that it can be gone on with."""

    books: str  # a name of the shipped codebooks, or a folder of the runs folder
    n_tokens: int
    spec: str = field(default_factory=engine.model_name)

    @property
    def text(self) -> str:
        """Docstrings, and samples where enough come with the package: others take minutes."""
        return "stdlib+self" if self.spec == DEFAULT_MODEL and self.n_tokens <= TOKENS else "stdlib"

    @property
    def folder(self) -> Path:
        model = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(self.spec).name)
        return engine.runs() / f"index-{model}-of-{self.books}-{self.text.replace('+', '-')}-{self.n_tokens}"

    def command(self) -> str:
        words = ["interp", "index", "build", "--data", self.text, "--tokens", str(self.n_tokens)]
        runs_folder = run_store.shown_path()
        books = self.books if self.books in pretrained_names() else f"{runs_folder}/{self.books}"
        words += [*model_option(self.spec), "--codebooks", books, "--out", f"{runs_folder}/{self.folder.name}"]
        return shlex.join(words)


def plan_of(folder: str) -> IndexPlan | None:
    """What this page would build in a folder of this name; None if nothing."""
    names = [*pretrained_names(), *run_store.folders("codebooks")]
    plans = (IndexPlan(name, size) for name in names for size in SIZES)
    return next((plan for plan in plans if plan.folder.name == folder), None)


class Build(threading.Thread):
    """
    Attributes:
        stage, done, total: how far it is.
        first: when the stage told for the first time how far it is, and how far it was.
        error: why it stopped, if it did.
    """

    def __init__(self, plan: IndexPlan) -> None:
        super().__init__(daemon=True, name=f"building {plan.folder.name}")
        self.plan = plan
        self.began = time.monotonic()
        self.stage, self.done, self.total = "waiting for the model", 0, 1
        self.first: tuple[float, int] | None = None
        self.error: str | None = None

    def run(self) -> None:
        try:
            self._build()
        except InputError as error:
            self.error = str(error)
        except BaseException as error:
            # the page has one line of it
            logging.getLogger(__name__).exception("%s cannot be built", self.plan.folder.name)
            self.error = engine.in_one_line(error)

    def _build(self) -> None:
        model = engine.loading(self.plan.spec).model.result()
        self.stage = "reading the codebooks"
        run_store.check_inside(self.plan.folder)
        books = load(source_of(self.plan.books), model)
        self.stage = "reading the text"
        context = min(CONTEXT, model.cfg.n_ctx)
        text = load_text(self.plan.text, model, n_tokens=self.plan.n_tokens, context=context)
        how = {"batch_size": BLOCKS, "save_seconds": SAVE_SECONDS, "turn": engine.turn}
        build_index(model, books, text, self.plan.folder, **how, stage=self._stage)

    @contextlib.contextmanager
    def _stage(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        self.stage, self.done, self.total, self.first = name, 0, total, None

        def tell(more: int, _note: str = "") -> None:
            self.done += more
            if self.first is None:  # what an earlier process did comes at once
                self.first = time.monotonic(), self.done

        yield tell

    def line(self) -> str:
        now, left = time.monotonic(), ""
        if self.first is not None and self.done > self.first[1]:
            pace = (now - self.first[0]) / (self.done - self.first[1])
            left = f", about {pace * (self.total - self.done):.0f} s left"
        count = f" {self.done} of {self.total}" if self.total > 1 else ""
        return f"{self.stage}{count}, {now - self.began:.0f} s{left}"


_last: dict[Path, Build] = {}  # by runs folder
_starting = threading.Lock()


def start(plan: IndexPlan) -> None:
    """Begin, or go on; while another index is being built that one goes first, with an :class:`InputError`."""
    with _starting:
        busy = running()
        if busy is None:
            _last[engine.runs()] = Build(plan)
            _last[engine.runs()].start()
        elif busy.plan != plan:
            raise InputError(f"{busy.plan.folder.name} is being built: wait for it")


def running() -> Build | None:
    last = _last.get(engine.runs())
    return last if last is not None and last.is_alive() else None


def failed() -> Build | None:
    """The last build in the runs folder, if it ended with an error and the index was not made in another way since."""
    last = _last.get(engine.runs())
    if last is None or last.error is None or (last.plan.folder / MANIFEST).is_file():
        return None
    return last
