"""The command line as a user meets it: what it prints, what it leaves, what it suggests next."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import rich.markup
import typer

import interp
from interp.circuits.graph_json import read_graph
from interp.circuits.references import reference_names
from interp.cli.main import app
from interp.cli.options import DEFAULT_MODEL, file_name
from interp.models import model_names
from interp.planted.models import planted_truth
from interp.report.repeat import command_line, python_lines, reference_command
from interp.runs.run import Run
from interp.scores.registry import METHODS, load_method
from interp.tasks import task_names
from tests.command_line import ONE_THREAD

PLANTED = "planted-inhibition"
FILES = {"run.json", "scores.safetensors", "heads.csv", "report.html"}
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def journey(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """One discovery in a process of its own: nothing of the tests helps it."""
    folder = tmp_path_factory.mktemp("journey")
    words = ["discover", PLANTED, "-n", "16", "--json", "results/mine.json"]
    done = subprocess.run(
        [sys.executable, "-m", "interp.cli.main", *words],
        cwd=folder,
        env=os.environ | ONE_THREAD,
        capture_output=True,
        text=True,
        check=False,
    )
    return folder, done


def test_a_discovery_finds_the_planted_circuit_and_says_so(journey):
    folder, done = journey
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    truth = planted_truth(PLANTED)
    table = re.findall(r"^ (a\d+\.h\d+) ", done.stdout, flags=re.MULTILINE)
    assert set(table) == set(truth.heads)
    run = Run.load(folder / "runs" / f"{PLANTED}-adaptive-patching")
    assert {part.site for part in run.members} == set(truth.heads)
    assert run.model == PLANTED  # a planted task's own model needs no naming


def test_the_run_folder_and_the_json_are_whole(journey):
    folder, _ = journey
    run = folder / "runs" / f"{PLANTED}-adaptive-patching"
    assert {path.name for path in run.iterdir()} == FILES
    assert json.loads((folder / "results/mine.json").read_text()) == json.loads(
        (run / "run.json").read_text()
    )
    assert len({path.stat().st_mode for path in run.iterdir()}) == 1, (
        "one file is more private than the others"
    )


def test_what_it_suggests_next_can_be_typed(journey, command, monkeypatch):
    folder, done = journey
    monkeypatch.chdir(folder)
    suggested = re.findall(r"^(?:next)? +interp (.*?) +# ", done.stdout, flags=re.MULTILINE)
    assert [line.split()[0] for line in suggested] == ["discover", "compare", "tasks"]
    for line in suggested:
        words = line.split()
        if words[0] == "discover":
            words += ["-n", "8"]
        outcome = command(*words)
        assert outcome.code == 0, outcome.err
        assert outcome.out


def test_a_run_is_exported_as_the_graph_that_other_tools_read(journey, command, monkeypatch):
    folder, _ = journey
    run = folder / "runs" / f"{PLANTED}-adaptive-patching"
    signs = {"positive": "eap-ig", "negative": "mib"}
    for number, (helpful, layout) in enumerate(signs.items()):
        told = command("export", str(run), "--layout", layout, "--helpful", helpful)
        assert told.code == 0, told.err
        path = run.with_name(f"{run.name}-graph{'-2' * number}.json")  # the first is not replaced
        assert f"saved    {path}" in told.out
        graph = read_graph(path)
        members = {part.site for part in graph.members if part.site.startswith("a")}
        assert members == {part.site for part in Run.load(run).members}
        strongest = max(Run.load(run).edges, key=lambda edge: abs(edge.score))
        sign = 1 if helpful == "positive" else -1
        name = f"{strongest.sender}->{strongest.receiver}<{strongest.into}>"
        assert json.loads(path.read_text())["edges"][name]["score"] == sign * strongest.score
    assert command("export", str(run), "--out", "a/b/graph.json").code == 0
    monkeypatch.chdir(run)
    assert str(run.with_name(f"{run.name}-graph-3.json")) in command("export", ".").out
    refused = command("export", "nothing-here")
    assert refused.code == 2 and "nothing-here is not a run folder" in refused.err


def test_a_run_without_bos_can_be_judged_by_what_its_report_says(command):
    assert command("discover", PLANTED, "--no-bos", "-n", "40", "--out", "mine").code == 0
    words = shlex.split(reference_command(Run.load("mine")))
    measured = command(*words[1:], "-n", "40")
    assert measured.code == 0, measured.err
    then = shlex.split(re.search(r"^next +interp (.*?) +#", measured.out, re.MULTILINE)[1])
    judged = command(*then, "-n", "40", "--out", "judged")
    assert judged.code == 0 and "ROC AUC" in judged.out, judged.err


def _options(group: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Every option of every command, with what is said of it."""
    if hasattr(group, "list_commands"):
        context = group.context_class(group)
        for name in group.list_commands(context):
            yield from _options(group.get_command(context, name), (*words, name))
    yield from (
        (" ".join((*words, param.name)), getattr(param, "help", None) or "") for param in group.params
    )


