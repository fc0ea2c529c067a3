"""``interp index`` as a user meets it."""

import pytest
import torch

from interp.bottlenecks.store import Codebooks, describe_text, model_identity
from tests.codesearch.conftest import make_books


@pytest.fixture
def folder(model, text, tmp_path):
    """The books as a folder, without fitting."""
    for site, book in make_books().items():
        book.save_pretrained(tmp_path / "books" / str(site))
    request = {
        "model": model_identity(model),
        "sites": list(make_books()),
        "fit": {
            "k": 3,
            "n_codes": 12,
            "selection": "matching_pursuit",
            "magnitude": "unit",
            "seed": 0,
            "sequential": True,
        },
        "text": describe_text(text),
    }
    Codebooks.finish(tmp_path / "books", request)
    return tmp_path / "books"


@pytest.mark.usefixtures("elsewhere")
def test_build_info_search(command, folder, text_file, tiny_model_folder):
    torch.manual_seed(0)
    model = str(tiny_model_folder("llama"))
    words = ["--model", model, "--codebooks", str(folder), "--data", str(text_file), "--tokens", "400"]
    built = command("index", "build", *words, "--context", "40", "--out", "ix")
    assert built.code == 0, built.err
    assert "400 tokens of" in built.out and "bytes per id" in built.out
    assert "11, 190 codes, 23 a token" in built.out  # heads and groups: 4 · 2 + 4 · 2 + 2 · 3 + 1
    again = command("index", "build", *words, "--context", "40", "--out", "ix")
    assert again.code == 0, again.err
    other = command("index", "build", *words, "--context", "20", "--out", "ix")
    assert other.code == 2 and "ix holds an index of another text" in other.error

    [search] = built.following
    found = command(*search, "--min-precision", "0.01")
    assert found.code == 0, found.err
    assert "matches of" in found.out and "precision [95 %]" in found.out
    page = command(*found.following[0])
    assert page.code == 0, page.err
    assert "tokens" in page.out and "nearest" in page.out and "margin" in page.out

    assert "documents, blocks of 40" in command("index", "info", "ix").out
    assert "matches of" in command("index", "search", "ix", "--token", "M").out
    similar = command("index", "search", "ix", "--prompt", "Mary gave", "-n", "3")
    assert similar.code == 0 and similar.out.count(" codes ") == 3, similar.err


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "nowhere"], "nowhere is no code index"),
        (["search", "nowhere"], "choose one of --regex, --token, --prompt and --code"),
        (["build", "--codebooks", "nowhere"], "no folder nowhere"),
        (["build", "--data", "wikipedia"], "text 'wikipedia' is neither a source nor a file"),
    ],
)
def test_mistakes_are_one_line(command, words, message):
    done = command("index", *words)
    assert done.code == 2 and message in done.error


def test_mistakes_in_a_search(command, index):
    for words, message in (
        (["--regex", "("], "unclosed group"),
        (["--code", "a0.h1"], "write SITE=ID"),
        (["--code", "a9.h1=3"], "no codebook 'a9.h1' in this index"),
        (["--token", "Mary gave"], "is no single token"),
        (
            ["--prompt", "Mary", "--min-precision", "0.9"],
            "--min-precision ranks what --regex or --token finds",
        ),
        (["--code", "a0.h1=3", "--sort", "count"], "--sort ranks what"),
        (["--regex", "M", "--position", "0"], "--position is about the model that reads --prompt"),
    ):
        done = command("index", "search", str(index.folder), *words)
        assert done.code == 2 and message in done.error
