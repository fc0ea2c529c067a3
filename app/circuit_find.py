"""The form that begins a discovery on the page *Circuit*, and its progress."""

import streamlit as st

from interp.app import engine
from interp.app.circuit_discovery import (
    COSTS,
    DEFAULT_N,
    LARGEST,
    MOST_N,
    Upload,
    Wanted,
    find_circuit,
    model_for,
)
from interp.app.tokens import plain
from interp.options import MOST_SEED
from interp.scores import DEFAULT_METHOD, METHODS
from interp.tasks import task_names
from interp.tasks.errors import InputError
from interp.tasks.planted import planted_task_names

A_TASK, A_FILE = "a task", "a file of prompts"
FORMAT = """
A JSON file in auto-circuit's format, or JSONL with one such prompt a line:

```json
{"prompts": [{"clean": "The capital of France is", "corrupt": "The capital of Spain is",
              "answers": [" Paris"], "wrong_answers": [" Madrid"]}]}
```

Both prompts of a pair need equally many tokens; at least five pairs are needed.
"""


def said(method: str) -> str:
    return f"{method} · {COSTS[method]:g} · {METHODS[method].summary}"


def form(*, expanded: bool) -> None:
    """Settings and a button; when the circuit is found the page opens it."""
    with st.expander("Find a circuit", expanded=expanded, icon=":material/search:"):
        kind = st.segmented_control(
            "Prompts of", [A_TASK, A_FILE], default=A_TASK, required=True, key="find in"
        )
        with st.form("find", border=False):
            left, middle, a, b = st.columns([4, 6, 2, 2])
            task, upload = None, None
            if kind == A_TASK:
                own = engine.model_name()
                names = task_names()
                task = left.selectbox(
                    "Task",
                    names,
                    index=names.index(own) if own in planted_task_names() else 0,
                    key="find task",
                    help="Tasks named planted-… come with a model whose circuit was written into its weights.",
                )
            else:
                upload = left.file_uploader(
                    "File", ["json", "jsonl"], max_upload_size=LARGEST, key="find file", help=FORMAT
                )
            method = middle.selectbox(
                "Method · forward passes a pair",
                list(COSTS),
                index=list(COSTS).index(DEFAULT_METHOD),
                format_func=said,
                key="find method",
                help="Whatever it ranks first is then checked by exact interchange, 13 forward passes a pair.",
            )
            n = a.number_input(
                "Pairs" if kind == A_TASK else "Pairs, at most",
                5,
                MOST_N,
                DEFAULT_N,
                key="find n",
                help="More pairs narrow the intervals.",
            )
            seed = b.number_input("Seed", 0, MOST_SEED, 0, key="find seed", help="Of the prompts.")
            pressed = st.form_submit_button("Find", type="primary")
        st.caption(
            f"Runs on {plain(engine.model_name())} (planted tasks on their own model). With {DEFAULT_N} pairs "
            "codes takes about a minute on the default model. Any click on this page, or leaving it, ends the search."
        )
        if pressed:
            chosen = task if upload is None else Upload(upload.name, upload.getvalue())
            if chosen is None:
                engine.say(InputError("no file: choose one with prompts, .json or .jsonl"))
            else:
                _find(Wanted(chosen, method, int(n), int(seed)))


def _find(wanted: Wanted) -> None:
    label = wanted.task if isinstance(wanted.task, str) else wanted.task.name
    title = f"{plain(label)} in {plain(model_for(wanted.task))}"
    with st.status(f"Finding the circuit of {title}", expanded=True) as status:
        bar, behind = st.progress(0.0, "getting ready"), st.empty()

        def draw(share: float, text: str, stages: list[str]) -> None:
            bar.progress(share, plain(text))
            behind.caption("  \n".join(f":material/check: {plain(stage)}" for stage in stages))

        try:
            name = find_circuit(wanted, draw)
        except InputError as error:
            status.update(label="No circuit was found", state="error", expanded=True)
            bar.empty()
            engine.say(error)
            return
    st.session_state["found run"] = name
    st.rerun()