def test_no_help_text_is_eaten_as_markup():
    """``[default: all]`` would be taken for a style and left out."""
    told = dict(_options(typer.main.get_command(app)))
    assert len(told) > 100
    assert {name: text for name, text in told.items() if rich.markup.render(text).plain != text} == {}


def test_json_to_stdout_is_json_and_nothing_else(command):
    outcome = command("discover", PLANTED, "-n", "8", "--json", "-")
    result = json.loads(outcome.out)
    assert outcome.code == 0 and outcome.err == ""
    assert result["format"] == 2 and len(result["heads"]) == 24
    assert json.loads(Run.load(f"runs/{PLANTED}-adaptive-patching").model_dump_json()) == result


def test_a_class_of_ones_own_is_repeated_by_what_it_was_asked_for(command):
    Path("mine.py").write_text(
        "from interp.planted.tasks import PlantedNames\n\n\nclass Mine(PlantedNames):\n"
        "    def __init__(self):\n        super().__init__('giving')\n",
        encoding="utf-8",
    )
    done = command("discover", "mine.py:Mine", "--model", PLANTED, "-n", "8")
    assert done.code == 0, done.err
    run = Run.load("runs/giving-planted-inhibition-adaptive-patching")
    assert run.task == "giving"
    again = shlex.split(command_line(run))[1:]
    assert again[:2] == ["discover", "mine.py:Mine"] and command(*again).code == 0
    assert "mine.py:Mine" in reference_command(run) and "mine.py:Mine" in python_lines(run)


def test_a_run_of_another_model_stays_where_no_model_is_named(command):
    kept = Path("runs") / f"{PLANTED}-adaptive-patching"
    kept.mkdir(parents=True)
    (kept / "run.json").write_text(json.dumps({"task": PLANTED, "model": "another"}), encoding="utf-8")
    assert command("discover", PLANTED, "-n", "8").code == 0
    assert json.loads((kept / "run.json").read_text())["model"] == "another"
    assert Run.load(f"runs/{PLANTED}-adaptive-patching-2").model == PLANTED


def test_a_file_name_that_is_no_text_is_refused_before_anything_is_done(command):
    assert r"argument 'caf\udce9.json' is no UTF-8 text" in command("discover", "caf\udce9.json").error


