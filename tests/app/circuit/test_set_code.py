"""Setting a code on the page *Circuit* changes the metric by what the library gives."""

import re
import shutil

import numpy as np
import pytest
import torch

from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import SetCode
from interp.bottlenecks.store import Codebooks
from interp.report import wording
from interp.runs.folder import pairs_of
from interp.runs.run import Run
from interp.stats import mean_interval
from tests.app.circuit.conftest import N, figure_of
from tests.app.conftest import array_of, asked, files_of, html_of, press, table_of, text_of, unescaped


def _set_by_hand(model, books, pairs, code: int, head: int, column: int | None) -> np.ndarray:
    """The metric on the clean prompts with head ``head`` of layer 0 set, one prompt at a time."""
    values = []
    for pair in pairs:
        with torch.no_grad(), attach(model, {"a0": books["a0"]}, error_term=True) as attached:
            attached.edit(SetCode(f"a0.h{head}", code), positions="all" if column is None else column)
            logits = model(torch.tensor([pair.clean_tokens]))[0, -1]
        values.append(float(logits[list(pair.answers)].mean() - logits[list(pair.wrong_answers)].mean()))
    return np.array(values)


@pytest.mark.parametrize("where", ["S1", "all tokens"])
def test_a_code_set_changes_the_metric_by_what_attach_gives(page, real, model, where):
    before = files_of(real)
    app = page(real, run="mine", head="a0.h2", read="true", set=f"a0.h2@{where}=7")
    books = Codebooks.from_pretrained(real / "books", model)
    pairs = pairs_of(Run.load(real / "mine"), real / "mine", model.tokenizer, 16)
    assert len(pairs) == N
    with torch.no_grad(), attach(model, {"a0": books["a0"]}, error_term=True) as attached:
        model(torch.tensor([pairs[0].clean_tokens]))
        ids = attached.ids["a0"][0, :, 2, 0].tolist()
    strip = next(body for body in html_of(app) if "a0.h2, clean" in body)
    assert [int(code) for code in re.findall(r"<sub[^>]*>(\d+)</sub>", strip)] == ids

    role = None if where == "all tokens" else where
    assert app.selectbox(key="role of a0.h2").value == where
    assert app.selectbox(key=f"code of a0.h2 {role} clean").value == "7"
    press(app, "Set it")
    assert not app.error
    expected = _set_by_hand(model, books, pairs, 7, 2, None if role is None else 5)  # S1 stands at 4, and BOS
    clean = _set_by_hand(model, {"a0": books["a0"]}, pairs, 7, 2, 10_000)  # nowhere: as it is
    table = table_of(app, "prompts", "mean", "from", "to")
    means = dict(zip(table.prompts, table["mean"], strict=True))
    assert means["clean"] == pytest.approx(clean.mean(), abs=1e-4)
    assert means["code set"] == pytest.approx(expected.mean(), abs=1e-4)
    assert abs(means["code set"] - means["clean"]) > 1e-3 and means["random code"] != means["code set"]
    low, high = mean_interval((expected - clean)[:, None], 0)
    numbers = (wording.signed(float(value), 3) for value in ((expected - clean).mean(), low[0], high[0]))
    assert "by **{} [{}, {}]**, with a random code by".format(*numbers) in text_of(app)
    assert f"({N} pairs, 95 % bootstrap intervals)" in text_of(app)
    shown = figure_of(app, "logit difference of every pair")["data"][2]
    assert shown["name"] == "code set"
    order = np.array(shown["x"], dtype=int) - 1
    np.testing.assert_allclose(array_of(shown["y"]), expected[order], atol=1e-4)
    assert files_of(real) == before


def test_each_prompt_can_get_its_partners_code_on_either_side(page, real):
    app = page(real, run="mine", head="a0.h2", read="true")
    app.selectbox(key="role of a0.h2").set_value("S1").run()
    assert app.selectbox(key="code of a0.h2 S1 clean").options[0] == "its own code on the corrupt prompt"
    assert asked(app, "set") == "a0.h2@S1=own"
    press(app, "Set it")
    assert not app.error and "With its own code on the corrupt prompt at S1" in text_of(app)
    app.segmented_control(key="set on").set_value("corrupt prompts").run()
    assert not app.error
    assert app.selectbox(key="code of a0.h2 S1 corrupt").value == "its own code on the clean prompt"
    linked = page(real, run="mine", head="a0.h2", read="true", set="a0.h2@S1=own")
    assert linked.selectbox(key="code of a0.h2 S1 clean").value == "its own code on the corrupt prompt"
    assert not linked.error


def test_codebooks_that_lead_elsewhere_are_not_read(page, runs, real):
    shutil.copytree(real, runs, dirs_exist_ok=True)
    shutil.copytree(runs / "books", runs / "linked")
    book = runs / "linked" / "a0"
    book.symlink_to(book.rename(runs.parent / "elsewhere"))
    app = page(runs, run="mine", read="true", books="linked")
    assert "linked/a0 is a link to another place" in unescaped(app.error[0].value)
