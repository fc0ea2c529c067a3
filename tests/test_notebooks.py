"""The notebooks run from the top, and carry no output in the repository."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.command_line import ONE_THREAD

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
PLANTED = '"planted-inhibition"'
FEWER_PROMPTS = """import pandas as pd, interp.programs.program as p, interp.programs.judge as j
p.FIT_PAIRS, p.JUDGE_PAIRS, j.STEPS = 24, 12, 2"""
SMALLER = {
    "codes_on_ioi": {
        "tokenizer, 24, seed=1": "tokenizer, 9, seed=1",
        "range(100)": "range(10)",
        "seed in range(20)": "seed in range(1)",
    },
    "finding_a_circuit": {
        '"smollm2-135m-instruct", "ioi", n=12, candidates=12': f"{PLANTED}, {PLANTED}, n=5, candidates=2"
    },
    "finite_state_machine": {
        "tokens=1_200_000": "tokens=700_000",
        "n_codes=300": "n_codes=150",
        "NeoXShape(n_layers=2)": "NeoXShape(n_layers=2, d_mlp=256)",
        "evaluated=256, samples=200, pairs=200": "evaluated=32, samples=8, pairs=30",
    },
    "steering_generation": {
        "prompts[:16]": "prompts[:3]",
        "topic.positive, topic.negative, by=": "topic.positive[:8], topic.negative[:8], by=",
        "telling.sets(20)": "telling.sets(8)",
        "list(prompts[:4]), 24": "list(prompts[:2]), 4",
        "prompts, 24": "prompts, 8",
        "mean_after_15(topic.positive)": "mean_after_15(topic.positive[:4])",
        "mean_after_15(topic.negative)": "mean_after_15(topic.negative[:4])",
        "(1.25, 2.5, 3.75)": "(2.5,)",
        "(1.0, 2.0, 3.0)": "(2.0,)",
    },
    "what_the_heads_say": {
        # a planted model, and a prompt of its words
        "load_model()": 'load_model("planted-induction")',
        '"ioi", n=64, candidates=12': '"planted-induction", n=8, candidates=3',
        "import pandas as pd": "import pandas as pd, interp.programs.judge as j; j.STEPS = 2",
        "After Sarah and Tom had lunch at the cafe, Tom gave a book to": "store ring park river house drink ring",
        '"S2": len(tokens) - 5': '"B": 3',
        '"token at S2", " Sarah"': '"token at A1", "store"',
        '" Sarah", " Tom"': '"park", "ring"',
    },
    "why_did_it_say_that": {"in proposals[:3]": "in proposals[:1]"},
    "your_own_task_and_model": {
        "import pandas as pd": FEWER_PROMPTS,
        '"n": 10, "candidates": 6': '"n": 5, "candidates": 1',
        "n=8, candidates=4": "n=5, candidates=1, method='attribution'",
    },
}
"""What a test runs less of than a reader."""


@pytest.fixture(scope="module")
def kernel():
    """One for all notebooks: to import what they need takes it longer than most of their cells."""
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=600, kernel_name="python3")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (ONE_THREAD | {"PYTHONPATH": str(NOTEBOOKS[0].parent.parent)}).items():
            patch.setenv(name, value)
        with client.setup_kernel():
            # and the model is loaded once
            load_once = "import functools, interp.models as m; m.load_model = functools.cache(m.load_model)"
            client.nb.cells = [nbformat.v4.new_code_cell(load_once)]
            client.execute_cell(client.nb.cells[0], 0, store_history=False)
            yield client


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_output(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_the_top(path, tmp_path, kernel):
    text = path.read_text(encoding="utf-8")
    for whole, part in SMALLER.get(path.stem, {}).items():
        whole, part = (json.dumps(words)[1:-1] for words in (whole, part))
        assert whole in text
        text = text.replace(whole, part)
    kernel.nb = nbformat.reads(text, as_version=4)
    empty_desk = nbformat.v4.new_code_cell(f"%reset -f\nimport os\nos.chdir({str(tmp_path)!r})")
    kernel.nb.cells.insert(0, empty_desk)
    for index, cell in enumerate(kernel.nb.cells):
        kernel.execute_cell(cell, index, store_history=False)
    if path.stem == "finding_a_circuit":
        assert list(tmp_path.glob("runs/*/report.html"))
