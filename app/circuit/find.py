"""A discovery begun on the page *Circuit*: from a form to a new run in the runs folder, with its progress."""

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from interp import CANDIDATES, MOST_SEED
from interp.app import engine
from interp.app.circuit.runs import opened
from interp.app.widgets.tokens import plain
from interp.errors import InputError
from interp.planted.tasks import planted_task_names
from interp.prompts.sampling import sample_pairs
from interp.report import wording
from interp.report.page import render_report, write_report
from interp.runs.discover import CircuitSearch, find_circuit
from interp.scores.registry import DEFAULT_METHOD, METHODS, REFERENCE_METHOD
from interp.tasks import TaskFile, load_task, load_task_file, task_names

LARGEST = 2  # megabytes of an uploaded file
DEFAULT_N = 10
MOST_N = 300
_CHECK = 0.43  # forwards a pair and candidate: patches begin at the candidate's layer
_EDGE_PAIRS = 16  # more are seldom run for edges
_PROGRAM = {"prompts for the program": 1300.0, "codes": 900.0, "setting codes": 500.0}
_BETWEEN = 0.2  # seconds between two looks at the progress
A_TASK, A_FILE = "a task", "a file of prompts"
FORMAT = """
A JSON file in auto-circuit's format, or JSONL with one such prompt a line:

```json
{"prompts": [{"clean": "The capital of France is", "corrupt": "The capital of Spain is",
              "answers": [" Paris"], "wrong_answers": [" Madrid"]}]}
```

Both prompts of a pair need equally many tokens; at least five pairs are needed.

Or a JSON file of templates, which makes any number of pairs:

```json
{"templates": ["The capital of {country} is"], "answer": "{country.capital}", "corrupt": [{"country": "*"}],
 "values": {"country": [{"name": "France", "capital": "Paris"}, {"name": "Spain", "capital": "Madrid"}]}}
```
"""


def model_for(task: str | UploadedFile) -> str:
    """The spec of the model that a task is run on: a planted task's own, else the workbench's."""
    return task if task in planted_task_names() else engine.model_name()


def prompt_file(upload: UploadedFile) -> TaskFile:
    """The task in an uploaded file, which is neither too large nor of another kind; nothing is written."""
    name, short = (wording.token(upload.name, limit).replace("·", " ") for limit in (None, 60))
    if upload.size > LARGEST * 2**20:
        raise InputError(f"{short} has {upload.size / 2**20:.1f} MB: a file of prompts has at most {LARGEST} MB")
    if Path(upload.name).suffix.lower() not in (".json", ".jsonl"):
        raise InputError(f"{short} is no file of prompts: its name ends in .json or .jsonl")
    return load_task_file(name, upload.getvalue())


def run_name(task: str, method: str) -> str:
    """What the folder is called, a file's name reduced to what every system can take."""
    stem = Path(task).stem if Path(task).suffix else task
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:40] or "prompts"
    return f"{stem}-{method}"


Draw = Callable[[float, str, list[str]], None]
"""Is told the share of the work that is done, one line on what is being done, and the stages behind it."""


def find_and_save(prompts: str | UploadedFile, method: str, n: int, seed: int, *, program: bool, draw: Draw) -> str:
    """Run the discovery as the command line does, holding the lock, and save it under a new name, which is returned."""
    sent = not isinstance(prompts, str)
    task = prompt_file(prompts) if sent else load_task(prompts)
    most = min(n, task.most) if isinstance(task, TaskFile) else n
    CircuitSearch(task, method, most, seed)  # a mistake should not wait for the model
    with engine.running(model_for(prompts)) as model:
        progress = Progress(method, most, draw, program=program)
        # of a file as many as it has for this model: how many it lacks is not known before
        n = len(sample_pairs(task, model.tokenizer, None, most)) if sent else most
        stage = progress.stage
        run = find_circuit(model, task, method=method, n=n, seed=seed, program=program, stage=stage)
    progress.say(1.0, "writing the run")
    try:
        # of an upload the prompts will lie in the run's folder, whose name is known only then
        report = None if sent else render_report(run)
        saved = run.save_new(engine.runs(), run_name(task.name, method), report=report)
    except OSError as error:
        raise InputError(f"the run cannot be written to {engine.runs()} ({error.strerror or error})") from None
    if sent:
        with contextlib.suppress(OSError):  # the run is there, and its page draws the report by itself
            write_report(saved, opened(saved.name).prompts)
    return saved.name


