"""Damaged runs, full disks, interrupts, too little memory: one line, and an earlier result stays as it was."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

import interp
from interp.planted.models import load_planted_model
from interp.planted.tasks import load_planted_task
from interp.runs.run import ARRAYS, RESULT, Run
from tests.command_line import ONE_THREAD, Outcome, tree

PLANTED = "planted-induction"
DISCOVER = ("discover", PLANTED, "-n", "8")
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def finished() -> Run:
    return interp.find_circuit(PLANTED, PLANTED, n=8)


DAMAGE = {
    "cut result": (lambda f: (f / RESULT).write_text((f / RESULT).read_text()[:300]), "damaged"),
    "empty result": (lambda f: (f / RESULT).write_text(""), "damaged"),
    "other JSON": (lambda f: (f / RESULT).write_text('{"format": 2}'), "model"),
    "newer format": (lambda f: (f / RESULT).write_text('{"format": 3}'), "format"),
    "noise for arrays": (lambda f: (f / ARRAYS).write_bytes(b"noise" * 99), "damaged"),
    "no arrays": (lambda f: (f / ARRAYS).unlink(), "damaged"),
    "heads no list": (lambda f: _change(f, heads=3), "heads"),
    "heads cut": (lambda f: _change(f, heads=[{"site": "a0.h0"}]), "heads"),
    "metric cut": (lambda f: _change(f, metric={"clean": 1.0}), "metric"),
    "edges cut": (lambda f: _change(f, edges=[{"sender": "a0.h0"}]), "edges"),
}


def _change(folder: Path, **values) -> None:
    result = json.loads((folder / RESULT).read_text())
    (folder / RESULT).write_text(json.dumps({**result, **values}))


@pytest.mark.parametrize(("damage", "part"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_run_is_named_with_its_fault(command, finished, tmp_path, damage, part):
    good, bad = finished.save(tmp_path / "good"), finished.save(tmp_path / "bad", report="the old report")
    damage(bad)
    before = tree(tmp_path)
    for words in (("report", str(bad)), ("compare", str(good), str(bad)), ("compare", str(bad), str(good))):
        outcome = command(*words)
        assert outcome.code == 2 and part in outcome.error and "bad" in outcome.error
    assert tree(tmp_path) == before


def test_runs_on_models_of_other_shapes_cannot_be_compared(command, finished, tmp_path):
    finished.save(tmp_path / "a")
    assert command("discover", "planted-backup", "-n", "8", "--out", "b").code == 0
    outcome = command("compare", "a", "b")
    assert outcome.code == 2 and "one shape" in outcome.error


def _full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _full_safetensors(*_args, **_kwargs):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


FAILURES = {
    "arrays": ("interp.runs.run.save_file", _full_safetensors),
    "text": ("interp.runs.run.write_text", _full),
    "renaming": ("interp.runs.run._replace", _full),
}


@pytest.mark.parametrize(("where", "failure"), FAILURES.values(), ids=FAILURES)
def test_a_disk_that_fills_up_leaves_the_earlier_run_and_nothing_else(
    command, finished, tmp_path, monkeypatch, where, failure
):
    finished.save(tmp_path / "run", report="the old report")
    before = tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(where, failure)
        outcome = command(*DISCOVER, "--seed", "5", "--out", "run", "--overwrite")
    assert outcome.code == 1
    assert "No space left on device" in outcome.error and "an earlier result stays" in outcome.error
    assert tree(tmp_path) == before


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 64 kB with nothing free."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        with pytest.raises(OSError, match="No space"), (place / "filler").open("wb") as file:
            file.write(bytes(1 << 20))
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_one_line_and_nothing_half_written_is_left(command, full_disk):
    for option in ("--out", "--json"):
        outcome = command(*DISCOVER, option, str(full_disk / "mine"))
        assert outcome.code == 1 and "No space left on device" in outcome.error
    assert [path.name for path in full_disk.iterdir()] == ["filler"]


def test_an_interrupt_between_the_two_renames_keeps_the_earlier_run(command, finished, tmp_path, monkeypatch):
    finished.save(tmp_path / "run", report="the old report")
    before, rename = tree(tmp_path), Path.rename

    def interrupted(self, target):
        if self.name.startswith(".run.") and Path(target).name == "run":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        outcome = command(*DISCOVER, "--seed", "5", "--out", "run", "--overwrite")
    assert outcome.code == 130 and "interrupted" in outcome.error
    assert tree(tmp_path) == before


ENDLESS = """
from pathlib import Path
from interp.planted.tasks import load_planted_task
from interp.prompts.pairs import PromptPairs

