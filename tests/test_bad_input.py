"""A user's mistake ends in one line that names the value and what to do, before anything is written."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

import interp.runs.discover  # noqa: F401 - with all that it imports, before any test replaces load_model
from interp.models import load_model
from tests.command_line import tree
from tests.models.tiny_gguf import make_llama, write_gguf
from tests.tiny_models import make_tokenizer

PLANTED = "planted-induction"
DISCOVER = ("discover", PLANTED, "-n", "8", "--no-program")
pytestmark = pytest.mark.usefixtures("elsewhere")

DEEP = "[" * 50_000 + "]" * 50_000
BEFORE_LOADING = [
    ("discover nope", "'nope'", "ioi", "docstring"),
    ("discover mine.py:Task", "mine.py: no such file"),
    ("discover caf\udce9.json", r"argument 'caf\udce9.json' is no UTF-8 text"),
    ("discover", "Missing argument", "interp discover --help"),
    ("discover ioi --modle x", "--modle", "--model"),
    ("discover ioi --method saliency", "'saliency'", "attribution", "patching"),
    ("discover ioi -n 100001", "--n", "100000"),
    ("bench --methods ,", "--methods", "',' names nothing"),
    ("discover pipe.json", "pipe.json", "no regular file"),
    ("discover deep.json", "deep.json"),
    ("discover ioi --reference deep.safetensors", "deep.safetensors", "nested too deeply"),
    ("discover ioi -n 4", "n 4", "at least 5"),
    ("discover ioi --threshold nan", "--threshold"),
    ("discover ioi --device tpu", "'tpu'", "cpu, cuda"),
    ("discover ioi --set n_codes", "'n_codes'", "key=value"),
    ("discover ioi --set batch_size=0", "batch_size=0", "--batch-size"),
    ("discover ioi --set threshold=0.5", "say --threshold"),
    ("discover ioi --method patching --set mlps=false", "say --mlps"),
    ("discover ioi --method hisp --mlps", "'hisp' scores heads alone"),
    ("discover ioi --method overlap --set epochs=x", "epochs='x'", "int"),
    ("discover ioi --out file", "--out file"),
    ("discover ioi --out folder", "--out folder", "thesis.tex"),
    ("discover ioi --out file/run", "--out file/run", "Not a directory"),
    ("discover ioi --out /proc/none/run", "/proc/none/run", "nothing can be"),
    ("discover ioi --json folder", "--json folder"),
    ("discover ioi --out mine --json mine/result.json", "--json mine/result.json"),
    ("reference ioi/wang --out x.safetensors", "ioi/wang is a reference"),
    ("reference noise.safetensors", "noise.safetensors"),
    ("reference ioi --out ioi.json", "--out ioi.json", ".safetensors"),
    ("steer --vector v.gguf --random-baseline", "--random-baseline", "--topic"),
    ("steer --topic fire --export v.pt", "v.pt", ".safetensors"),
    ("steer --topic fire --when token:a --export v.gguf", "--when", "control vector"),
    ("index export x --out x.csv", "x.csv", ".parquet"),
    ("tasks export ioi full.json", "full.json"),
    ("report none", "none is not a run folder", "interp discover"),
    ("compare folder folder", "folder is not a run folder"),
    ("app --port 0", "--port"),
    ("bench --tasks planted-induction --pairs 999", "999 pairs", "pool of 300"),
    ("codebook eval nowhere --controls 1", "an interval needs at least 2 blocks"),
    ("index search nowhere", "choose one of --regex"),
    ("app --runs file", "file is a file"),
]


@pytest.mark.parametrize(("words", "parts"), [(words, parts) for words, *parts in BEFORE_LOADING])
def test_what_can_be_told_without_a_model_is_told_before_one_is_loaded(command, tmp_path, monkeypatch, words, parts):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "noise.safetensors").write_bytes(b"noise" * 50)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    (tmp_path / "full.json").mkdir()
    (tmp_path / "deep.json").write_text(DEEP)
    save_file({"heads": torch.zeros(1)}, tmp_path / "deep.safetensors", metadata={"interp": DEEP})
    os.mkfifo(tmp_path / "pipe.json")
    before = tree(tmp_path)

    def load(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("interp.models.load_model", load)
    monkeypatch.setattr("interp.models.load_tokenizer", load)
    outcome = command(*words.split())
    assert outcome.code == 2 and outcome.out == ""
    assert [part for part in parts if part not in outcome.error] == []
    assert tree(tmp_path) == before


MODELS = {
    "smollm2-135m-instruc": "did you mean smollm2-135m-instruct",
    "./none": "no file or folder ./none",
    "empty": "empty has no config.json",
    "nobody/nothing": "'nobody/nothing'",
}


@pytest.mark.parametrize(("model", "part"), MODELS.items())
def test_a_model_that_cannot_be_loaded_is_named(command, tmp_path, model, part):
    (tmp_path / "empty").mkdir()
    outcome = command("discover", "ioi", "--model", model)
    assert outcome.code == 2 and part in outcome.error
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_gguf_that_ends_too_early_is_refused(command, tmp_path):
    tokenizer, path = make_tokenizer(), tmp_path / "tiny.gguf"
    write_gguf(path, make_llama(len(tokenizer)), tokenizer)
    os.truncate(path, int(0.7 * path.stat().st_size))
    outcome = command("discover", "ioi", "--model", str(path))
    assert outcome.code == 2 and "tiny.gguf" in outcome.error
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.gguf"]


GOOD = {"clean": "Mary met John", "corrupt": "Anna met John", "answers": ["Lucy"], "wrong_answers": ["Paul"]}
UNEQUAL = GOOD | {"corrupt": "Anna met"}
DIFFERENT = [
    GOOD | {"clean": f"Mary met {name}", "corrupt": f"Anna met {name}"}
    for name in ("John", "Paul", "Lucy", "Mary", "Anna")
]


def test_a_prompt_file_is_used_as_far_as_it_can_be_and_what_was_dropped_is_said(command, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"prompts": [*DIFFERENT, UNEQUAL, DIFFERENT[0]]}))
    words = ("discover", "mine.json", "--model", "planted-inhibition")
    printed = " ".join(command(*words).out.split())
    assert "5 pairs (1 dropped for their lengths, 1 dropped for their repetition)" in printed
    assert "6 pairs asked for, but 5 of 7" in command(*words, "-n", "6").error


def test_a_model_that_cannot_do_the_task_is_told_before_anything_is_written(
    command, tmp_path, tiny_model_folder, monkeypatch
):
    for task, model, *parts in (
        (PLANTED, str(tiny_model_folder("gpt2")), "--model", PLANTED),  # another tokenizer
        ("greater-than", PLANTED, "tokenizer", "greater-than"),
        (PLANTED, "planted-backup", "does not do this task"),
    ):
        outcome = command("discover", task, "-n", "8", "--model", model)
        assert outcome.code == 2 and all(part in outcome.error for part in parts)

    def load(*_args, **_kwargs):
        model = load_model(PLANTED)
        next(model.parameters()).data.fill_(torch.nan)
        return model

    monkeypatch.setattr("interp.models.load_model", load)
    outcome = command(*DISCOVER)
    assert outcome.code == 2 and "NaN" in outcome.error and "--dtype float32" in outcome.error
    assert list(tmp_path.iterdir()) == []
