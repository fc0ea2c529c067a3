"""``interp codebook`` as a user meets it."""

import json
import shlex

import pytest

FIT = "--sites heads,m1 --data stdlib --tokens 640 --context 32 --codes 12 --k 2 --out books"
TRAIN = "--data stdlib --tokens 1024 --batch-size 8 --checkpoint-every 2"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def codebook(command):
    return lambda words, *more: command("codebook", *words.split(), *more)


@pytest.fixture
def model(tiny_model_folder) -> str:
    return str(tiny_model_folder("llama"))


@pytest.fixture
def fitted(codebook, model):
    """What fitting ``books`` said."""
    done = codebook(f"fit {FIT} --model {model}")
    assert done.code == 0, done.err
    return done


def following(done) -> str:
    """What is said to come next, after ``interp codebook``."""
    (line,) = [line for line in done.out.splitlines() if line.startswith("next")]
    return shlex.join(shlex.split(line, comments=True)[3:])


def test_fit_then_eval_then_what_it_suggests(codebook, fitted, tmp_path):
    assert "3 sites on 640 tokens of stdlib (20 blocks of 32" in fitted.out
    assert following(fitted) == "eval books"
    assert "640 tokens and 12 codes are less than was measured to do for steering (22000 tokens" in fitted.out
    judged = codebook("eval books --data stdlib --tokens 320 --controls 2 --k 1,2")
    assert judged.code == 0, judged.err
    for text in ("held-out stdlib: 10 blocks of 32", "codes k=1", "random ids", "variance explained"):
        assert text in judged.out
    result = json.loads((tmp_path / "books" / "quality.json").read_text())
    assert [row["condition"] for row in result["texts"][0]["rows"]][:3] == ["plain", "codes k=1", "codes k=2"]
    again = codebook(following(judged), *["--data", "stdlib", "--codes", "12", "--out", "other"])
    assert again.code == 0, again.err


def test_a_model_that_reads_less_gets_shorter_blocks_and_codebooks_lie_where_the_workbench_looks(codebook, tmp_path):
    fitted = codebook("fit --model planted-induction --data self --tokens 640 --codes 4 --k 1")
    assert fitted.code == 0 and "(20 blocks of 32," in fitted.out, fitted.err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["planted-induction-matching_pursuit-k1"]


@pytest.mark.usefixtures("fitted")
def test_train_then_pack_then_eval(codebook, model, monkeypatch):
    trained = codebook(f"train books {TRAIN}")
    assert trained.code == 0, trained.err
    assert "trained  3 sites on 1 × 1024 tokens of stdlib, distilled" in trained.out
    assert "step 4/4  loss" in trained.out and "KL" in trained.out and "dead" in trained.out
    assert following(trained).startswith("eval books-distilled")
    monkeypatch.chdir("books")  # which has no name of its own
    assert codebook(f"train . {TRAIN}").code == 0
    monkeypatch.chdir("..")
    again = codebook(f"train books {TRAIN}")
    assert again.code == 0 and "step" not in again.out
    packed = codebook("pack books-distilled --out packed")
    assert packed.code == 0 and "saved    packed (3 sites" in packed.out
    for folder, kind in (("books-distilled", "trained"), ("packed", "packed")):
        refused = codebook(f"fit {FIT} --model {model} --out {folder}")
        assert refused.code != 0 and f"{folder} holds {kind} codebooks" in refused.error
    assert codebook("eval packed --data stdlib --tokens 128 --controls 0").code == 0