class Endless:
    name, metric, roles, counterfactuals, default_n = "endless", "logit_diff", ("END",), ("random",), 100_000

    def sample(self, tokenizer, n, seed=0, counterfactual=None, *, bos=True):
        pairs = load_planted_task("planted-induction").sample(tokenizer, 10, seed, bos=bos)
        Path("sampled").touch()
        return pairs.subset([i % 10 for i in range(n)])
"""


def test_ctrl_c_in_the_middle_leaves_the_earlier_run_and_nothing_else(finished, tmp_path):
    (tmp_path / "endless.py").write_text(ENDLESS)
    finished.save(tmp_path / "run", report="the old report")
    before = tree(tmp_path)
    words = [
        "discover",
        "endless.py:Endless",
        "--model",
        PLANTED,
        "--method",
        "patching",
        "--out",
        "run",
        "--overwrite",
    ]
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "interp.cli.main", *words, "--json", "mine.json"],
        env=os.environ | ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job, as CI may be, ignores Ctrl-C, and its children with it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "sampled").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None and (tmp_path / "sampled").exists()
        time.sleep(0.5)  # well into the forward passes, which would take minutes
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert Outcome(process.returncode, out, err).error.startswith("error: interrupted")
    assert out == ""
    (tmp_path / "sampled").unlink()
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "message", ["CUDA out of memory. Tried to allocate 2 GiB", "can't allocate memory: 9 GB"]
)
def test_running_out_of_memory_says_what_to_try(command, tmp_path, monkeypatch, message):
    def fail(*_args, **_kwargs):
        raise RuntimeError(message)

    monkeypatch.setattr("interp.runs.discover.run_search", fail)
    outcome = command(*DISCOVER)
    assert outcome.code == 1 and "--batch-size" in outcome.error
    assert list(tmp_path.iterdir()) == []


def test_a_bug_of_ours_is_not_dressed_up(command, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("the axes do not fit")

    monkeypatch.setattr("interp.runs.discover.run_search", fail)
    with pytest.raises(RuntimeError, match="axes"):
        command(*DISCOVER)


@pytest.mark.parametrize(
    "where", ["interp.scores.patching.save_file", "interp.circuits.references.save_file"]
)
def test_a_disk_that_fills_up_under_a_long_command_is_one_line(command, monkeypatch, where):
    monkeypatch.setattr(where, _full_safetensors)
    outcome = command("reference", PLANTED, "-n", "8")
    assert outcome.code == 1 and "No space left on device" in outcome.error
    assert "Traceback" not in outcome.err


def test_a_reference_does_not_replace_one_that_was_measured_before(command):
    for seed in ("0", "1"):
        assert command("reference", PLANTED, "-n", "8", "--seed", seed).code == 0
    found = sorted(path.name for path in Path("references").iterdir())
    assert found == [
        f"measured-{PLANTED}-{PLANTED}-2.safetensors",
        f"measured-{PLANTED}-{PLANTED}.safetensors",
    ]


@pytest.mark.parametrize("words", [("tasks", "show"), ("reference",), ("grow",), ("discover",)])
def test_prompts_longer_than_the_model_reads_are_one_line(command, words):
    model = load_planted_model(PLANTED)
    (pair,) = load_planted_task(PLANTED).sample(model.tokenizer, 1, 0)
    answers = {
        name: [model.tokenizer.decode(i) for i in getattr(pair, name)]
        for name in ("answers", "wrong_answers")
    }
    prompts = []
    for more in range(6):
        prompts.append(answers.copy())
        for side in ("clean", "corrupt"):
            first, *rest = getattr(pair, side).split()
            prompts[-1][side] = " ".join([first] * (model.cfg.n_ctx + more) + rest)
    Path("long.json").write_text(json.dumps({"prompts": prompts}), encoding="utf-8")
    outcome = command(*words, "long.json", "--model", PLANTED, "-n", "5")
    assert outcome.code == 2 and f"the model reads at most {model.cfg.n_ctx}" in outcome.error
