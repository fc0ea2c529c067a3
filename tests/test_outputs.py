"""What commands write: nothing that somebody would miss is replaced, and what cannot be written is told first."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from interp.bottlenecks.store import PRETRAINED
from interp.cli.terminal import plain_console
from interp.files import write_json, write_text
from interp.runs.run import Run
from tests.command_line import ONE_THREAD, tree

PLANTED = "planted-induction"
SHIPPED = next(PRETRAINED.glob("*k1"))
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a run, a prompt file and a model's folder."""
    from interp.planted.models import load_planted_model
    from interp.planted.tasks import load_planted_task
    from interp.prompts.prompt_file import write_prompt_file
    from interp.runs.discover import find_circuit

    folder = tmp_path_factory.mktemp("made")
    find_circuit(PLANTED, PLANTED, n=6).save(folder / "run")
    tokenizer = load_planted_model(PLANTED).tokenizer
    write_prompt_file(load_planted_task(PLANTED).sample(tokenizer, 9), folder / "own.json", tokenizer)
    (folder / "texts.txt").write_text("the store\n")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop.json").symlink_to("loop.json")
    os.mkfifo(folder / "pipe")
    for name, keys in (("books", ("format", "sites")), ("index", ("format", "layout"))):
        write_json(folder / name / "manifest.json", dict.fromkeys(keys, 1))
    write_json(folder / "bench" / "bench.json", {"format": 1})
    for part in (
        "books/m0/weights.safetensors",
        "books/a0/cfg.json",
        "index/ids.npy",
        "begun/.work/request.json",
    ):
        write_text(folder / part, "of a result")
    write_text(folder / "bench" / "task" / "method" / "pool.safetensors", "of a result")
    return folder


EXISTS = {
    "prompts by a result": ("discover", "own.json", "--model", PLANTED, "--json", "own.json"),
    "prompts by circuits": ("grow", "own.json", "--model", PLANTED, "--out", "own.json"),
    "prompts by fewer": ("tasks", "export", "own.json", "own.json", "-n", "5"),
    "weights by a reference": ("reference", PLANTED, "--out", "model/model.safetensors"),
    "texts by texts": ("steer", "--positive", "texts.txt", "--json", "texts.txt"),
    "a link that leads nowhere": ("discover", PLANTED, "--json", "dangling"),
    "a link to itself": ("tasks", "export", PLANTED, "loop.json"),
    "a pipe": ("discover", PLANTED, "--json", "pipe"),
    "a folder": ("grow", PLANTED, "--out", "model"),
    "a file by a run": ("discover", PLANTED, "--out", "own.json"),
    "a folder by a run": ("discover", PLANTED, "--out", "model"),
    "nothing with a name": ("discover", PLANTED, "--json", f"{'x' * 250}.json"),
    "nothing with a folder's name": ("discover", PLANTED, "--out", "x" * 250),
}
WITHIN = {
    "a run's result": ("export", "run", "--out", "run/run.json"),
    "a run's result by another's": ("discover", PLANTED, "-n", "6", "--out", "new", "--json", "run/run.json"),
    "a run's scores": ("reference", PLANTED, "--out", "run/scores.safetensors"),
    "a new file in a run": ("grow", PLANTED, "--out", "run/sub/grown.json"),
    "a codebook": ("reference", PLANTED, "--out", "books/m0/weights.safetensors"),
    "a codebook's settings": ("discover", PLANTED, "--json", "books/a0/cfg.json"),
    "an index's codes": ("grow", PLANTED, "--out", "index/ids.npy"),
    "codebooks that are being fitted": ("reference", PLANTED, "--out", "begun/a0/weights.safetensors"),
    "a bench's scores": ("reference", PLANTED, "--out", "bench/task/method/pool.safetensors"),
    "a bench by codebooks": ("codebook", "fit", "--out", "bench"),
    "codebooks by an index": ("index", "build", "--out", "books"),
    "an index by codebooks": ("codebook", "pack", str(SHIPPED), "--out", "index"),
    "a run by a bench": ("bench", "--out", "run"),
    "codebooks by a run": ("discover", PLANTED, "--out", "books"),
    "the package's codebooks": ("codebook", "eval", str(SHIPPED)),
    "the package": ("discover", PLANTED, "--json", str(SHIPPED.parent / "new.json")),
}


@pytest.mark.parametrize("words", EXISTS.values(), ids=EXISTS)
def test_what_exists_is_not_replaced(command, made, monkeypatch, words):
    monkeypatch.chdir(made)
    before = tree(made)
    assert words[-1] in command(*words).error or words[0] == "tasks"
    assert tree(made) == before


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=["", "overwrite"])
@pytest.mark.parametrize("words", WITHIN.values(), ids=WITHIN)
def test_nothing_is_written_into_a_result_or_the_package(command, made, monkeypatch, words, overwrite):
    monkeypatch.chdir(made)
    before, shipped = tree(made), {path: path.stat().st_mtime for path in SHIPPED.parent.rglob("*")}
    refused = command(*words, *overwrite)
    assert refused.code == 2 and refused.error
    assert tree(made) == before
    assert {path: path.stat().st_mtime for path in SHIPPED.parent.rglob("*")} == shipped


