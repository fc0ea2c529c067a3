"""Damaged runs, full disks, interrupts, too little memory: one line, and an earlier result stays as it was."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

import interp
from interp.runs.folder import RESULT
from interp.runs.run import Run
from tests.command_line import ONE_THREAD, Outcome, tree

PLANTED = "planted-induction"
DISCOVER = ("discover", PLANTED, "-n", "8", "--no-program")
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def finished() -> Run:
    return interp.find_circuit(PLANTED, PLANTED, n=8)


def test_a_damaged_run_is_named_with_its_fault_and_stays(command, finished, tmp_path):
    good, bad = finished.save(tmp_path / "good"), finished.save(tmp_path / "bad", report="the old report")
    (bad / RESULT).write_text((bad / RESULT).read_text()[:300])
    before = tree(tmp_path)
    for words in (("report", str(bad)), ("compare", str(good), str(bad)), ("compare", str(bad), str(good))):
        outcome = command(*words)
        assert outcome.code == 2 and "damaged" in outcome.error and "bad" in outcome.error
    assert tree(tmp_path) == before


def _full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _full_safetensors(*_args, **_kwargs):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


FAILURES = {
    "arrays": ("interp.runs.folder.save_file", _full_safetensors),
    "text": ("interp.runs.folder.write_text", _full),
    "renaming": ("interp.runs.folder._replace", _full),
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


def test_an_interrupt_between_the_two_renames_keeps_the_earlier_run(command, finished, tmp_path, monkeypatch):
    finished.save(tmp_path / "run", report="the old report")
    before, rename = tree(tmp_path), Path.rename

    def interrupted(self, target):
        if self.name == Path(target).name == "run" and not Path(target).exists():
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
    words = f"discover endless.py:Endless --model {PLANTED} --method patching --out run --overwrite --json mine.json"
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "interp.cli.main", *words.split()],
        env=os.environ | ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job, as CI may be, ignores Ctrl-C, and its children with it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        deadline = time.monotonic() + 300
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


def test_running_out_of_memory_says_what_to_try_and_a_bug_of_ours_is_not_dressed_up(command, monkeypatch):
    messages = ["the axes do not fit", "can't allocate memory: 9 GB", "CUDA out of memory. Tried 2 GiB"]

    def fail(*_args, **_kwargs):
        raise RuntimeError(messages.pop())

    monkeypatch.setattr("interp.runs.discover.run_search", fail)
    for _ in range(2):
        outcome = command(*DISCOVER)
        assert outcome.code == 1 and "--batch-size" in outcome.error and list(Path().iterdir()) == []
    with pytest.raises(RuntimeError, match="axes"):
        command(*DISCOVER)


@pytest.mark.parametrize("module", ["interp.interventions.effects", "interp.circuits.references"])
def test_a_disk_that_fills_up_under_a_long_command_is_one_line(command, monkeypatch, module):
    monkeypatch.setattr(f"{module}.save_file", _full_safetensors)
    outcome = command("reference", PLANTED, "-n", "8")
    assert outcome.code == 1 and "No space left on device" in outcome.error


def test_a_reference_does_not_replace_one_that_was_measured_before(command):
    for seed in ("0", "1", "0"):
        assert command("reference", PLANTED, "-n", "8", "--seed", seed).code == 0
    names = {f"measured-{PLANTED}-{PLANTED}-n8{more}.safetensors" for more in ("", "-2", "-seed1")}
    assert {path.name for path in Path("references").glob("*.safetensors")} == names
