"""The page *Why*: a pair is explained, nodes are played with, and an address or a folder gives all of it again."""

import json
import re

import pytest

from interp.contrast import Why, replay, why
from interp.contrast.words import every_node
from tests.app.conftest import asked, error_of, html_of, plain_html, press, strips_of, text_of
from tests.contrast.synthetic import EVIL, make_why

A, B = "When Mary and John went to the store, John gave", "When Mary and John went to the store, Mary gave"


@pytest.fixture
def page(open_page, tmp_path):
    return lambda **address: open_page("why", tmp_path / "runs", **address)


@pytest.fixture(scope="module")
def expected(model) -> Why:
    return why(model, A, B)


def shares_of(app) -> dict[str, str]:
    """What the bars say, by answer and prompt."""
    [body] = html_of(app)
    return dict(re.findall(r'data-p="([^"]*)">(\d+%)', body))


def picture_of(app) -> dict:
    [picture] = strips_of(app)
    return picture


def test_the_first_page_explains_its_pair_by_itself(page):
    app = page()
    assert app.title[0].value == "Why" and not app.error
    assert app.text_area(key="a").value.endswith("John gave a drink to")
    assert "After A the model says" in text_of(app)
    assert picture_of(app)["svg"].startswith("<svg") and asked(app, "a") is None


def test_nodes_are_played_with_and_the_address_says_so(page, model, expected):
    app = page(a=A, b=B)
    before = shares_of(app)
    answers = expected.answers
    assert before == {
        f"{name} after {side.upper()}": f"{answers[name][side]:.0%}" for name in ("answer", "instead") for side in "ab"
    }
    shown = picture_of(app)
    assert shown["chosen"] == 0
    assert len(re.findall("data-node=", shown["svg"])) == min(expected.kept, 12)
    chosen = next(box for box in app.selectbox if box.label == "Node")
    assert len(chosen.options) == len(every_node(expected))
    edits = []
    for index, label, to in ((0, "Patch B's value", "b"), (1, "Remove", "0")):
        node = expected.nodes[index]
        edits.append(f"{node.site}@{node.position}={to}")
        next(box for box in app.selectbox if box.label == "Node").set_value(index).run()
        press(app, label)
        assert asked(app, "edits") == ",".join(edits) and picture_of(app)["chosen"] == index
        outcome = replay(model, expected, edits)[-1]
        assert shares_of(app)["answer A, edited"] == f"{outcome.answer:.0%}"
        assert shares_of(app)["instead A, edited"] == f"{outcome.instead:.0%}"
        assert edits[-1] in text_of(app)
    after, program = shares_of(app), app.code[0].value
    assert f"replay(model, explanation, {edits!r})" in program and repr(A) in program
    compile(program, "told", "exec")
    again = page(a=A, b=B, edits=",".join(edits))
    assert shares_of(again) == after and text_of(again) == text_of(app)
    press(app, "Step back")
    assert asked(app, "edits") == edits[0]
    press(app, "Clear")
    assert asked(app, "edits") is None and shares_of(app) == before and not app.code


def test_another_prompt_is_proposed_and_taken(page):
    app = page(a=A, b="")
    assert "When" in app.text_area(key="a").value and not strips_of(app)
    n = sum((button.key or "").startswith("proposal") for button in app.button)
    press(app, "Explain all together")
    together = app.dataframe[0].value.set_index(["head", "token"])
    shares, counts = together["share, mean"].str.rstrip("%").astype(float), together["kept in"]
    assert n > 1 and all(f" of {n}" in count for count in counts) and shares.abs().is_monotonic_decreasing
    assert shares.abs().max() > 10
    first = app.button(key="proposal 0")
    was, becomes = (word.replace("\\", "") for word in first.label.split(" → "))
    first.click().run()
    assert app.text_area(key="b").value == asked(app, "b") and picture_of(app)["svg"]
    assert becomes in app.text_area(key="b").value and was in A
    app.text_area(key="a").set_value(B).run()
    assert "have changed" in app.info[0].value


def test_an_explanation_is_saved_beside_others_and_opened_again(page, tmp_path, expected):
    app = page(a=A, b=B)
    press(app, "Save in the runs folder")
    press(app, "Save in the runs folder")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"why", "why-2"}
    stored = Why.load(tmp_path / "runs" / "why-2")
    assert [str(node) for node in stored.nodes] == [str(node) for node in expected.nodes]
    app = page(saved="why-2")
    assert app.text_area(key="a").value == A and shares_of(app) and asked(app, "saved") == "why-2"
    assert app.selectbox(key="saved").options == ["why-2", "why"]
    for gone in ("../why", "/etc"):
        assert "Here is no explanation called" in page(saved=gone).warning[0].value
    for wrong, message in (({}, "cannot be read"), ({**stored.as_json(), "answers": {}}, "does not fit together")):
        (tmp_path / "runs" / "why" / "why.json").write_text(json.dumps(wrong))
        assert message in error_of(page(saved="why"))


def test_what_a_saved_explanation_says_is_shown_as_text_and_of_another_model_is_not_played(page, tmp_path):
    make_why(longer=1, mlps=True).save(tmp_path / "runs" / "evil")
    app = page(saved="evil")
    for element in (*app.markdown, *app.caption, *app.success):
        assert not re.search(r"(?<!\\)<(?!b style|span)", element.value), element.value
    [body] = html_of(app)
    assert "<script" not in body and EVIL[0].split("(")[0] not in body
    assert EVIL[0] in plain_html(body).replace("&lt;", "<").replace("&gt;", ">")
    press(app, "Remove")
    assert "this explanation is of" in app.info[0].value and asked(app, "edits") is None
