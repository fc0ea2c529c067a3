"""Stars and annotations: what one writer keeps no other loses."""

import json

import pytest

from interp.codesearch.annotations import MOST, Annotation, Annotations
from interp.errors import InputError


@pytest.fixture
def annotations(tmp_path) -> Annotations:
    return Annotations(tmp_path / "runs" / "annotations.json", "abc")


def test_star_and_note_are_kept_apart_and_emptied_ones_vanish(annotations):
    assert annotations.all() == {}
    annotations.write("a1.h2", 7, star=True)
    assert annotations.write("a1.h2", 7, text="  <b>dates</b> ") == Annotation(True, "<b>dates</b>")
    annotations.write("m0.g1", 3, text="ü\n🙂")
    assert annotations.all() == {
        ("a1.h2", 7): Annotation(True, "<b>dates</b>"),
        ("m0.g1", 3): Annotation(False, "ü\n🙂"),
    }
    annotations.write("a1.h2", 7, star=False)
    annotations.write("a1.h2", 7, text="")
    assert Annotations(annotations.path, "abc").all() == {("m0.g1", 3): Annotation(False, "ü\n🙂")}


def test_notes_belong_to_their_codebooks(annotations):
    annotations.write("a1.h2", 7, star=True)
    other = Annotations(annotations.path, "def")
    assert other.all() == {}
    other.write("a1.h2", 7, text="another")
    assert annotations.all() == {("a1.h2", 7): Annotation(True)}
    assert other.all() == {("a1.h2", 7): Annotation(False, "another")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ('{"format": 2, "annotations": {}}', "is not of format 1"),
        ('{"format": 1, "annotations": {"abc": {"a0:x": {"star": true, "text": ""}}}}', "is damaged"),
    ],
)
def test_a_damaged_file_is_one_line_and_is_not_overwritten(annotations, content, message):
    annotations.path.parent.mkdir()
    annotations.path.write_text(content)
    for action in (annotations.all, lambda: annotations.write("a0", 1, star=True)):
        with pytest.raises(InputError, match=message) as error:
            action()
        assert str(annotations.path) in str(error.value) and "\n" not in str(error.value)
    assert annotations.path.read_text() == content


@pytest.mark.parametrize(("text", "message"), [("x" * (MOST + 1), f"at most {MOST}"), ("half \ud83d", "Unicode")])
def test_a_note_that_is_too_long_or_no_text_is_refused_and_the_file_has_a_format(annotations, text, message):
    annotations.write("a0", 1, text="x" * MOST)
    with pytest.raises(InputError, match=message):
        annotations.write("a0", 1, text=text)
    assert annotations.all() == {("a0", 1): Annotation(False, "x" * MOST)}
    assert json.loads(annotations.path.read_text())["format"] == 1


def test_a_note_that_was_changed_meanwhile_is_not_replaced(annotations):
    annotations.write("a0", 1, text="first")
    annotations.write("a0", 1, text="theirs", was="first")
    with pytest.raises(InputError, match="changed meanwhile, to 'theirs', .* it was: ours"):
        annotations.write("a0", 1, text="ours", was="first")
    assert annotations.all()[("a0", 1)].text == "theirs"
    assert annotations.write("a0", 1, star=True).star