def test_a_terminal_of_few_characters_shows_what_it_can():
    done = subprocess.run(
        [sys.executable, "-m", "interp.cli.main", "tasks"],
        env=os.environ | ONE_THREAD | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "greater-than" in done.stdout, done.stderr


def test_the_same_command_replaces_its_run_and_says_so(command):
    words = ("discover", PLANTED, "-n", "8")
    assert "replaces" not in command(*words).out
    assert "replaces the earlier run" in command(*words).out
    for other in (("--seed", "1"), ("--counterfactual", "s2_io"), ("--mlps",), ("--n", "9")):
        assert "replaces" not in command(*words, *other).out
    assert len(list(Path("runs").iterdir())) == 5
    assert Run.load(f"runs/{PLANTED}-adaptive-patching").seed == 0


def test_another_model_s_run_is_not_replaced(command):
    file = "deep/prompts.json"
    assert command("tasks", "export", PLANTED, file, "-n", "8").code == 0
    for model in ("planted-inhibition", "planted-backup"):
        assert command("discover", file, "--model", model).code == 0
    assert {path.name for path in Path("runs").iterdir()} == {
        "prompts-planted-inhibition-adaptive-patching",
        "prompts-planted-backup-adaptive-patching",
    }


def test_options_reach_the_discovery(command):
    words = ["--method", "patching", "-n", "6", "--seed", "3", "--counterfactual", "s2_io", "--no-bos"]
    words += ["--candidates", "7", "--threshold", "0.5", "--mlps", "--dtype", "bfloat16", "--device", "cpu"]
    outcome = command("discover", PLANTED, *words, "--batch-size", "3", "--out", "mine")
    assert outcome.code == 0, outcome.err
    run = Run.load("mine")
    assert (run.method, run.n_pairs, run.seed) == ("patching", 6, 3)
    assert run.provenance.pairs.counterfactual == "s2_io" and run.provenance.pairs.bos is False
    assert (run.settings.candidates, run.settings.threshold) == (7, 0.5)
    assert run.settings.config["mlps"] is True and run.settings.config["batch_size"] == 3
    assert run.universe == "heads", "this model has no MLPs, whatever was asked for"


def test_a_circuit_that_the_number_of_candidates_cuts_off_says_so(journey, command):
    hint = "all that were checked are members, so there may be more: --candidates 2"
    assert hint in command("discover", PLANTED, "-n", "8", "--candidates", "1").out
    assert "there may be more" not in journey[1].stdout


def test_a_report_can_be_written_again_and_runs_compared(journey, command):
    folder, _ = journey
    shutil.copytree(folder / "runs" / f"{PLANTED}-adaptive-patching", "one")
    Path("one/report.html").unlink()
    assert command("report", "one").out.splitlines()[0].split() == ["report", "one/report.html"]
    assert Path("one/report.html").stat().st_size > 10_000
    compared = command("compare", "one", "one")
    assert compared.code == 0 and "4 shared" in compared.out


def test_lists_name_everything_there_is(command):
    tasks, models, references = (command(words).out for words in ("tasks", "models", "reference"))
    for names, text in ((task_names(), tasks), (model_names(), models), (reference_names(), references)):
        assert [name for name in names if name not in text] == []
    assert model_names()[0] == DEFAULT_MODEL


def test_lists_and_help_load_nothing_heavy():
    code = (
        "import sys, contextlib, io\nfrom interp.cli.main import app\n"
        "for words in (['--help'], ['discover', '--help'], ['--version'], ['tasks'], ['models']):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        app(words, standalone_mode=False)\n"
        "    assert out.getvalue(), words\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'pandas', 'plotly') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_and_bare_call(command):
    assert command("--version").out.strip() == f"interp {interp.__version__}"
    bare = command()
    assert bare.code == 2 and "interp discover ioi" in bare.out and bare.err == ""


def test_examples_are_shown_with_tokens_roles_and_the_score(command):
    outcome = command("tasks", "show", PLANTED, "--examples", "1", "-n", "20")
    assert outcome.code == 0
    for role in ("IO", "S1", "S1+1", "S2", "END"):
        assert outcome.out.count(f"⟨{role}⟩") == 2  # once a side
    scores = re.findall(r"logit_diff on (?:clean|corrupt) +([+-]\d+\.\d+), right .* on (\d+)%", outcome.out)
    assert float(scores[0][0]) > 5 and scores[0][1] == "100"
    assert abs(float(scores[1][0])) < 1


def test_an_exported_task_is_read_back_as_the_same_task(command):
    told = command("tasks", "export", PLANTED, "mine.json", "-n", "8", "--seed", "4")
    assert told.following == [["discover", "mine.json", "--model", PLANTED]]
    assert command(*told.following[0], "--out", "a").code == 0
    assert command("discover", PLANTED, "-n", "8", "--seed", "4", "--out", "b").code == 0
    a, b = Run.load("a"), Run.load("b")
    assert Path("a/prompts.json").read_bytes() == Path("mine.json").read_bytes()
    [few] = command("tasks", "export", PLANTED, "few.json", "-n", "2").following
    assert few[:3] == ["tasks", "show", "few.json"] and command(*few).code == 0
    assert {p.site: round(p.effect, 4) for p in a.members} == {p.site: round(p.effect, 4) for p in b.members}


def test_a_published_reference_is_shown_by_role(command):
    outcome = command("reference", "ioi/wang")
    assert "a9.h9" in outcome.out and "S-inhibition" in outcome.out and "2211.00593" in outcome.out


def test_a_reference_is_measured_saved_and_shown_again(command):
    outcome = command("reference", PLANTED, "-n", "8", "--out", "mine.safetensors")
    assert outcome.code == 0, outcome.err
    assert [path.name for path in Path().iterdir()] == ["mine.safetensors"]
    shown = command("reference", "mine.safetensors")
    measured, again = (re.findall(r"(a\d+\.h\d+) +(\S+)", text)[:4] for text in (outcome.out, shown.out))
    assert [head for head, _ in measured] == [head for head, _ in again]
    assert [float(effect) for _, effect in measured] == pytest.approx([float(e) for _, e in again], abs=2e-3)
    assert {head for head, _ in again} == set(planted_truth(PLANTED).heads)
    judged = command(*outcome.following[0], "-n", "8")
    assert "against mine.safetensors: ROC AUC 1.000" in judged.out
    run = Run.load(f"runs/{PLANTED}-adaptive-patching")
    assert "--reference mine.safetensors" in command_line(run) and "reference='mine" in python_lines(run)
    assert "it was measured on" not in judged.out and "own pairs" not in judged.out
    words = ("discover", PLANTED, "-n", "8", "--reference", "mine.safetensors")
    same = command(*words, "--seed", "1000", "--method", "attribution")
    assert "It was measured on the run’s own pairs" in same.out
    some = command(*words, "-n", "12", "--seed", "1000", "--out", "some")
    assert "Of the run’s 12 pairs 8 are among the 8 that it was measured on." in some.out
    few = command(*words, "-n", "5", "--seed", "1000", "--out", "few")
    assert "Of the run’s 5 pairs 5 are among the 8 that it was measured on." in few.out
    assert "ROC curve against mine.safetensors" in Path("some/report.html").read_text()
    # what a run was judged by goes with it, whatever becomes of the file and whatever it is called
    moved = str(Path("mine.safetensors").rename("moved.safetensors").absolute())
    elsewhere = [*words[:4], "--reference", moved, "--seed", "1000", "--method", "attribution"]
    assert command(*elsewhere, "--out", "moved").code == 0
    compared = command("compare", f"runs/{PLANTED}-attribution", "moved").out
    assert re.search(r"ROC AUC, mine.safetensors = .*1\.000 +1\.000 +\S+ \[", compared), compared
    Path("some/report.html").unlink()
    assert command("report", "some").code == 0
    assert "ROC curve against mine.safetensors" in Path("some/report.html").read_text()
    Path(moved).rename("mine.safetensors")
    other = command(*words, "--counterfactual", "s2_io")
    assert other.code == 2 and "mine.safetensors is of the counterfactual" in other.error
    wrong = command("discover", "planted-backup", "-n", "8", "--reference", "mine.safetensors")
    assert wrong.code == 2 and f"is of the task {PLANTED}, not of planted-backup" in wrong.error


def test_an_interrupted_measurement_goes_on_where_it_stopped(command, monkeypatch):
    from interp.scores.patching import PartialEffects

    record, calls = PartialEffects.record, []

    def stop_at_third(self, *args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        record(self, *args)

    words = ("reference", PLANTED, "-n", "8", "--out", "mine.safetensors", "--batch-size", "4")
    monkeypatch.setattr(PartialEffects, "record", stop_at_third)
    outcome = command(*words)
    assert outcome.code == 130 and "goes on from mine.partial.safetensors" in outcome.error
    steps = len(calls)
    assert command(*words).code == 0
    resumed = len(calls) - steps
    calls.clear()
    calls.extend([None] * 3)  # past the third: no stop
    assert command(*words[:-3], "whole.safetensors", *words[-2:]).code == 0
    assert resumed == len(calls) - 3 - 2, "the two steps that were done are not done again"
    assert {path.name for path in Path().iterdir()} == {"mine.safetensors", "whole.safetensors"}


def test_a_model_is_described(command):
    outcome = command("models", "show", PLANTED)
    assert outcome.code == 0 and PLANTED in outcome.out


def test_clearing_the_cache_deletes_our_model_and_nothing_else(command, tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    models = tmp_path / "cache" / "models"
    (models / f"{DEFAULT_MODEL}-0123").mkdir(parents=True)
    (models / "thesis").mkdir()
    (tmp_path / "cache" / "photos").mkdir()
    assert command("cache").out.strip() == str(tmp_path / "cache")
    assert "deleted" in command("cache", "clear").out
    assert {path.name for path in models.iterdir()} == {"thesis"}
    assert (tmp_path / "cache" / "photos").is_dir()
    assert "nothing" in command("cache", "clear").out


@pytest.fixture
def started(command, monkeypatch):
    """Runs ``interp app``: what it would have been replaced by, and what it said."""

    class Replaced(Exception):
        pass

    def execve(program, words, environment):
        raise Replaced(program, words, environment)

    def start(*words):
        with pytest.raises(Replaced) as call:
            command("app", *words)
        return call.value.args

    monkeypatch.setattr(os, "execve", execve)
    return start


def test_the_workbench_listens_on_this_machine_only(started, capsys):
    program, words, environment = started("--runs", "there", "--port", "8600")
    assert program == words[0] == sys.executable
    assert words[words.index("--server.address") + 1] == "127.0.0.1"
    assert words[words.index("--server.port") + 1] == "8600"
    assert environment["INTERP_RUNS"] == str(Path("there").absolute())
    assert Path(words[words.index("run") + 1]).is_file()
    assert capsys.readouterr().err == ""


def test_the_workbench_opens_to_others_only_when_told_to_and_says_so(started, capsys, monkeypatch):
    monkeypatch.setenv("INTERP_MODEL", "mine")
    _, words, environment = started("--host", "0.0.0.0")
    assert words[words.index("--server.address") + 1] == "0.0.0.0" and environment["INTERP_MODEL"] == "mine"
    assert "there is no password" in capsys.readouterr().err
    assert started("--model", "planted-induction")[2]["INTERP_MODEL"] == "planted-induction"


def test_the_workbench_shows_the_runs_folder_of_the_environment_unless_told_another(started, monkeypatch):
    monkeypatch.setenv("INTERP_RUNS", "/data/runs")
    assert started()[2]["INTERP_RUNS"] == "/data/runs"
    assert started("--runs", "there")[2]["INTERP_RUNS"] == str(Path("there").absolute())


def test_doctor_reports_a_model_that_cannot_be_had_and_fails(command, monkeypatch):
    def nothing():
        raise OSError("no such wheel")

    monkeypatch.setattr("interp.models.load_model", nothing)
    outcome = command("doctor")
    assert outcome.code == 1
    assert "FAIL embedded model: OSError: no such wheel" in outcome.out
    assert "ok   planted circuit" in outcome.out


def test_doctor_notices_a_circuit_that_is_not_found(command, monkeypatch):
    class Wrong:
        members = (SimpleNamespace(site="a0.h0"),)

    monkeypatch.setattr("interp.runs.discover.find_circuit", lambda *_args, **_kwargs: Wrong)
    monkeypatch.setattr("interp.models.load_model", lambda: 1 / 0)
    outcome = command("doctor")
    assert outcome.code == 1 and "FAIL planted circuit: found a0.h0, but" in outcome.out


def test_doctor_reports_what_is_not_installed(command, monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setitem(sys.modules, "interp.runs.discover", None)  # its import fails
    monkeypatch.setattr("interp.models.load_model", lambda: 1 / 0)
    outcome = command("doctor")
    assert outcome.code == 1 and outcome.err == ""
    for name in ("torch", "sae-lens", "planted circuit", "embedded model"):
        assert f"FAIL {name}: " in outcome.out


@pytest.mark.slow
def test_doctor_is_content_with_this_installation(command):
    outcome = command("doctor")
    assert outcome.code == 0 and "FAIL" not in outcome.out
    assert "ok   generation" in outcome.out


@pytest.mark.parametrize(
    ("text", "name"),
    [("./tiny", "tiny"), ("../models/llama/", "models-llama"), ("org/model", "org-model"), ("a/b.gguf", "b")],
)
def test_names_of_files_are_neither_hidden_nor_elsewhere(text, name):
    assert file_name(text) == name


def test_a_reference_of_the_same_prompts_in_another_file_is_taken(command):
    assert command("tasks", "export", PLANTED, "mine.json", "-n", "8").code == 0
    assert command("tasks", "export", PLANTED, "again.json", "-n", "8").code == 0
    words = ("--model", PLANTED)
    assert command("reference", "mine.json", *words, "--out", "own.safetensors").code == 0
    assert (
        "against own.safetensors"
        in command("discover", "again.json", *words, "--reference", "own.safetensors").out
    )
    other = command("discover", PLANTED, "-n", "8", "--reference", "own.safetensors")
    assert other.code == 2 and "is of the task mine.json" in other.error


@pytest.mark.slow
def test_effects_with_other_corrupt_prompts_are_no_reference(command):
    words = ["discover", "ioi", "-n", "5", "--method", "layer-index", "--candidates", "1"]
    usual = command(*words).out
    assert "against ioi/smollm2-135m-instruct" in usual and "dropped" not in usual
    assert "against ioi" not in command(*words, "--no-bos").out
    other = command(*words, "--counterfactual", "s2_io")
    assert other.code == 0 and "against ioi" not in other.out


@pytest.mark.slow
def test_the_default_task_is_shown_on_the_default_model(command):
    outcome = command("tasks", "show", "ioi", "-n", "16", "--examples", "1")
    assert outcome.code == 0, outcome.err
    assert "⟨IO⟩" in outcome.out
    clean, corrupt = re.findall(r"logit_diff on \w+ +([+-]\d+\.\d+)", outcome.out)
    assert float(clean) > 2 > float(corrupt)


@pytest.mark.parametrize("already", [None, "active"])
def test_importing_the_package_lets_waiting_threads_sleep_unless_told_otherwise(already):
    given = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    given |= {"OMP_WAIT_POLICY": already} if already else {}
    source = "import os, interp; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run(
        [sys.executable, "-c", source], env=given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (already or "passive")


def test_what_commands_write_lies_where_the_workbench_looks(command):
    words = (
        "--tasks",
        "planted-induction",
        "--methods",
        "random,layer-index",
        "--pairs",
        "5",
        "--seeds",
        "1",
    )
    assert command("bench", *words).code == 0
    words = (
        "--model",
        "planted-induction",
        "--data",
        "stdlib",
        "--tokens",
        "640",
        "--context",
        "32",
        "--codes",
        "8",
    )
    assert command("codebook", "fit", *words).code == 0
    assert {path.name for path in Path("runs").iterdir()} == {
        "bench",
        "planted-induction-matching_pursuit-k8",
    }


def test_methods_and_their_options_are_listed(command):
    from dataclasses import fields

    listed = command("methods")
    assert listed.code == 0 and all(f" {name} " in listed.out for name in METHODS)
    for name in METHODS:
        shown = command("methods", name)
        assert shown.code == 0, shown.err
        for field in fields(load_method(name).config):
            line = next(line for line in shown.out.splitlines() if line.split()[:1] == [field.name])
            assert len(line.split()) > 2, f"{name} does not say what its {field.name} is"
        assert "``" not in shown.out and ":class:" not in shown.out
    refused = command("methods", "magic")
    assert refused.code == 2 and "unknown method 'magic'" in refused.error


def test_what_the_documentation_names_can_be_imported_from_the_package():
    for name in interp.__all__:
        assert getattr(interp, name) is not None
