"""``interp index`` as a user meets it."""

import re
import shutil

import numpy as np
import pytest

from interp.codesearch import CodeIndex, labels_of, search_regex
from interp.codesearch.labels import LABELS
from interp.report.wording import code_label
from tests.codesearch.conftest import save_books


@pytest.mark.usefixtures("elsewhere")
def test_build_info_search(command, model, text, books, tmp_path, text_file, tiny_model_folder):
    save_books(model, text, books, tmp_path / "books")
    words = ["--model", str(tiny_model_folder("llama")), "--codebooks", "books", "--data", str(text_file)]
    build = ["index", "build", *words, "--tokens", "400", "--out", "ix", "--context"]
    built = command(*build, "40")
    assert built.code == 0, built.err
    assert "400 tokens of" in built.out and "bytes per id" in built.out
    assert "11, 190 codes, 23 a token" in built.out  # heads and groups: 4 · 2 + 4 · 2 + 2 · 3 + 1
    again = command(*build, "40")
    assert again.code == 0, again.err
    other = command(*build, "20")
    assert other.code == 2 and "ix holds an index of another text" in other.error

    [search] = built.following
    result = command(*search, "--min-precision", "0.01")
    assert result.code == 0, result.err
    assert "matches of" in result.out and "precision [95 %]" in result.out
    page = command(*result.following[0])
    assert page.code == 0, page.err
    assert "tokens" in page.out and "nearest" in page.out and "margin" in page.out

    assert "documents, blocks of 40" in command("index", "info", "ix").out
    assert "matches of" in command("index", "search", "ix", "--token", "M").out
    shutil.copytree("books", "copy")  # the same codebooks in another place
    words[3] = "copy"
    assert command("index", "build", *words, "--tokens", "800", "--out", "more", "--context", "40").code == 0
    both = command("index", "search", "ix", "--regex", "Mary", "-n", "4", "--also", "more")
    assert both.code == 0 and "F1, more" in both.out, both.err
    first_scores, more = (search_regex(CodeIndex.open(folder), "Mary") for folder in ("ix", "more"))
    expected = [f"{hit.f1:.2f}" for hit in more.hits_at(first_scores.places(most=4))]
    lines = [line.strip() for line in both.out.splitlines() if " [" in line and "=" in line]
    assert [re.split(r" {2,}", line)[6] for line in lines] == expected
    assert any(float(f1) > 0 for f1 in expected)
    similar = command("index", "search", "ix", "--prompt", "Mary gave", "-n", "3")
    assert similar.code == 0 and similar.out.count(" codes ") == 3, similar.err


@pytest.mark.usefixtures("elsewhere")
def test_labels_lie_beside_the_index_and_the_codebooks_and_are_shown(
    command, model, text, books, tmp_path, text_file, tiny_model_folder
):
    stored = save_books(model, text, books, tmp_path / "books")
    words = ["--model", str(tiny_model_folder("llama")), "--codebooks", "books", "--data", str(text_file)]
    assert command("index", "build", *words, "--tokens", "4000", "--out", "ix", "--context", "40").code == 0
    labelled = command("index", "label", "ix")
    assert labelled.code == 0, labelled.err
    assert "F1 ≥ .5" in labelled.out and labelled.out.count("saved") == 2
    labels = labels_of(stored)
    assert labels is not None and labels.about["books"] == stored.fingerprint
    assert (labels_of(CodeIndex.open("ix")).columns["text"] == labels.columns["text"]).all()
    page = command("index", "search", "ix", "--code", "a0.h1=3")
    assert f"label    {code_label(labels, 'a0.h1', 3)}" in page.out
    group = labels.groups["a0.h1"][3]
    assert command("index", "search", "ix", "--code", f"a0.h1={group}.3").out == page.out
    whole = command("index", "search", "ix", "--code", f"a0.h1={group}.all")
    assert whole.code == 0 and whole.out.startswith(f"a0.h1={group}.all  ")
    steered = ["steer", *words[:4], "--codes", "a1.h1=0.all,a1.h0=0", "--tokens", "2", "--prompt", "Mary"]
    written = command(*steered, "--add", "3", "--when", f"a0.h1={group}.all")
    assert written.code == 0, written.err
    members = np.flatnonzero(labels.groups["a0.h1"] == group)
    assert ",".join(f"a0.h1={member}" for member in members) in written.out
    (tmp_path / "ix" / LABELS).unlink()
    assert command("index", "search", "ix", "--code", "a0.h1=3").out == page.out