class Progress:
    """Draws the stages of a discovery as shares of one bar, with an estimate of the time left.

    Stages are weighed by their forward passes. How long one takes is known from those behind, so that the estimate
    is there with the first batch.
    """

    def __init__(self, method: str, n: int, draw: Draw, *, program: bool) -> None:
        listed = METHODS[method]
        self.weights = {
            f"{method} scores": listed.forwards * n,
            "activation patching": 0 if method == REFERENCE_METHOD else _CHECK * CANDIDATES * n,
            "edges": listed.edge_forwards * min(n, _EDGE_PAIRS),
            **(_PROGRAM if program else {}),
        }
        self.whole = sum(self.weights.values())
        self.draw = draw
        self.behind: list[str] = []
        self.done = 0.0
        self.began = time.monotonic()
        self.say(0.0, "preparing the prompts")

    def say(self, share: float, text: str) -> None:
        self.drawn = time.monotonic()
        self.draw(min(1.0, share), text, self.behind)

    @contextlib.contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        """See :data:`interp.progress.Stage`."""
        weight, began, steps = self.weights.get(name, 0.0), time.monotonic(), 0
        self.say(self.done / self.whole, name)

        def advance(more: int, note: str = "") -> None:
            nonlocal steps
            steps += more
            if time.monotonic() - self.drawn >= _BETWEEN:
                done = self.done + weight * min(1.0, steps / max(1, total))
                self.say(done / self.whole, f"{name}: {steps} of {total}{self._left(done)} {note}".rstrip())

        yield advance
        self.done += weight
        self.behind.append(f"{name}, {time.monotonic() - began:.0f} s")

    def _left(self, done: float) -> str:
        if not done:
            return ""
        left = (time.monotonic() - self.began) / done * (self.whole - done)
        return f", about {f'{left:.0f} s' if left < 100 else f'{left / 60:.0f} min'} left in all"


def form(*, expanded: bool) -> None:
    """Settings and a button; when the circuit is found the page opens it."""
    with st.expander("Find a circuit", expanded=expanded, icon=":material/search:"):
        kind = st.segmented_control("Prompts of", [A_TASK, A_FILE], default=A_TASK, required=True, key="find in")
        with st.form("find", border=False):
            left, middle, a, b = st.columns([4, 6, 2, 2])
            if kind == A_TASK:
                names, spec = task_names(), engine.model_name()
                first = names.index(spec) if spec in planted_task_names() else 0
                about = "Tasks named planted-… come with a model whose circuit was written into its weights."
                task = left.selectbox("Task", names, first, key="find task", help=about)
            else:
                limits = {"type": ["json", "jsonl"], "max_upload_size": LARGEST}
                task = left.file_uploader("File", key="find file", help=FORMAT, **limits)
            # the cheap ones first, and last those that look at nothing
            methods = sorted(METHODS, key=lambda name: METHODS[name].forwards or math.inf)
            method = middle.selectbox(
                "Method · forward passes a pair",
                methods,
                methods.index(DEFAULT_METHOD),
                format_func=lambda name: f"{name} · {METHODS[name].forwards:g} · {METHODS[name].summary}",
                key="find method",
                help="Whatever it ranks first is then checked by activation patching, 13 forward passes a pair.",
            )
            title, narrow = ("Pairs" if kind == A_TASK else "Pairs, at most", "More pairs narrow the intervals.")
            n = a.number_input(title, 5, MOST_N, DEFAULT_N, key="find n", help=narrow)
            seed = b.number_input("Seed", 0, MOST_SEED, 0, key="find seed", help="Of the prompts.")
            more = "On 612 more pairs: a few minutes more."
            program = st.checkbox("and what the heads say", key="find program", help=more)
            pressed = st.form_submit_button("Find", type="primary")
        st.caption(
            f"Runs on {plain(engine.model_name())} (planted tasks on their own model). With {DEFAULT_N} pairs "
            "the default method takes about a minute on the default model. Any click on this page, or leaving it, "
            "ends the search."
        )
        if pressed and task is None:
            engine.say(InputError("no file: choose one with prompts, .json or .jsonl"))
        elif pressed:
            _find(task, method, n, seed, program=program)


def _find(task: str | UploadedFile, method: str, n: int, seed: int, *, program: bool) -> None:
    title = f"{plain(task if isinstance(task, str) else task.name)} in {plain(model_for(task))}"
    with st.status(f"Finding the circuit of {title}", expanded=True) as status:
        bar, stage_lines = st.progress(0.0, "getting ready"), st.empty()

        def draw(share: float, text: str, stages: list[str]) -> None:
            bar.progress(share, plain(text))
            stage_lines.caption("  \n".join(f":material/check: {plain(stage)}" for stage in stages))

        try:
            st.session_state["found run"] = find_and_save(task, method, n, seed, program=program, draw=draw)
        except InputError as error:
            status.update(label="No circuit was found", state="error", expanded=True)
            bar.empty()
            engine.say(error)
            return
    st.rerun()
