"""Finding a circuit on the page *Circuit*: a task or a file becomes the run that the command line would make."""

import json
import re

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from interp.app.circuit.find import LARGEST, Progress, Upload, prompt_file, run_name
from interp.circuits.roles import view_pair
from interp.errors import InputError
from interp.models import load_model, parse_site
from interp.runs.discover import find_circuit
from interp.runs.run import PROMPTS, Run
from interp.tasks import PromptFile, load_task
from tests.app.circuit.conftest import N, array_of, figure_of, metric_of, press, prompts_file


def test_a_circuit_is_found_from_the_page_and_opened(page, tmp_path):
    app = page(tmp_path / "new")
    app.selectbox(key="find task").set_value("planted-induction")
    app.number_input(key="find n").set_value(N)
    app.number_input(key="find seed").set_value(2)
    press(app, "Find")
    assert not app.error and app.selectbox(key="run").value == "planted-induction-adaptive-patching"
    assert app.query_params["run"] in (
        "planted-induction-adaptive-patching",
        ["planted-induction-adaptive-patching"],
    )
    folder = tmp_path / "new" / "planted-induction-adaptive-patching"
    found = Run.load(folder)
    expected = find_circuit("planted-induction", "planted-induction", n=N, seed=2)
    assert found.heads == expected.heads
    assert (folder / "report.html").is_file() and not any((folder / name).exists() for name in PROMPTS)
    assert metric_of(app, "Members") == str(len(expected.members))
    # its own model is run for another prompt; there are no codebooks of it, and the page says how to make some
    app.selectbox(key="pair").set_value("4").run()
    model = load_model("planted-induction")
    pairs = load_task("planted-induction").sample(model.tokenizer, N, seed=2)
    where = parse_site(app.selectbox(key="head").value)
    shown = figure_of(app, "Attention pattern")["data"][0]
    seen = view_pair(model, pairs[3], pairs.metric).pattern("clean", where.layer, where.head)
    np.testing.assert_allclose(array_of(shown["customdata"]), seen, atol=1e-5)
    app.toggle(key="read").set_value(True).run()
    assert not app.exception and "No codebooks for planted-induction" in re.sub(
        r"\\(.)", r"\1", app.info[0].value
    )
    assert app.code[0].value.endswith("--model planted-induction")
    app.toggle(key="read").set_value(False).run()
    press(app, "Find")
    assert app.selectbox(key="run").value == "planted-induction-adaptive-patching-2"
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f"{folder.name}-2"]


def test_a_circuit_is_found_from_an_uploaded_file(page, model, tmp_path):
    folder = tmp_path / "new"
    app = _with_file(page(folder), "My pairs (1).json", prompts_file())
    app.selectbox(key="find method").set_value("attribution")
    app.number_input(key="find n").set_value(N)
    press(app, "Find")
    assert not app.error and app.selectbox(key="run").value == "My-pairs-1-attribution"
    run = Run.load(folder / "My-pairs-1-attribution")
    assert (folder / "My-pairs-1-attribution" / "prompts.json").read_bytes() == prompts_file()
    expected = find_circuit(model, PromptFile("x.json", prompts_file()), n=N, method="attribution")
    assert [part.site for part in run.members] == [part.site for part in expected.members]
    assert [path.name for path in folder.iterdir()] == ["My-pairs-1-attribution"]
    report = (folder / "My-pairs-1-attribution" / "report.html").read_text()
    assert "interp discover My" not in report, "the file that was sent is nowhere"
    assert "My-pairs-1-attribution/prompts.json" in report
    # and another of its prompts can be read
    app.selectbox(key="pair").set_value("5").run()
    pairs = run.sample_again(folder / "My-pairs-1-attribution", model.tokenizer, N)
    site = app.selectbox(key="head").value
    expected_pattern = view_pair(model, pairs[4], "logit_diff").pattern("clean", int(site[1]), int(site[-1]))
    shown = figure_of(app, "Attention pattern")["data"][0]
    np.testing.assert_allclose(array_of(shown["customdata"]), expected_pattern, atol=1e-5)


