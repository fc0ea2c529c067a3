"""What commands write: nothing that somebody would miss is replaced, and what cannot be written is told first."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from interp.bottlenecks.store import PRETRAINED
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
    run = find_circuit(PLANTED, PLANTED, n=6)
    run.save(folder / "run")
    (run.save(folder / "noted") / "notes.txt").write_text("precious")
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
        *("books/m0/weights.safetensors", "books/a0/cfg.json", "index/ids.npy", "begun/.work/request.json"),
        "bench/task/method/pool.safetensors",
    ):
        write_text(folder / part, "of a result")
    return folder


LONG = "x" * 250
EXISTS = [
    f"discover own.json --model {PLANTED} --json own.json",  # prompts by a result, and so on
    f"grow own.json --model {PLANTED} --out own.json",
    "tasks export own.json own.json -n 5",
    f"reference {PLANTED} --out model/model.safetensors",
    "steer --positive texts.txt --json texts.txt",
    f"discover {PLANTED} --json dangling",
    f"tasks export {PLANTED} loop.json",
    f"discover {PLANTED} --json pipe",
    f"discover {PLANTED} --out model",
    f"discover {PLANTED} --out {LONG}",
]
WITHIN = [
    "export run --out run/run.json",
    f"discover {PLANTED} -n 6 --out new --json run/run.json",
    f"reference {PLANTED} --out run/scores.safetensors",
    f"reference {PLANTED} --out books/m0/weights.safetensors",
    f"discover {PLANTED} --json books/a0/cfg.json",
    f"grow {PLANTED} --out index/ids.npy",
    f"reference {PLANTED} --out begun/a0/weights.safetensors",  # codebooks that are being fitted
    "codebook fit --out bench",
    f"codebook pack {SHIPPED} --out index",
    "bench --out run",
    f"discover {PLANTED} --out books",
    f"codebook eval {SHIPPED}",  # the package
    f"discover {PLANTED} --json {SHIPPED.parent}/new.json",
    f"discover {PLANTED} -n 6 --out noted",  # a run beside which somebody put notes
]


@pytest.mark.parametrize("words", EXISTS)
def test_what_exists_is_not_replaced(command, made, monkeypatch, words):
    monkeypatch.chdir(made)
    before = tree(made)
    assert words.split()[-1] in command(*words.split()).error or words.startswith("tasks")
    assert tree(made) == before


@pytest.mark.parametrize("words", WITHIN)
def test_nothing_is_written_into_a_result_or_the_package(command, made, monkeypatch, words):
    monkeypatch.chdir(made)
    before, shipped = tree(made), {path: path.stat().st_mtime for path in SHIPPED.parent.rglob("*")}
    for overwrite in ((), ("--overwrite",)):
        refused = command(*words.split(), *overwrite)
        assert refused.code == 2 and refused.error
    assert tree(made) == before
    assert {path: path.stat().st_mtime for path in SHIPPED.parent.rglob("*")} == shipped


MAKERS = {
    f"discover {PLANTED} --no-program --candidates 9 --out new": "new/run.json",
    f"discover {PLANTED} --no-program --json new.json --out": "new.json",
    f"grow {PLANTED} --out new.json": "new.json",
    f"reference {PLANTED} --out new.safetensors": "new.safetensors",
}


@pytest.mark.parametrize(("words", "file"), MAKERS.items())
def test_a_result_is_replaced_by_the_same_request_or_with_overwrite(command, words, file):
    def run(n: str, *more: str, out: str) -> int:
        return command(*words.split(), *[out] * words.endswith("--out"), "-n", n, *more).code

    assert run("8", out="a") == 0
    assert run("8", "--batch-size", "7", out="b") == 0  # no part of the request
    again = Path(file).read_bytes()
    for other in (("7",), ("8", "--seed", "5"), ("8", "--no-bos")):
        assert run(*other, out="c") == 2 and Path(file).read_bytes() == again
    assert run("7", "--overwrite", out="c") == 0 and Path(file).read_bytes() != again


def test_codebooks_go_on_and_are_replaced_with_overwrite_alone(command, tiny_model_folder):
    things = (f"{i} of the things that a store has, and {i * i}" for i in range(300))
    Path("text.txt").write_text("\n\n".join(things))
    line = "--sites m0 --codes 8 --k 1 --data text.txt --tokens 256 --context 16 --out books"
    words = ("codebook", "fit", "--model", str(tiny_model_folder("llama")), *line.split())
    quality = ("codebook", "eval", "books", "--data", "text.txt", "--tokens", "64", "--controls", "0")
    for same in (words, quality):
        assert command(*same).code == 0
        first = tree(Path("books"))
        assert command(*same).code == 0 and (same == quality or tree(Path("books")) == first)
        assert command(*same, "--seed", "3").code == 2
        assert command(*same, "--seed", "3", "--overwrite").code == 0 and tree(Path("books")) != first


def test_files_that_only_have_the_name_of_a_marker_forbid_nothing(command):
    for name in ("manifest.json", "run.json", "result.json", "bench.json"):
        Path(name).write_text("{}")
    assert command("tasks", "export", PLANTED, "mine.json", "-n", "6").code == 0


def test_a_link_is_followed_and_not_replaced(command):
    words = ("discover", PLANTED, "-n", "6", "--no-program", "--out", "linked", "--json", "latest.json")
    assert command(*words[:5], "--out", "there/run", "--json", "there/result.json").code == 0
    Path("latest.json").symlink_to("there/result.json")
    Path("linked").symlink_to("there/run")
    assert command(*words).code == 0
    assert Path("latest.json").is_symlink() and Path("there/result.json").is_file()
    assert Path("linked").is_symlink() and Run.load("there/run").n_pairs == 6


def test_a_table_gives_way_to_one_that_has_all_of_it(command):
    def bench(methods: str, *more: str) -> int:
        words = ("--tasks", PLANTED, "--methods", methods, "--pairs", "5", "--seeds", "1")
        return command("bench", *words, *more).code

    assert bench("layer-index") == 0 and bench("random,layer-index") == 0
    assert bench("random") == 2 and bench("random", "--overwrite") == 0
    Path("runs/bench/bench.json").write_text("[")
    assert bench("layer-index") == 0


def test_the_workbench_says_what_it_cannot_listen_on(command):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"--port {port} is in use" in command("app", "--port", port).error
    assert "there is no such address" in command("app", "--host", "foo.invalid").err


def test_a_reader_that_leaves_a_closed_output_and_few_characters_are_no_failure_of_ours():
    def shell(line: str) -> subprocess.CompletedProcess:
        line = line.replace("interp", f"{sys.executable} -m interp.cli.main")
        words = ["bash", "-c", f"set -o pipefail; {line}"]
        return subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | ONE_THREAD)

    assert shell("interp tasks | true").returncode in (0, 141)  # 0 if all was written before
    for line in ("interp tasks >&-", "PYTHONIOENCODING=ascii interp tasks"):
        done = shell(line)
        assert done.returncode == 0 and done.stderr == ""
    assert "greater-than" in done.stdout
