"""The command line as a user meets it: what it prints, what it leaves, what it suggests next."""

import dataclasses
import json
import os
import re
import shlex
import sys
from dataclasses import fields
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

import interp
from interp.circuits.references import reference_names
from interp.cli.main import app
from interp.cli.options import DEFAULT_MODEL, file_name
from interp.interventions.effects import PartialEffects
from interp.models import model_names
from interp.planted.models import planted_truth
from interp.report.repeat import command_line, python_lines, reference_command
from interp.runs import discover
from interp.runs.run import Run
from interp.scores.registry import METHODS, load_method
from interp.tasks import task_names
from tests.command_line import quick_and_quiet

PLANTED = "planted-inhibition"
NAME = f"{PLANTED}-adaptive-patching"
FILES = {"run.json", "scores.safetensors", "heads.csv", "report.html"}
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def journey(tmp_path_factory) -> tuple[Path, str]:
    """One discovery: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("journey")
    words = ["discover", PLANTED, "-n", "16", "--json", "results/mine.json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        quick_and_quiet(patch)
        done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 0 and done.stderr == "", done.stderr
    return folder, done.stdout


def test_a_discovery_finds_the_planted_circuit_and_leaves_it_whole(journey):
    folder, printed = journey
    truth, run = set(planted_truth(PLANTED).heads), folder / "runs" / NAME
    assert set(re.findall(r"^ (a\d+\.h\d+) ", printed, flags=re.MULTILINE)) == truth
    assert {part.site for part in Run.load(run).members} == truth
    assert Run.load(run).model == PLANTED  # a planted task's own model needs no naming
    assert {path.name for path in run.iterdir()} == FILES
    assert len({path.stat().st_mode for path in run.iterdir()}) == 1, "one is more private than the others"
    assert Path(folder / "results/mine.json").read_bytes() == (run / "run.json").read_bytes()


def test_what_it_suggests_next_can_be_typed(journey, command, monkeypatch):
    folder, printed = journey
    monkeypatch.chdir(folder)
    suggested = re.findall(r"^(?:next)? +interp (.*?) +# ", printed, flags=re.MULTILINE)
    assert [line.split()[0] for line in suggested] == ["discover", "compare", "tasks"]
    for line in suggested:
        more = ["-n", "8", "--no-program"] if line.startswith("discover") else []
        outcome = command(*line.split(), *more)
        assert outcome.code == 0 and outcome.out, outcome.err


def test_a_run_is_exported_as_the_graph_that_other_tools_read(journey, command, monkeypatch):
    run = journey[0] / "runs" / NAME
    for number, (helpful, layout) in enumerate({"positive": "eap-ig", "negative": "mib"}.items()):
        exported = command("export", str(run), "--layout", layout, "--helpful", helpful)
        path = run.with_name(f"{run.name}-graph{'-2' * number}.json")  # the first is not replaced
        assert exported.code == 0 and f"saved    {path}" in exported.out, exported.err
        nodes = json.loads(path.read_text())["nodes"]
        inside = {node for node, entry in nodes.items() if (entry if layout == "mib" else entry["in_graph"])}
        assert {node for node in inside if node.startswith("a")} == {part.site for part in Run.load(run).members}
        strongest = max(Run.load(run).edges, key=lambda edge: abs(edge.score))
        name = f"{strongest.sender}->{strongest.receiver}<{strongest.into}>"
        score = strongest.score if helpful == "positive" else -strongest.score
        assert json.loads(path.read_text())["edges"][name]["score"] == score
    assert command("export", str(run), "--out", "a/b/graph.json").code == 0
    monkeypatch.chdir(run)
    assert str(run.with_name(f"{run.name}-graph-3.json")) in command("export", ".").out


def test_a_run_without_bos_can_be_judged_by_what_its_report_says(command):
    assert command("discover", PLANTED, "--no-bos", "-n", "40", "--no-program", "--out", "mine").code == 0
    words = shlex.split(reference_command(Run.load("mine")))
    measured = command(*words[1:], "-n", "40")
    assert measured.code == 0, measured.err
    then = shlex.split(re.search(r"^next +interp (.*?) +#", measured.out, re.MULTILINE)[1])
    judged = command(*then, "-n", "40", "--no-program", "--out", "judged")
    assert judged.code == 0 and "ROC AUC" in judged.out, judged.err


def test_json_to_stdout_is_json_and_nothing_else(command):
    outcome = command("discover", PLANTED, "-n", "8", "--no-program", "--json", "-")
    result = json.loads(outcome.out)
    assert outcome.code == 0 and outcome.err == ""
    assert result["format"] == 2 and len(result["heads"]) == 24
    assert json.loads(Run.load(f"runs/{NAME}").model_dump_json()) == result


def test_a_class_of_ones_own_is_repeated_by_what_it_was_asked_for(command):
    Path("mine.py").write_text(
        "from interp.planted.tasks import PlantedNames\n\n\nclass Mine(PlantedNames):\n"
        "    def __init__(self):\n        super().__init__('giving')\n",
        encoding="utf-8",
    )
    done = command("discover", "mine.py:Mine", "--model", PLANTED, "-n", "8", "--no-program")
    assert done.code == 0, done.err
    run = Run.load("runs/giving-planted-inhibition-adaptive-patching")
    assert run.task == "giving"
    again = shlex.split(command_line(run))[1:]
    assert again[:2] == ["discover", "mine.py:Mine"] and command(*again).code == 0
    assert "mine.py:Mine" in reference_command(run) and "mine.py:Mine" in python_lines(run)


def test_the_same_command_replaces_its_run_and_another_does_not(command):
    kept = Path("runs") / NAME
    kept.mkdir(parents=True)
    (kept / "run.json").write_text(json.dumps({"task": PLANTED, "model": "another"}), encoding="utf-8")
    words = ("discover", PLANTED, "-n", "8", "--no-program")
    assert "replaces" not in command(*words).out
    assert "replaces the earlier run" in command(*words).out
    for other in (("--seed", "1"), ("--counterfactual", "s2_io"), ("--n", "9")):
        assert "replaces" not in command(*words, *other).out
    assert len(list(Path("runs").iterdir())) == 5 and Run.load(f"{kept}-2").seed == 0
    assert json.loads((kept / "run.json").read_text())["model"] == "another"


def test_prompts_of_one_name_in_two_places_get_a_folder_each(command):
    for folder, seed in (("one", "0"), ("two[/bold]", "1")):  # in which brackets are no markup
        file = f"{folder}/prompts.json"
        assert command("tasks", "export", PLANTED, file, "-n", "8", "--seed", seed).code == 0
        discovered = command("discover", file, "--model", PLANTED, "--no-program")
        assert f"{file} on {PLANTED} by adaptive-patching" in discovered.out
    runs = {path.name: Run.load(path).task for path in Path("runs").iterdir()}
    assert runs == {f"prompts-{NAME}": "one/prompts.json", f"prompts-{NAME}-2": file}
    again = command("discover", file, "--model", PLANTED, "--no-program")
    assert "replaces the earlier run" in again.out and f"prompts-{NAME}-2" in again.out
    assert command("discover", file, "--model", "planted-backup", "--no-program").code == 0
    assert {path.name for path in Path("runs").iterdir()} == {*runs, "prompts-planted-backup-adaptive-patching"}


def test_two_searches_at_once_lose_neither(command, monkeypatch):
    words = ("discover", PLANTED, "-n", "8", "--method", "attribution", "--no-program")
    plain = discover.run_search

    def meanwhile(search, *given, **named):
        monkeypatch.setattr(discover, "run_search", plain)
        other = plain(dataclasses.replace(search, seed=1), *given, **named)
        other.save(f"runs/{PLANTED}-attribution")
        return plain(search, *given, **named)

    monkeypatch.setattr(discover, "run_search", meanwhile)
    done = command(*words)
    assert done.code == 0 and f"runs/{PLANTED}-attribution-2" in done.out
    seeds = [Run.load(f"runs/{PLANTED}-attribution{number}").seed for number in ("", "-2")]
    assert seeds == [1, 0]


def test_options_reach_the_discovery_and_the_commands_it_suggests(command):
    hint = "all that were checked are members, so there may be more: --candidates 2"
    assert hint in command("discover", PLANTED, "-n", "8", "--candidates", "1", "--no-program").out
    pairs = "--n 6 --seed 3 --counterfactual s2_io"
    words = f"{pairs} --candidates 7 --threshold 0.5 --device cpu --dtype bfloat16 --mlps --no-bos"
    more = "--method patching --batch-size 3 --out mine"
    outcome = command("discover", PLANTED, *words.split(), *more.split())
    assert outcome.code == 0 and "there may be more" not in outcome.out, outcome.err
    assert f"interp discover {PLANTED} {words} --method attribution  " in outcome.out
    assert f"interp tasks show {PLANTED} {pairs} --device cpu --dtype bfloat16  " in outcome.out
    run = Run.load("mine")
    assert (run.method, run.n_pairs, run.seed) == ("patching", 6, 3)
    assert run.provenance.pairs.counterfactual == "s2_io" and run.provenance.pairs.bos is False
    assert (run.settings.candidates, run.settings.threshold) == (7, 0.5)
    assert run.settings.config["mlps"] is True and run.settings.config["batch_size"] == 3
    assert run.universe == "heads", "this model has no MLPs, whatever was asked for"


def test_lists_name_everything_there_is(command):
    tasks, models, references = (command(words).out for words in ("tasks", "models", "reference"))
    for names, text in ((task_names(), tasks), (model_names(), models), (reference_names(), references)):
        assert [name for name in names if name not in text] == []
    assert model_names()[0] == DEFAULT_MODEL and PLANTED in command("models", "show", PLANTED).out
    wang = command("reference", "ioi/wang").out
    assert "a9.h9" in wang and "S-inhibition" in wang and "2211.00593" in wang
    assert command("--version").out.strip() == f"interp {interp.__version__}"
    assert (bare := command()).code == 2 and "interp discover ioi" in bare.out and bare.err == ""


def test_methods_and_their_options_are_listed(command):
    listed = command("methods")
    assert listed.code == 0 and all(f" {name} " in listed.out for name in METHODS)
    for name in METHODS:
        shown = command("methods", name)
        assert shown.code == 0 and "``" not in shown.out and ":class:" not in shown.out, shown.err
        for field in fields(load_method(name).config):
            line = next(line for line in shown.out.splitlines() if line.split()[:1] == [field.name])
            assert len(line.split()) > 2, f"{name} does not say what its {field.name} is"


def test_examples_are_shown_with_tokens_roles_and_the_score(command):
    outcome = command("tasks", "show", PLANTED, "--examples", "1", "-n", "20")
    assert outcome.code == 0
    for role in ("IO", "S1", "S1+1", "S2", "END"):
        assert outcome.out.count(f"⟨{role}⟩") == 2  # once a side
    scores = re.findall(r"logit_diff on (?:clean|corrupt) +([+-]\d+\.\d+), right .* on (\d+)%", outcome.out)
    assert float(scores[0][0]) > 5 and scores[0][1] == "100" and abs(float(scores[1][0])) < 1


def test_an_exported_task_is_read_back_as_the_same_task(command):
    [again] = command("tasks", "export", PLANTED, "mine.json", "-n", "8", "--seed", "4").following
    assert again == ["discover", "mine.json", "--model", PLANTED]
    assert command(*again, "--no-program", "--out", "a").code == 0
    assert command("discover", PLANTED, "-n", "8", "--seed", "4", "--no-program", "--out", "b").code == 0
    a, b = ({p.site: p.effect for p in Run.load(name).members} for name in "ab")
    assert a == pytest.approx(b, abs=1e-4)
    assert Path("a/prompts.json").read_bytes() == Path("mine.json").read_bytes()
    assert command(*again, "--no-program", "--out", "a").code == 0, "its own prompts go with a run"
    [few] = command("tasks", "export", PLANTED, "few.json", "-n", "2").following
    assert few[:3] == ["tasks", "show", "few.json"] and command(*few).code == 0


def test_a_reference_is_measured_saved_and_shown_again(command):
    outcome = command("reference", PLANTED, "-n", "8", "--out", "mine.safetensors")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in Path().iterdir()} == {"mine.safetensors", "mine.log.jsonl"}
    shown = command("reference", "mine.safetensors")
    measured, again = (re.findall(r"(a\d+\.h\d+) +(\S+)", text)[:4] for text in (outcome.out, shown.out))
    assert [head for head, _ in measured] == [head for head, _ in again]
    assert [float(effect) for _, effect in measured] == pytest.approx([float(e) for _, e in again], abs=2e-3)
    assert {head for head, _ in again} == set(planted_truth(PLANTED).heads)
    judged = command(*outcome.following[0], "-n", "8", "--no-program")
    assert "against mine.safetensors: ROC AUC 1.000" in judged.out
    run = Run.load(f"runs/{NAME}")
    assert "--reference mine.safetensors" in command_line(run) and "reference='mine" in python_lines(run)
    assert "it was measured on" not in judged.out and "own pairs" not in judged.out
    words = ("discover", PLANTED, "-n", "8", "--no-program", "--reference", "mine.safetensors")
    same = command(*words, "--seed", "1000", "--method", "attribution")
    assert "It was measured on the run’s own pairs" in same.out
    for n, shared in ((12, 8), (5, 5)):
        judged = command(*words, "-n", str(n), "--seed", "1000", "--out", f"some{n}")
        assert f"Of the run’s {n} pairs {shared} are among the 8 that it was measured on." in judged.out


def test_a_reference_is_of_a_task_a_counterfactual_and_a_file_s_prompts(command):
    for name in ("mine", "again"):
        assert command("tasks", "export", PLANTED, f"{name}.json", "-n", "8").code == 0
    for of, name in ((PLANTED, "planted"), ("mine.json", "own")):
        assert command("reference", of, "--model", PLANTED, "-n", "8", "--out", f"{name}.safetensors").code == 0
    same = command("discover", "again.json", "--model", PLANTED, "--no-program", "--reference", "own.safetensors")
    assert "against own.safetensors" in same.out  # the same prompts in another file
    for words, reference, part in (
        ((PLANTED, "--counterfactual", "s2_io"), "planted", "is of the counterfactual"),
        (("planted-backup",), "planted", f"is of the task {PLANTED}, not of planted-backup"),
        ((PLANTED,), "own", "is of the task mine.json"),
    ):
        other = command("discover", *words, "-n", "8", "--reference", f"{reference}.safetensors")
        assert other.code == 2 and part in other.error


def test_an_interrupted_measurement_goes_on_where_it_stopped(command, monkeypatch):
    record, calls = PartialEffects.record, []

    def stop_at_third(self, *args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        record(self, *args)

    words = ("reference", PLANTED, "-n", "8", "--batch-size", "4", "--out")
    monkeypatch.setattr(PartialEffects, "record", stop_at_third)
    outcome = command(*words, "mine.safetensors")
    assert outcome.code == 130 and "goes on from mine.partial" in outcome.error
    steps = len(calls)
    assert command(*words, "mine.safetensors").code == 0
    resumed = len(calls) - steps
    calls[:] = [None] * 3  # past the third: no stop
    assert command(*words, "whole.safetensors").code == 0
    assert resumed == len(calls) - 3 - 2, "the two steps that were done are not done again"
    made = {"mine.safetensors", "whole.safetensors"}
    assert {path.name for path in Path().iterdir()} == made | {"mine.log.jsonl", "whole.log.jsonl"}
    assert Path("mine.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()


def test_clearing_the_cache_deletes_our_model_and_nothing_else(command, tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    models = tmp_path / "cache" / "models"
    for folder in (models / f"{DEFAULT_MODEL}-0123", models / "thesis", tmp_path / "cache" / "photos"):
        folder.mkdir(parents=True)
    assert command("cache").out.strip() == str(tmp_path / "cache")
    assert "deleted" in command("cache", "clear").out and "nothing" in command("cache", "clear").out
    assert {path.name for path in models.iterdir()} == {"thesis"} and (tmp_path / "cache" / "photos").is_dir()


def test_the_workbench_listens_on_this_machine_unless_told_otherwise(command, monkeypatch, capsys):
    execve = Mock(side_effect=NotImplementedError)  # which would replace this process

    def started(*words) -> tuple[str, dict, str]:
        """Address and environment of what the process would have been replaced by, and what stderr has."""
        with pytest.raises(NotImplementedError):
            command("app", *words)
        program, words, environment = execve.call_args.args
        assert program == words[0] == sys.executable and Path(words[words.index("run") + 1]).is_file()
        address = ":".join(words[words.index(f"--server.{part}") + 1] for part in ("address", "port"))
        return address, environment, capsys.readouterr().err

    monkeypatch.setattr(os, "execve", execve)
    there = str(Path("there").absolute())
    address, environment, warning = started("--runs", "there", "--port", "8600")
    assert (address, environment["INTERP_RUNS"], warning) == ("127.0.0.1:8600", there, "")
    monkeypatch.setenv("INTERP_MODEL", "mine")
    monkeypatch.setenv("INTERP_RUNS", "/data/runs")
    address, environment, warning = started("--host", "0.0.0.0")
    assert address.startswith("0.0.0.0:") and "there is no password" in warning
    assert (environment["INTERP_MODEL"], environment["INTERP_RUNS"]) == ("mine", "/data/runs")
    _, environment, _ = started("--model", "planted-induction", "--runs", "there")
    assert (environment["INTERP_MODEL"], environment["INTERP_RUNS"]) == ("planted-induction", there)


def test_doctor_reports_what_is_not_there_and_fails(command, monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    wrong = SimpleNamespace(members=(SimpleNamespace(site="a0.h0"),))
    with monkeypatch.context() as patch:
        patch.setattr("interp.models.load_model", lambda: 1 / 0)
        assert "ok   planted circuit" in command("doctor").out
        patch.setattr("interp.runs.discover.find_circuit", lambda *_args, **_kwargs: wrong)
        assert "FAIL planted circuit: found a0.h0, but" in command("doctor").out
        patch.setattr("importlib.metadata.version", version)
        patch.setitem(sys.modules, "interp.runs.discover", None)  # its import fails
        outcome = command("doctor")
    assert outcome.code == 1 and outcome.err == ""
    for name in ("torch", "sae-lens", "planted circuit", "embedded model"):
        assert f"FAIL {name}: " in outcome.out


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2_at_once")
def test_doctor_is_content_with_this_installation(command):
    outcome = command("doctor")
    assert outcome.code == 0 and "FAIL" not in outcome.out and "ok   generation" in outcome.out


def test_what_has_no_name_gets_one_that_is_neither_hidden_nor_elsewhere():
    names = {"./tiny": "tiny", "../models/llama/": "models-llama", "org/model": "org-model", "a/b.gguf": "b"}
    assert {text: file_name(text) for text in names} == names
