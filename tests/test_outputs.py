"""What commands write: nothing that somebody would miss is replaced, and what cannot be written is told first."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from interp.cli.terminal import plain_console
from interp.runs.run import Run
from tests.command_line import ONE_THREAD, tree

PLANTED = "planted-induction"
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a run, a prompt file and a model's folder."""
    from interp.planted.models import load_planted_model
    from interp.planted.tasks import load_planted_task
    from interp.prompts.prompt_file import write_prompt_file
    from interp.runs.discover import discover

    folder = tmp_path_factory.mktemp("made")
    discover(PLANTED, n=6).save(folder / "run")
    tokenizer = load_planted_model(PLANTED).tokenizer
    write_prompt_file(load_planted_task(PLANTED).sample(tokenizer, 9), folder / "own.json", tokenizer)
    (folder / "texts.txt").write_text("the store\n")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    return folder


WHAT_IS_READ = {
    "prompts by a result": ("discover", "own.json", "--model", PLANTED, "--json", "own.json"),
    "prompts by circuits": ("grow", "own.json", "--model", PLANTED, "--out", "own.json"),
    "prompts by fewer": ("tasks", "export", "own.json", "own.json", "-n", "5"),
    "a run by its graph": ("export", "run", "--out", "run/run.json"),
    "a run by another's result": ("discover", PLANTED, "-n", "6", "--out", "new", "--json", "run/run.json"),
    "a run by a reference": ("reference", PLANTED, "--out", "run/scores.safetensors"),
    "a model by a reference": ("reference", PLANTED, "--out", "model/model.safetensors"),
    "texts by texts": ("steer", "--like", "texts.txt", "--json", "texts.txt"),
}


@pytest.mark.parametrize("words", WHAT_IS_READ.values(), ids=WHAT_IS_READ)
def test_what_is_read_and_what_belongs_to_results_is_not_replaced(command, made, monkeypatch, words):
    monkeypatch.chdir(made)
    before = tree(made)
    refused = command(*words)
    assert refused.code == 2
    written = "own.json" if "own.json" in words else words[-1]
    assert written in refused.error
    assert "is what is read" in refused.error or "is part of a" in refused.error
    assert tree(made) == before


def test_results_in_a_folder_that_only_looks_like_one_of_ours_are_replaced(command):
    for name in ("config.json", "result.json", "run.json", "mine.json"):
        Path(name).write_text("{}")
    long = Path("y" * 250)
    long.mkdir()
    for out in ("mine.json", str(long / "mine.json")):
        done = command("tasks", "export", PLANTED, out, "-n", "6")
        assert done.code == 0, done.err


def test_a_class_of_one_s_own_replaces_its_own_run_and_no_other(command):
    source = (
        "from interp.planted.tasks import load_planted_task\nmine = load_planted_task('planted-induction')\n"
    )
    for place in ("one.py", "two.py"):
        Path(place).write_text(source)
    words = ("discover", "one.py:mine", "--model", PLANTED, "-n", "6")
    assert "replaces" not in command(*words).out
    assert "replaces the earlier run" in command(*words).out
    assert "replaces" not in command("discover", "two.py:mine", *words[2:]).out


def test_a_link_is_followed_and_not_replaced(command):
    Path("there").mkdir()
    Path("latest.json").symlink_to("there/result.json")
    Path("linked").symlink_to("there/run")
    Path("there/run").mkdir()
    done = command("discover", PLANTED, "-n", "6", "--out", "linked", "--json", "latest.json")
    assert done.code == 0, done.err
    assert Path("latest.json").is_symlink() and Path("there/result.json").is_file()
    assert Path("linked").is_symlink() and Run.load("there/run").result["n_pairs"] == 6