MAKERS = {
    "discover": (("discover", PLANTED, "--candidates", "9", "--out", "new"), "new/run.json"),
    "discover --json": (("discover", PLANTED, "--json", "new.json", "--out"), "new.json"),
    "grow": (("grow", PLANTED, "--out", "new.json"), "new.json"),
    "reference": (("reference", PLANTED, "--out", "new.safetensors"), "new.safetensors"),
}


@pytest.mark.parametrize(("words", "file"), MAKERS.values(), ids=MAKERS)
def test_a_result_is_replaced_by_the_same_request_or_with_overwrite(command, words, file):
    def run(n: str, *more: str, out: str) -> int:
        return command(*words, *[out] * (words[-1] == "--out"), "-n", n, *more).code

    assert run("8", out="a") == 0
    first = Path(file).read_bytes()
    assert run("8", "--batch-size", "7", out="b") == 0  # no part of the request
    again = Path(file).read_bytes()
    assert (
        run("7", out="c") == 2
        and run("8", "--seed", "5", out="c") == 2
        and run("8", "--no-bos", out="c") == 2
    )
    assert Path(file).read_bytes() == again and len(first) > 99
    assert run("7", "--overwrite", out="c") == 0
    assert Path(file).read_bytes() != again


def test_codebooks_go_on_and_are_replaced_with_overwrite_alone(command, tiny_model_folder):
    Path("text.txt").write_text(
        "\n\n".join(f"{i} of the things that a store has, and {i * i}" for i in range(300))
    )
    model = str(tiny_model_folder("llama"))
    line = (
        f"codebook fit --model {model} --sites m0 --codes 8 --k 1 --data text.txt --tokens 256 --context 16"
    )
    words = (*line.split(), "--out", "books")
    assert command(*words).code == 0
    first = tree(Path("books"))
    assert command(*words).code == 0 and tree(Path("books")) == first
    assert command(*words, "--seed", "3").code == 2 and tree(Path("books")) == first
    assert command(*words, "--seed", "3", "--overwrite").code == 0 and tree(Path("books")) != first
    quality = ("codebook", "eval", "books", "--data", "text.txt", "--tokens", "64", "--controls", "0")
    assert command(*quality).code == 0 and command(*quality).code == 0
    assert (
        command(*quality, "--seed", "3").code == 2
        and command(*quality, "--seed", "3", "--overwrite").code == 0
    )


def test_files_that_only_have_the_name_of_a_marker_forbid_nothing(command):
    for name in ("manifest.json", "run.json", "result.json", "bench.json"):
        Path(name).write_text("{}")
    assert command("tasks", "export", PLANTED, "mine.json", "-n", "6").code == 0


def test_a_link_is_followed_and_not_replaced(command):
    words = ("discover", PLANTED, "-n", "6", "--out", "linked", "--json", "latest.json")
    assert command(*words[:4], "--out", "there/run", "--json", "there/result.json").code == 0
    Path("latest.json").symlink_to("there/result.json")
    Path("linked").symlink_to("there/run")
    assert command(*words).code == 0
    assert Path("latest.json").is_symlink() and Path("there/result.json").is_file()
    assert Path("linked").is_symlink() and Run.load("there/run").n_pairs == 6


CONTRADICTIONS = {
    "threshold": (("--set", "threshold=0.5"), "say --threshold"),
    "mlps": (("--method", "patching", "--set", "mlps=false"), "say --mlps"),
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
    a, b = (Run.load(name) for name in "ab")
    assert a.provenance.pairs == b.provenance.pairs
    assert (a.settings.config["seed"], b.settings.config["seed"]) == (3, 5)


def test_a_method_s_own_batch_size_is_used_unless_another_is_given(command):
    assert command("discover", PLANTED, "-n", "6", "--method", "eap").code == 0
    assert Run.load(f"runs/{PLANTED}-eap").settings.config["batch_size"] == 8


def test_grow_leaves_enough_of_a_short_file_and_says_what_is_too_short(command, made):
    done = command("grow", str(made / "own.json"), "--model", PLANTED)
    assert done.code == 0, done.err
    refused = command("grow", str(made / "own.json"), "--model", PLANTED, "-n", "5")
    assert refused.code == 2 and "so use fewer (-n)" in refused.error


def test_a_table_gives_way_to_one_that_has_all_of_it(command):
    def bench(methods: str, *more: str) -> int:
        words = ("--tasks", PLANTED, "--methods", methods, "--pairs", "5", "--seeds", "1", "--out", "of mine")
        return command("bench", *words, *more).code

    assert bench("layer-index") == 0 and bench("random,layer-index") == 0
    assert bench("random") == 2 and bench("random", "--overwrite") == 0
    Path("of mine/bench.json").write_text("[")
    assert bench("layer-index") == 0


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
