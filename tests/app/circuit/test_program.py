"""What heads say, in the report and on the page *Circuit*, is what the run's program holds; a code set answers so."""

import json
from pathlib import Path

import pytest
import torch

from interp import find_circuit
from interp.models import load_model
from interp.programs import program as programs
from interp.programs.own_prompt import CodeAt, same_place, set_codes
from interp.programs.program import Program
from interp.programs.schema import LEAST_FALL
from interp.prompts.encoding import PromptEncoder
from interp.report.groups import group_graph, group_rows
from interp.report.page import render_report
from interp.runs.run import Run
from tests.app.circuit.conftest import figure_of
from tests.app.conftest import asked, error_of, html_of, press, table_of, text_of
from tests.report.synthetic import EVIL
from tests.report.test_page import Page

PLANTED, SLOT = "planted-inhibition", "a0.h1 @ S2"


@pytest.fixture(scope="module")
def run() -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "FIT_PAIRS", 256)
        patch.setattr(programs, "JUDGE_PAIRS", 64)
        return find_circuit(PLANTED, PLANTED, n=20, program=True)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    run.save(folder / "planted")
    return folder


def two_names(run: Run) -> tuple[str, str, int, str]:
    """Two values of the slot's codes, the second one's code, and a prompt that repeats the first."""
    values = {code: value for code, value in run.program.said(SLOT).values.items() if value is not None}
    (a, _), (b, two), *_ = {value: int(code) for code, value in values.items()}.items()
    return a, b, two, f"{a} and {b} went to the garden . {a} gave a book to"


def test_a_head_shows_what_its_effect_comes_from_in_codes_of_the_program(run, folder, page):
    part = run.component("a2.h0")
    table = table_of(page(folder, run="planted", head=part.site), "at", "code", "pairs", "effect")
    assert len(table) == len(part.evidence.changes) > 1
    for change, row in zip(part.evidence.changes, table.itertuples(), strict=True):
        assert (row.at, row.code) == (change.role, f"{change.clean} → {change.corrupt}")
        assert row.effect == pytest.approx(change.attribution)


def test_the_report_has_the_graph_and_the_values(run):
    page = Page(render_report(run))
    page.check()
    program, text = run.program, page.text
    [figure] = [figure for figure in page.figures if '"slot-0"' in json.dumps(figure)]
    *lines, dots = [trace for trace in figure["data"] if trace.get("x")]
    assert [label.split("<br>") for label in dots["text"]] == [[slot.site, slot.variable] for slot in program.slots]
    edges = [edge for slot in program.slots for edge in program.passed_on(str(slot.slot))]
    assert len(lines) == len(edges) > 0
    widths = sorted(line["line"]["width"] for line in lines)
    assert widths == pytest.approx(sorted(1 + 6 * edge.changes for edge in edges))
    assert {f"slot-{i}" for i in range(len(program.slots))} <= {*page.ids}
    for slot in program.slots:
        assert f"{slot.effect:+.2f} [{slot.low:+.2f}, {slot.high:+.2f}]" in text
        assert all(str(value or "nothing") in text for value in slot.values.values())


def test_groups_come_first_and_those_that_change_little_are_left_out(run):
    graph, program = str(group_graph(run)), run.program
    rows = group_rows(program)
    assert [row["stage"] for row in rows] == ["input", "", ""]
    for group, line, row in zip(program.groups, program.executed.chained.lines, rows, strict=True):
        sites = ", ".join(group.sites)
        assert (row["heads @ role"], row["says"]) == (f"{sites} @ {group.role}", group.variable)
        assert row["f falls if deleted"] == f"{line.fall_deleted:+.2f}"
    slots = {f"{site} @ {group.role}": i for i, group in enumerate(program.groups) for site in group.sites}
    edges = {(slots[edge.sender], slots[edge.receiver]) for edge in program.transitions if edge.known}
    assert graph.count("<br>→") == len({(a, b) for a, b in edges if a != b}) > 0
    changed = run.model_copy(deep=True)
    alone = changed.program.executed.chained
    for line, share in zip(alone.lines, (0.9, -1.1, 1.1), strict=True):
        line.fall_deleted, line.fall_wrong = share * LEAST_FALL * alone.share, 0.0
    assert group_rows(changed.program)[0]["heads @ role"] == rows[1]["heads @ role"]
    assert group_graph(changed).count("<details") == 2


def test_markup_in_a_program_stays_text(run):
    slot, group = run.program.slots[0], run.program.groups[0]
    changed = {"role": EVIL, "variable": EVIL, "values": {"0": EVIL}, "examples": {"0": [EVIL]}}
    evil = Program(
        slots=[slot.model_copy(update=changed)],
        groups=[group.model_copy(update={"role": EVIL, "variable": EVIL})],
        notes=[EVIL],
    )
    page = Page(render_report(run.model_copy(update={"program": evil})))
    page.check()
    assert page.text.count(EVIL) > 3 and "<script" not in json.dumps(page.figures)


def test_a_code_set_changes_the_answer_to_what_it_says_and_the_own_one_does_not(run):
    model, (a, b, two, text), slot = load_model(PLANTED), two_names(run), run.program.said(SLOT).slot
    encoder, book = PromptEncoder(model.tokenizer, run.provenance.pairs.bos), run.program.books[SLOT]
    tokens = encoder.bos + encoder.encode(text)
    (code_there,), before, after = set_codes(model, tokens, [CodeAt(slot, 9, book, two)])
    assert run.program.said(SLOT).values[str(code_there)] == a
    # the name that is said to be repeated is not the answer
    assert model.tokenizer.decode([before.argmax(), after.argmax()]) == f"{b} {a}"
    _, same, unchanged = set_codes(model, tokens, [CodeAt(slot, 9, book, code_there)])
    torch.testing.assert_close(same, before)
    torch.testing.assert_close(unchanged, before)
    assert [same_place((9, 5, 6, 5, 7), (5, 6, 5, 6), i) for i in range(4)] == [1, 2, 3, 4]
    assert same_place((9, 8), (5, 6, 5, 6), 2) == 1


def test_the_page_opens_a_slot_and_sets_a_code(page, folder, run, saved):
    app, (a, b, two, text) = page(folder, run="planted"), two_names(run)
    dots = figure_of(app, "What heads say")["data"][-1]
    assert table_of(app, "heads @ role", "stage").to_dict("records") == group_rows(run.program)
    assert str(group_graph(run)) in html_of(app)
    assert dots["customdata"] == [[f"slot-{i}"] for i in range(len(run.program.slots))] and not app.text_input
    app.selectbox(key="slot").set_value(SLOT).run()
    assert not app.exception and asked(app, "slot") == SLOT
    edges = table_of(app, "stands for", "examples").set_index("code")["stands for"]
    assert edges[two] == b and len(edges) == run.program.said(SLOT).codes
    assert error_of(app.text_input(key="prompt of planted").set_value(" ").run()).startswith("the prompt has")
    app.text_input(key="prompt of planted").set_value(text).run()
    app.selectbox(key=f"token of {SLOT} in {text}").set_value(9)
    app.selectbox(key=f"code of {SLOT}").set_value(two).run()
    press(app, "Set")
    answers = table_of(app, "before", "after")
    assert list(answers.iloc[0][["before", "after"]]) == [b, a] and answers["p after"].is_monotonic_decreasing
    assert f": {a}**, set to **{two}: {b}**" in text_of(app)
    assert page(folder, run="planted", slot=SLOT).selectbox(key="slot").value == SLOT
    assert "This run has no program" in text_of(page(saved, run="small"))
