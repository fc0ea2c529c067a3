"""The page *Changes* shows a saved comparison with every text as it stands, and is not empty without one."""

import json
import re

from interp.changes import Diff
from interp.changes.listing import ChangedCode, ChangedContext, ChangedWord, CodeExample
from interp.changes.parts import ChangedSite, Together
from interp.changes.undo import Undone
from tests.app.conftest import unescaped
from tests.contrast.synthetic import EVIL


def make_diff(text: str = "harbor") -> Diff:
    """A comparison in which every string is ``text``."""
    texts = dict.fromkeys(("base", "tuned", "text"), text)
    numbers = {"n_tokens": 5000, "kl": 0.25, "n_changed": 12, "n_codes": 90, "seconds": {}}
    code = ("a1.h2", 3, text, text, 4, 44, text, 41, 50, 0.2, 90.0, 1e-6, 9, 5, [CodeExample(text, text, text)])
    return Diff(
        **texts,
        **numbers,
        null=None,
        codebooks=[text],
        contexts=[ChangedContext(text, text, text, 3.5, 7, text, text, 2)],
        words=[ChangedWord(text, 1.5, 50, [text])],
        classes=[("digits", 0.1, 0.9)],
        sites=[ChangedSite("a1.h2", 0.6, 0.5, 0.7), ChangedSite("m0", 0.2, 0.1, 0.3)],
        together=[Together(1, 0.6, 0.5, 0.5, 0.1)],
        codes=[ChangedCode(*code)],
        undo={"codes forbidden": Undone(0.3, -0.01)},
        prompts=[{"prompt": text, "base": text, "tuned": text}],
        commands={"undo": ["interp steer --forbid"], "redo": []},
        notes=[text],
    )


def test_a_comparison_is_shown(open_page, tmp_path):
    make_diff().save(tmp_path / "mine")
    app = open_page("changes", tmp_path)
    assert [metric.value for metric in app.metric] == ["0.2500", "5,000", "12 of 90"]
    contexts, words, undo = (frame.value for frame in app.dataframe)
    assert contexts["KL"].tolist() == [3.5] and contexts["tuned says"].tolist() == ["harbor"]
    assert words["tuned says"].tolist() == ["harbor"]
    assert undo["elsewhere"].tolist() == [-0.01]
    assert "“harbor” · a1.h2=3 · 41 of 50, 0.2 expected" in unescaped(app.expander[0].label)
    assert app.code[0].value == "interp steer --forbid"


def test_texts_show_as_they_are(open_page, tmp_path):
    make_diff("".join(EVIL)).save(tmp_path / "mine")
    app = open_page("changes", tmp_path)
    written = [element.value for element in (*app.markdown, *app.caption)]
    assert sum("script" in text for text in written) > 3
    assert not any(re.search(r"(?<!\\)<script", text) for text in written)


def test_without_one_it_says_how_to_make_it_and_a_damaged_one_is_told(open_page, tmp_path):
    assert open_page("changes", tmp_path).code[0].value.startswith("interp diff ")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "diff.json").write_text(json.dumps({"n_changed": 1}))
    app = open_page("changes", tmp_path)
    assert len(app.error) == 1 and "make it again" in app.error[0].value
