"""Each source of text: what it reads, what it refuses."""

import dataclasses
import hashlib
import json.decoder
import sys
import zipfile
from pathlib import Path

import pytest

from interp.errors import InputError
from interp.text import load_text, open_sources, sources
from interp.text.sources import is_prose, stdlib_docstrings


def texts(spec: str) -> list[str]:
    (source,) = open_sources(spec)
    return list(source.documents(None, seed=0))


def test_stdlib_is_prose_each_text_once():
    docstrings = stdlib_docstrings()
    assert len(docstrings) > 1000 and len(set(docstrings)) == len(docstrings)
    assert all(is_prose(text) for text in docstrings)
    assert any("json" in text.lower() for text in docstrings)
    assert not {"this", "antigravity"} & set(sys.modules), "it is read without importing it"


def test_prose_has_some_length_mostly_letters_and_no_doctest():
    words = "words that a person wrote for another person to read " * 3
    assert is_prose(words)
    assert not is_prose("too short")
    assert not is_prose(words + ">>> print(1)")
    assert not is_prose("| 1 | 2 | 3 | " * 20 + words[:60])


def test_text_files_are_split_at_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\nstill one\n\n  \ntwo\n")
    # as some editors save it, with a mark of its encoding
    (tmp_path / "b.jsonl").write_text('"three"\n\n{"text": "four", "id": 4}\n', encoding="utf-8-sig")
    (tmp_path / "c.md").write_text("not text of ours")
    assert texts(str(tmp_path / "a.txt")) == ["one\nstill one", "two"]
    assert texts(str(tmp_path)) == ["one\nstill one", "two", "three", "four"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": 3}', 'line 1: expected a string, or an object with a string "text"'),
        ("a.jsonl", b'"fine"\n{', "line 2 is not JSON"),
        ("a.jsonl", b"[" * 200_000, "line 1 is not JSON"),
        ("a.jsonl", b"1" * 5000, "line 1 is not JSON"),
        ("a.jsonl", b'"fine"\n{"text": "a cut emoji \\ud83d"}', "line 2: character 12 .* half of a surrogate"),
        ("a.txt", b"\xff\xfe\xfa", "cannot read the text file"),
        ("a.csv", b"a,b", "ends in .txt or .jsonl"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        texts(str(path))


def test_an_empty_file_and_a_folder_without_text_are_refused(tmp_path, tiny_model):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(InputError, match="there is no .txt or .jsonl file"):
        texts(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="no document for the split 'train'"):
        load_text(str(tmp_path / "empty.txt"), tiny_model("llama"), n_tokens=100)


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split, n in (("train", 30), ("test", 3)):
        rows = [{"text": f"{split} text {i}", "title": f"title {i}", "number": i} for i in range(n)]
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def test_datasets_reads_a_local_folder_by_split_and_column(dataset, tiny_model):
    assert "datasets" not in vars(sources), "imported only when read"
    assert texts(f"datasets:{dataset}")[:2] == ["train text 0", "train text 1"]
    assert texts(f"datasets:{dataset}::test") == ["test text 0", "test text 1", "test text 2"]
    assert texts(f"datasets:{dataset}::test:title") == ["title 0", "title 1", "title 2"]
    blocks = load_text(f"datasets:{dataset}", tiny_model("llama"), n_tokens=60, context=12)
    assert blocks.tokens.shape == (5, 12) and blocks.spec == f"datasets:{dataset}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("::test:number", "no text column 'number': it has text, title"),
        ("::valid", "cannot load the dataset"),
        (":other", "cannot load the dataset"),
        ("::test:text:more", "write datasets:NAME"),
        ("/absent", "cannot load the dataset"),
        (None, "write datasets:NAME"),
    ],
)
def test_datasets_that_cannot_be_read_are_named(dataset, options, message):
    with pytest.raises(InputError, match=message):
        texts("datasets" if options is None else f"datasets:{dataset}{options}")


def test_a_dataset_that_goes_wrong_after_its_first_row_is_one_line_and_gaps_are_passed_over(tmp_path):
    def reads(*rows: str) -> list[str]:
        (tmp_path / "train.jsonl").write_text("\n".join(rows))
        return texts(f"datasets:{tmp_path}")

    with pytest.raises(InputError, match="the dataset") as error:
        reads('{"text": "good"}', '{"text": broken')
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="no text column 'text': it has title"):
        reads(*['{"text": null, "title": "t"}'] * 1002)
    assert reads(*(json.dumps({"text": text}) for text in (None, "a", None, "", "b"))) == ["a", "b"]


def test_a_name_may_have_a_plus_in_it_alone_and_among_several(tmp_path):
    paths = [tmp_path / folder / "notes.txt" for folder in ("c++", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text("About pointers.\n\nAbout references.")
        assert texts(str(path)) == ["About pointers.", "About references."]
    specs = ["stdlib", *map(str, paths), "self"]
    assert [source.spec for source in open_sources("+".join(specs))] == specs


def _probes_wheel(path: Path, tables: dict[str, list[tuple[str, str]]]) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, rows in tables.items():
            text = "prompt,target\n" + "".join(f'"{prompt}",{target}\n' for prompt, target in rows)
            wheel.writestr(f"sae_probes/data/cleaned_data/{name}.csv.zst", text)
    return path


def test_texts_of_the_probes_wheel_are_fetched_once_and_checked(tmp_path, monkeypatch):
    """A class' own rows of a table of classes, all rows of others; a copy that is another file is refused."""
    tables = {
        "158_code_C": [("int x;", "1"), ("no code", "0")],
        "112_amzn_rev": [("good", "1"), ("bad", "0")],
        "113_movie_sent": [("dull", "0")],
    }
    wheel = _probes_wheel(tmp_path / "sae_probes-0.4.2-py3-none-any.whl", tables)
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INTERP_PROBES_WHEEL", str(wheel))
    with pytest.raises(InputError, match="sha256"):
        texts("probes:c")
    assert not list((tmp_path / "cache" / "text").glob("*.whl"))
    known = sources._PROBES.wheels[0]._replace(sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(sources, "_PROBES", dataclasses.replace(sources._PROBES, wheels=(known,)))
    assert texts("probes:c") == ["int x;"]
    wheel.unlink()
    assert texts("probes:reviews") == ["good", "bad", "dull"], "the cache has it"
    with pytest.raises(InputError, match="probes:reviews"):
        open_sources("probes:poems")
    with pytest.raises(InputError, match="probes:news"):
        open_sources("probes")
