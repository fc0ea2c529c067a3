"""Each source of text: what it reads, what it refuses."""

import ast
import json
import subprocess
import sys

import pytest

from interp.errors import InputError
from interp.text import load_text, open_sources
from interp.text.sources import _docstrings, is_prose, stdlib_docstrings

NESTED = '''"""module"""
if x:
    def a(): "if"
else:
    def b(): "else"
try:
    def c(): "try"
except E:
    def d(): "except"
else:
    def e(): "try else"
finally:
    def f(): "finally"
for i in (lambda: 0,):
    class G:
        """class"""
        async def h(self):
            """method"""
            def i(): "inner"
with y:
    def j(): "with"
match z:
    case 1:
        def k(): "case"
'''


def texts(spec: str) -> list[str]:
    (source,) = open_sources(spec)
    return list(source.documents(None, seed=0))


def test_stdlib_is_prose_each_text_once():
    found = stdlib_docstrings()
    assert len(found) > 1000 and len(set(found)) == len(found)
    assert all(is_prose(text) for text in found)
    assert any("json" in text.lower() for text in found)


def test_prose_has_some_length_mostly_letters_and_no_doctest():
    words = "words that a person wrote for another person to read " * 3
    assert is_prose(words)
    assert not is_prose("too short")
    assert not is_prose(words + ">>> print(1)")
    assert not is_prose("| 1 | 2 | 3 | " * 20 + words[:60])


def test_stdlib_is_read_without_importing_it():
    code = (
        "import sys\nfrom interp.text.sources import stdlib_docstrings\nbefore = set(sys.modules)\n"
        "stdlib_docstrings()\nprint(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_docstrings_are_found_wherever_a_definition_may_stand(tmp_path):
    path = tmp_path / "nested.py"
    path.write_text(NESTED)
    walked = [
        ast.get_docstring(node)
        for node in ast.walk(ast.parse(NESTED))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert list(_docstrings(path)) == walked and len(walked) == 12


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
        (
            "a.jsonl",
            rb'"fine"' + b"\n" + rb'{"text": "a cut emoji \ud83d"}',
            r"line 2: character 12 .* half of a surrogate",
        ),
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


def test_datasets_reads_a_local_folder_by_split_and_column(dataset):
    assert texts(f"datasets:{dataset}")[:2] == ["train text 0", "train text 1"]
    assert texts(f"datasets:{dataset}::test") == ["test text 0", "test text 1", "test text 2"]
    assert texts(f"datasets:{dataset}::test:title") == ["title 0", "title 1", "title 2"]


def test_datasets_as_blocks(dataset, tiny_model):
    blocks = load_text(f"datasets:{dataset}", tiny_model("llama"), n_tokens=60, context=12)
    assert blocks.tokens.shape == (5, 12) and blocks.spec == f"datasets:{dataset}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("::test:number", "no text column 'number': it has text, title"),
        ("::valid", "cannot load the dataset"),
        (":other", "cannot load the dataset"),
        ("::test:text:more", "write datasets:NAME"),
    ],
)
def test_datasets_that_cannot_be_read_are_named(dataset, options, message):
    with pytest.raises(InputError, match=message):
        texts(f"datasets:{dataset}{options}")


def test_a_dataset_that_goes_wrong_after_its_first_row_is_one_line(tmp_path):
    def told(*rows: str) -> str:
        (tmp_path / "train.jsonl").write_text("\n".join(rows))
        with pytest.raises(InputError, match="the dataset") as error:
            texts(f"datasets:{tmp_path}")
        return str(error.value)

    assert "\n" not in told('{"text": "good"}', '{"text": broken')
    assert "no text column 'text': it has title" in told(*['{"text": null, "title": "t"}'] * 1002)


def test_gaps_in_a_column_are_passed_over(tmp_path):
    rows = [{"text": None}, {"text": "a"}, {"text": None}, {"text": ""}, {"text": "b"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert texts(f"datasets:{tmp_path}") == ["a", "b"]


def test_a_name_may_have_a_plus_in_it(tmp_path):
    path = tmp_path / "c++" / "notes.txt"
    path.parent.mkdir()
    path.write_text("About pointers.\n\nAbout references.")
    assert texts(str(path)) == ["About pointers.", "About references."]


def test_a_dataset_that_is_not_there():
    with pytest.raises(InputError, match="cannot load the dataset"):
        texts("datasets:/no/such/folder")
    with pytest.raises(InputError, match="write datasets:NAME"):
        texts("datasets")


def test_datasets_is_imported_only_when_read():
    """By this package: transformer-lens may import it for itself."""
    code = "import sys, interp.models, interp.text.sources as hub; print('datasets' in vars(hub))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_part_of_several_may_have_a_plus_in_its_name(tmp_path):
    for name in ("c++", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "n.txt").write_text(f"About {name}.")
    spec = f"stdlib+{tmp_path}/c++/n.txt+{tmp_path}/b/n.txt+self"
    assert [source.spec for source in open_sources(spec)] == [
        "stdlib",
        f"{tmp_path}/c++/n.txt",
        f"{tmp_path}/b/n.txt",
        "self",
    ]