def test_what_cannot_be_written_is_told_before_anything_is_run(command, monkeypatch):
    def load(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("interp.models.load_model", load)
    Path("dangling").symlink_to("nowhere")
    os.mkfifo("pipe")
    long = "x" * 250
    for words, part in (
        (("--out", "dangling"), "nowhere, which is not there"),
        (("--json", "pipe"), "--json pipe is a device or a pipe"),
        (("--out", long), "a name may have"),
        (("--json", f"{long}.json"), "a name may have"),
    ):
        refused = command("discover", PLANTED, *words)
        assert refused.code == 2 and part in refused.error


CONTRADICTIONS = {
    "threshold": (("--set", "threshold=0.5", "--threshold", "0.1"), "--threshold 0.1: give one"),
    "mlps": (("--method", "patching", "--set", "mlps=false", "--mlps"), "--mlps: give one"),
    "heads alone": (("--method", "hisp", "--mlps"), "'hisp' scores heads alone"),
}


@pytest.mark.parametrize(("words", "part"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_options_that_contradict_each_other_are_refused(command, words, part):
    refused = command("discover", PLANTED, "-n", "6", *words)
    assert refused.code == 2 and part in refused.error


def test_a_method_may_draw_by_another_seed_than_prompts_do(command):
    words = ("discover", PLANTED, "-n", "6", "--seed", "3")
    assert (
        command(*words, "--out", "a").code == 0 and command(*words, "--set", "seed=5", "--out", "b").code == 0
    )
    a, b = (Run.load(name).result for name in "ab")
    assert a["provenance"]["pairs"]["digest"] == b["provenance"]["pairs"]["digest"]
    assert (a["settings"]["config"]["seed"], b["settings"]["config"]["seed"]) == (3, 5)


def test_a_method_s_own_batch_size_is_used_unless_another_is_given(command):
    assert command("discover", PLANTED, "-n", "6", "--method", "eap").code == 0
    assert Run.load(f"runs/{PLANTED}-eap").result["settings"]["config"]["batch_size"] == 8


def test_grow_leaves_enough_of_a_short_file_and_says_what_is_too_short(command, made):
    done = command("grow", str(made / "own.json"), "--model", PLANTED)
    assert done.code == 0, done.err
    refused = command("grow", str(made / "own.json"), "--model", PLANTED, "-n", "5")
    assert refused.code == 2 and "so use fewer (-n)" in refused.error


def test_a_table_that_gives_way_to_a_smaller_one_can_be_had_again_from_its_command(command):
    def bench(methods: str) -> str:
        words = ("--tasks", PLANTED, "--methods", methods, "--pairs", "5", "--seeds", "1", "--out", "of mine")
        return command("bench", *words).out

    assert "before " not in bench("random,layer-index") and "before " not in bench("layer-index,random")
    table = json.loads(Path("of mine/bench.json").read_text())
    [line] = [line for line in bench("random").splitlines() if line.startswith("before ")]
    words = shlex.split(line.removeprefix("before").partition("#")[0])
    assert command(*words[1:]).code == 0
    again = json.loads(Path("of mine/bench.json").read_text())
    assert again["table"] == table["table"]
    Path("of mine/bench.json").write_text("[")
    assert "before " not in bench("random")


def test_the_workbench_is_offered_with_the_folder_in_which_a_result_lies(command, made, monkeypatch):
    def offered(run: str) -> list[str]:
        [words] = command("report", run).following
        return words

    shutil.copytree(made / "run", "runs/a run")
    shutil.copytree(made / "run", "of mine/b")
    assert offered("runs/a run") == ["app"] and offered("of mine/b") == ["app", "--runs", "of mine"]
    both = command("compare", "runs/a run", "of mine/b")
    assert both.code == 0 and both.following == []  # no one folder has them
    assert command("compare", "runs/a run", "runs/a run").following == [["app"]]
    monkeypatch.setenv("INTERP_RUNS", "of mine")
    assert offered("of mine/b") == ["app"] and offered("runs/a run") == ["app", "--runs", "runs"]
    monkeypatch.chdir("of mine/b")
    assert offered(".") == ["app", "--runs", str(Path.cwd().parent)]


def test_the_workbench_says_what_it_cannot_listen_on_or_show(command, made):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"--port {port} is in use" in command("app", "--port", port).error
    assert "there is no such address" in command("app", "--host", "foo.invalid").err
    assert "texts.txt is a file" in command("app", "--runs", str(made / "texts.txt")).error


def test_a_terminal_of_no_width_is_written_to_all_the_same(monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    assert plain_console().width == 80


def _shell(line: str) -> subprocess.CompletedProcess:
    interp = f"{sys.executable} -m interp.cli.main"
    words = ["bash", "-c", f"set -o pipefail; {line.replace('interp', interp)}"]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | ONE_THREAD)


def test_a_reader_that_leaves_and_a_closed_output_are_no_failure_of_ours():
    assert _shell("interp tasks | true").returncode in (0, 141)  # 0 if all was written before
    closed = _shell("interp tasks >&-")
    assert closed.returncode == 0 and closed.stderr == ""
