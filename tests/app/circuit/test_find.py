"""Finding a circuit on the page *Circuit*: a task or a file becomes the run that the command line would make."""

import numpy as np
import pytest
from streamlit.proto.Common_pb2 import FileURLs
from streamlit.runtime.uploaded_file_manager import UploadedFile, UploadedFileRec
from streamlit.testing.v1 import AppTest

from interp.app.circuit.find import FORMAT, LARGEST, prompt_file, run_name
from interp.circuits.roles import view_pair
from interp.runs.discover import find_circuit
from interp.runs.folder import PROMPTS, pairs_of
from interp.runs.run import Run
from interp.tasks import PromptFile, TemplateFile
from tests.app.circuit.conftest import N, figure_of, metric_of, prompts_file
from tests.app.conftest import array_of, asked, error_of, press, unescaped


def _check_pattern(app, pair, layer: int, head: int, metric: str, model) -> None:
    """The pattern that is drawn is the model's."""
    shown = figure_of(app, "Attention pattern")["data"][0]
    seen = view_pair(model, pair, metric).pattern("clean", layer, head)
    np.testing.assert_allclose(array_of(shown["customdata"]), seen, atol=1e-5)


def test_a_circuit_is_found_from_the_page_and_opened(page, tmp_path):
    folder = tmp_path / "new" / "planted-induction-adaptive-patching-2"
    folder.with_name(folder.name[:-2]).mkdir(parents=True)  # which is not replaced
    app = page(folder.parent)
    app.selectbox(key="find task").set_value("planted-induction")
    app.number_input(key="find n").set_value(N)
    app.number_input(key="find seed").set_value(2)
    press(app, "Find")
    assert not app.error and app.selectbox(key="run").value == asked(app, "run") == folder.name
    assert len(list(folder.parent.iterdir())) == 2 and not any(folder.with_name(folder.name[:-2]).iterdir())
    run = Run.load(folder)
    expected = find_circuit("planted-induction", "planted-induction", n=N, seed=2)
    assert run.heads == expected.heads
    assert (folder / "report.html").is_file() and not any((folder / name).exists() for name in PROMPTS)
    assert metric_of(app, "Members") == str(len(expected.members))
    app.toggle(key="read").set_value(True).run()
    assert not app.exception and "No codebooks for planted-induction" in unescaped(app.info[0].value)
    assert app.code[0].value.endswith("--model planted-induction")


def test_a_circuit_is_found_from_an_uploaded_file(page, model, tmp_path):
    folder = tmp_path / "new" / "My-pairs-1-attribution"
    app = _with_file(page(folder.parent), "My pairs (1).json", prompts_file())
    app.selectbox(key="find method").set_value("attribution")
    app.number_input(key="find n").set_value(N)
    press(app, "Find")
    assert not app.error and app.selectbox(key="run").value == folder.name
    run = Run.load(folder)
    assert (folder / "prompts.json").read_bytes() == prompts_file()
    expected = find_circuit(model, PromptFile("x.json", prompts_file()), n=N, method="attribution")
    assert [part.site for part in run.members] == [part.site for part in expected.members]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    report = (folder / "report.html").read_text()
    assert "interp discover My" not in report, "the file that was sent is nowhere"
    assert f"{folder.name}/prompts.json" in report
    # and another of its prompts can be read
    app.selectbox(key="pair").set_value("5").run()
    site = app.selectbox(key="head").value
    pair = pairs_of(run, folder, model.tokenizer, N)[4]
    _check_pattern(app, pair, int(site[1]), int(site[-1]), "logit_diff", model)


def _with_file(app: AppTest, name: str, data: bytes | None) -> AppTest:
    app.get("button_group")[0].set_value("a file of prompts").run()
    if data is not None:
        app.file_uploader(key="find file").set_value((name, data, "application/json"))
    return app


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b"{nonsense", "a.json: "),
        ("<img src=x onerror=alert(1)>.json", b"[]", "<img src=x onerror=alert(1)>.json: "),
        ("big.json", b" " * (LARGEST * 2**20 + 1), f"big.json has {LARGEST}.0 MB"),
        ("none.json", None, "no file"),
    ],
    ids=("not JSON", "markup", "large", "none"),
)
def test_a_bad_file_is_one_clear_line_and_nothing_is_kept(page, tmp_path, name, data, message):
    app = _with_file(page(tmp_path), name, data)
    assert message in error_of(press(app, "Find"))
    assert not list(tmp_path.iterdir()) and not app.metric


def test_both_forms_that_the_page_shows_are_taken():
    texts = [part.partition("```")[0].encode() for part in FORMAT.split("```json")[1:]]
    records = [UploadedFileRec("1", "a.json", "application/json", text) for text in texts]
    sent = [UploadedFile(record, FileURLs()) for record in records]
    prompts, templates = map(prompt_file, sent)
    assert isinstance(prompts, PromptFile) and isinstance(templates, TemplateFile)
    assert (prompts.most, templates.most) == (1, 2)


def test_names_of_runs_are_harmless():
    names = {"../../etc/passwd.json": "passwd", "…/ä ö.jsonl": "prompts", ".hidden <b>.json": "hidden-b"}
    assert {name: run_name(name, "eap") for name in names} == {k: f"{v}-eap" for k, v in names.items()}
