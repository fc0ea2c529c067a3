"""``interp codebook`` as a user meets it."""

import json
import shlex

import pytest

from tests.command_line import Outcome, run_command

FIT = [
    "--sites",
    "heads,m1",
    "--data",
    "stdlib",
    "--tokens",
    "640",
    "--context",
    "32",
    "--codes",
    "12",
    "--k",
    "2",
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*words: str) -> Outcome:
        return run_command(["codebook", *words], monkeypatch, capsys)

    return run


@pytest.fixture
def model(tiny_model_folder) -> str:
    return str(tiny_model_folder("llama"))


def test_fit_then_eval_then_what_it_suggests(command, model, tmp_path):
    fitted = command("fit", "--model", model, *FIT, "--out", "books")
    assert fitted.code == 0, fitted.err
    assert "3 sites on 640 tokens of stdlib (20 blocks of 32" in fitted.out
    (following,) = [line for line in fitted.out.splitlines() if line.startswith("next")]
    words = shlex.split(following.partition("#")[0])[2:]
    assert words == ["codebook", "eval", "books"]

    found = command(*words[1:], "--data", "stdlib", "--tokens", "320", "--controls", "2", "--k", "1,2")
    assert found.code == 0, found.err
    for text in (
        "held-out stdlib: 10 blocks of 32",
        "codes k=1",
        "codes k=2",
        "random ids",
        "variance explained",
    ):
        assert text in found.out
    result = json.loads((tmp_path / "books" / "quality.json").read_text())
    assert [row["condition"] for row in result["texts"][0]["rows"]][:3] == ["plain", "codes k=1", "codes k=2"]
    (following,) = [line for line in found.out.splitlines() if line.startswith("next")]
    words = shlex.split(following.partition("#")[0])[2:]
    again = command(*words[1:], "--data", "stdlib", "--codes", "12", "--out", "other")
    assert again.code == 0, again.err


def test_a_model_that_reads_less_than_usual_gets_blocks_as_long_as_it_reads(command):
    words = "fit --model planted-induction --data self --tokens 640 --codes 4 --k 1"
    fitted = command(*words.split())
    assert fitted.code == 0, fitted.err
    assert "(20 blocks of 32," in fitted.out


def test_the_models_own_samples_are_the_second_text(command, model):
    assert command("fit", "--model", model, *FIT, "--out", "books").code == 0
    found = command("eval", "books", "--tokens", "128", "--controls", "2")
    assert found.code == 0, found.err
    assert "held-out stdlib" in found.out and "held-out self" in found.out


def test_a_second_fit_of_the_same_is_at_once_done_and_of_another_refused(command, model):
    assert command("fit", "--model", model, *FIT, "--out", "books").code == 0
    assert command("fit", "--model", model, *FIT, "--out", "books").code == 0
    other = command("fit", "--model", model, *FIT, "--seed", "1", "--out", "books")
    assert other.code == 2 and "codebooks of another" in other.error


def test_an_interrupted_fit_says_where_it_goes_on_from(command, model, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("interp.bottlenecks.fit._learn", interrupted)
        done = command("fit", "--model", model, *FIT, "--out", "books")
    assert done.code == 130 and "the same command goes on from books" in done.error
    assert command("fit", "--model", model, *FIT, "--out", "books").code == 0


def test_a_site_that_is_not_there_does_not_wait_for_the_text(command, model, monkeypatch):
    monkeypatch.setattr("interp.text.load_text", None)
    assert "unknown site 'hedas'" in command("fit", "--model", model, "--sites", "hedas").error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "--data", "wikipedia"], "text 'wikipedia' is neither a source nor a file"),
        (["fit", "--sites", "b5"], "unknown site 'b5'"),
        (["fit", "--selection", "greedy"], "--selection"),
        (["fit", "--codes", "4", "--k", "5"], "k 5: it must be 1 to 4"),
        (["fit", "--tokens", "none"], "--tokens"),
        (["fit", "--tokens", "100000000", "--data", "stdlib"], "tokens in its split 'train'"),
        (["eval", "nowhere"], "no folder"),
        (["eval", "nowhere", "--controls", "1"], "--controls 1: an interval needs at least 2 blocks"),
    ],
)
def test_mistakes_are_one_line(command, model, words, message):
    named = ["--model", model] if words[0] == "fit" else []
    done = command(words[0], *named, *words[1:])
    assert done.code == 2 and message in done.error


def test_books_of_another_model_are_refused(command, model, tiny_model_folder):
    assert command("fit", "--model", model, *FIT, "--out", "books").code == 0
    other = command("eval", "books", "--model", str(tiny_model_folder("gpt2")), "--data", "stdlib")
    assert other.code == 2 and "holds codebooks of" in other.error


TRAIN = ["--data", "stdlib", "--tokens", "1024", "--batch-size", "8", "--checkpoint-every", "2"]


def test_train_then_pack_then_eval(command, model, monkeypatch):
    assert command("fit", "--model", model, *FIT, "--out", "books").code == 0
    trained = command("train", "books", *TRAIN)
    assert trained.code == 0, trained.err
    assert "trained  3 sites on 1 × 1024 tokens of stdlib, distilled" in trained.out
    assert "step 4/4  loss" in trained.out and "KL" in trained.out and "dead" in trained.out
    assert "next     interp codebook eval books-distilled" in trained.out
    monkeypatch.chdir("books")  # which has no name of its own
    assert command("train", ".", *TRAIN).code == 0
    monkeypatch.chdir("..")
    again = command("train", "books", *TRAIN)
    assert again.code == 0 and "step" not in again.out
    packed = command("pack", "books-distilled", "--out", "packed")
    assert packed.code == 0 and "saved    packed (3 sites" in packed.out
    for folder, kind in (("books-distilled", "trained"), ("packed", "packed")):
        refused = command("fit", "--model", model, *FIT, "--out", folder)
        assert refused.code != 0 and f"{folder} holds {kind} codebooks" in refused.error
    found = command("eval", "packed", "--data", "stdlib", "--tokens", "128", "--controls", "0")
    assert found.code == 0, found.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nowhere"], "no folder"),
        (["train", "--lr", "fast"], "--lr"),
        (["train", "--objective", "global"], "--objective"),
        (["train", "--mse-weight", "0.5", "--objective", "local"], "local training minimises"),
        (["train", "--model-lr", "0.1"], "distilled training leaves the model as it is"),
        (["pack", "nowhere", "--out", "x"], "no folder"),
        (["pack", "nowhere", "--out", "x", "--storage", "int4"], "--storage"),
    ],
)
def test_mistakes_in_training_are_one_line(command, words, message):
    done = command(*words)
    assert done.code == 2 and message in done.error
