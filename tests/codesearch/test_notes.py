"""Stars and notes: what one writer keeps no other loses."""

import json
import multiprocessing

import pytest

from interp.codesearch.annotations import MOST, Note, Notes
from interp.errors import InputError


@pytest.fixture
def notes(tmp_path) -> Notes:
    return Notes(tmp_path / "runs" / "notes.json", "abc")


def test_star_and_note_are_kept_apart_and_emptied_ones_vanish(notes):
    assert notes.all() == {}
    notes.write("a1.h2", 7, star=True)
    assert notes.write("a1.h2", 7, text="  <b>dates</b> ") == Note(True, "<b>dates</b>")
    notes.write("m0.g1", 3, text="ü\n🙂")
    assert notes.all() == {("a1.h2", 7): Note(True, "<b>dates</b>"), ("m0.g1", 3): Note(False, "ü\n🙂")}
    notes.write("a1.h2", 7, star=False)
    notes.write("a1.h2", 7, text="")
    assert Notes(notes.path, "abc").all() == {("m0.g1", 3): Note(False, "ü\n🙂")}


def test_notes_belong_to_their_codebooks(notes):
    notes.write("a1.h2", 7, star=True)
    other = Notes(notes.path, "def")
    assert other.all() == {}
    other.write("a1.h2", 7, text="another")
    assert notes.all() == {("a1.h2", 7): Note(True)} and other.all() == {("a1.h2", 7): Note(False, "another")}


def _many(path, book):
    for code in range(25):
        Notes(path, "abc").write(book, code, star=True)


def test_two_processes_that_write_at_once_lose_nothing(notes):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_many, args=(notes.path, book)) for book in ("a0", "a1")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(notes.all()) == [(book, code) for book in ("a0", "a1") for code in range(25)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[" * 200_000, "is damaged"),
        ("[]", "is not of format 1"),
        ('{"format": 2, "notes": {}}', "is not of format 1"),
        ('{"format": 1}', "is damaged"),
        ('{"format": 1, "notes": {"abc": {"a0:x": {"star": true, "text": ""}}}}', "is damaged"),
        ('{"format": 1, "notes": {"abc": [1]}}', "is damaged"),
    ],
)
def test_a_damaged_file_is_one_line_and_is_not_overwritten(notes, content, message):
    notes.path.parent.mkdir()
    notes.path.write_text(content)
    for action in (notes.all, lambda: notes.write("a0", 1, star=True)):
        with pytest.raises(InputError, match=message) as error:
            action()
        assert str(notes.path) in str(error.value) and "\n" not in str(error.value)
    assert notes.path.read_text() == content


def test_a_long_note_is_refused_and_the_file_has_a_format(notes):
    with pytest.raises(InputError, match=f"at most {MOST}"):
        notes.write("a0", 1, text="x" * (MOST + 1))
    notes.write("a0", 1, text="x" * MOST)
    assert json.loads(notes.path.read_text())["format"] == 1


def test_a_note_that_is_no_text_is_refused(notes):
    with pytest.raises(InputError, match="Unicode"):
        notes.write("a1.h2", 7, text="half \ud83d")
    assert notes.all() == {}


def test_a_note_that_was_changed_meanwhile_is_not_replaced(notes):
    notes.write("a0", 1, text="first")
    notes.write("a0", 1, text="theirs", was="first")
    with pytest.raises(
        InputError, match="changed meanwhile, to 'theirs', so yours was not kept; it was: ours"
    ):
        notes.write("a0", 1, text="ours", was="first")
    assert notes.all()[("a0", 1)].text == "theirs"
    assert notes.write("a0", 1, star=True).star