def test_of_a_file_as_many_pairs_are_taken_as_the_model_can_use(page, tmp_path):
    data = json.loads(prompts_file())
    data["prompts"][1]["corrupt"] += " longer"  # than the clean prompt
    app = _with_file(page(tmp_path), "mine.json", json.dumps(data).encode())
    app.selectbox(key="find method").set_value("attribution")
    assert app.number_input(key="find n").label == "Pairs, at most"
    app.number_input(key="find n").set_value(100)
    press(app, "Find")
    assert not app.error
    found = Run.load(tmp_path / "mine-attribution")
    assert found.n_pairs == len(data["prompts"]) - 1
    assert found.provenance.pairs.dropped == {"lengths": 1}


def _with_file(app: AppTest, name: str, data: bytes) -> AppTest:
    app.get("button_group")[0].set_value("a file of prompts").run()
    app.file_uploader(key="find file").set_value((name, data, "application/json"))
    return app


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b"{nonsense", "a.json: "),
        ("<img src=x onerror=alert(1)>.json", b"[]", "<img src=x onerror=alert(1)>.json: "),
        ("two\nlines.json", b"\xff", "two↵lines.json: "),
        ("big.json", b" " * (LARGEST * 2**20 + 1), f"big.json has {LARGEST}.0 MB"),
        ("a.jsonl", b'{"clean": "x"}', "a.jsonl, line 1: corrupt"),
        (
            "few.json",
            json.dumps({"prompts": json.loads(prompts_file())["prompts"][:3]}).encode(),
            "n 3: too few, at least 5 pairs of few.json",
        ),
    ],
    ids=("not JSON", "markup", "two lines", "large", "keys", "few"),
)
def test_a_bad_file_is_one_clear_line_and_nothing_is_kept(page, tmp_path, name, data, message):
    app = _with_file(page(tmp_path), name, data)
    press(app, "Find")
    [error] = app.error
    assert message in re.sub(r"\\(.)", r"\1", error.value)
    assert "\n" not in error.value and not re.search(r"(?<!\\)<", error.value)
    assert not list(tmp_path.iterdir()) and not app.metric


def test_a_long_name_is_shortened_in_messages_only():
    found = prompt_file(Upload("pairs " + 20 * "of names " + ".json", prompts_file()))
    assert found.path.suffix == ".json" and found.name.count("of names") == 20
    with pytest.raises(InputError, match=r"^pairs of .{40,60}… is no file of prompts"):
        prompt_file(Upload("pairs " + 20 * "of names " + ".txt", prompts_file()))


def test_without_a_file_it_asks_for_one(page, tmp_path):
    app = page(tmp_path)
    app.get("button_group")[0].set_value("a file of prompts").run()
    press(app, "Find")
    assert "no file" in app.error[0].value


def test_progress_weighs_stages_by_their_forward_passes():
    told = []
    progress = Progress(
        "adaptive-patching", 10, lambda share, text, behind: told.append((share, text, list(behind)))
    )
    assert told[0][0] == 0
    with progress.stage("adaptive-patching scores", 10) as advance:
        advance(10)
    with progress.stage("activation patching", 300):
        pass
    assert told[-1][0] == pytest.approx(80 / (80 + 129 + 260)) and told[-1][2] == [
        "adaptive-patching scores, 0 s"
    ]
    with progress.stage("edges", 100) as advance:
        advance(100)
    assert progress.done == pytest.approx(progress.whole)


def test_names_of_runs_are_harmless():
    assert run_name("ioi", "adaptive-patching") == "ioi-adaptive-patching"
    assert run_name("../../etc/passwd.json", "eap") == "passwd-eap"
    assert run_name("…/ä ö.jsonl", "eap") == "prompts-eap"
    assert run_name(".hidden <b>.json", "eap") == "hidden-b-eap"
