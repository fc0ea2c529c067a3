"""Template files: right answers by construction, kinds of corrupt prompt, seeds, mistakes, and a discovery from one."""

import json
from collections import Counter

import pytest

from interp.errors import InputError
from interp.models import load_model
from interp.planted.tasks import NAMES, OBJECTS, PLACES
from interp.prompts.pairs import HighLevelModel, Task
from interp.prompts.sampling import held_out_pairs, sample_pairs
from interp.runs.discover import find_circuit
from interp.runs.folder import pairs_of, task_of
from interp.runs.run import Run
from interp.tasks import PromptFile, TemplateFile, TooFewPairs, load_task
from tests.tasks.reading import at, changed_roles, decoded
from tests.test_docs import ROOT, blocks

IOI, CAPITAL, AGREEMENT, ANTONYM, SUCCESSOR, GREATER_THAN = (
    json.loads(block.text)
    for block in blocks(ROOT / "docs/tasks.md")
    if block.language == "json" and "templates" in block.text
)
"""The examples of the documents."""
IOI["corrupt"].append({"S@2": "*"})
AGREEMENT["corrupt"].append({"name": "both", "set": {"number": "*", "near": "*"}})
PEOPLE, COUNT = IOI["values"]["IO"], SUCCESSOR["values"]["word"]
VERBS = {number["text"]: number["verbs"] for number in AGREEMENT["values"]["number"]}
NOUNS = {noun["singular"]: noun["plural"] for noun in AGREEMENT["values"]["noun"]}
CAPITALS = {country["text"]: country["capital"] for country in CAPITAL["values"]["country"]}
OPPOSITES = {word["same"]: word["opposite"] for word in ANTONYM["values"]["a"]}


@pytest.fixture
def template_file(tmp_path):
    """Writes a file, with changes, and reads it as the command line does."""

    def make(document: dict, **changes) -> TemplateFile:
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(document | changes), encoding="utf-8")
        task = load_task(path)
        assert isinstance(task, TemplateFile) and isinstance(task, Task) and isinstance(task, HighLevelModel)
        return task

    return make


def test_ioi_of_each_kind(template_file, real_tokenizer):
    task = template_file(IOI)
    assert task.roles == ("IO", "S1", "place", "S2", "thing", "END")
    assert task.counterfactuals == ("flip", "IO+S@1+S@2", "S@2")
    samples = {kind: task.sample(real_tokenizer, 40, 1, kind) for kind in task.counterfactuals}
    assert [pair.clean for pair in samples["flip"]] == [pair.clean for pair in samples["S@2"]]
    for pair in samples["flip"]:
        io, s1, s2 = (at(real_tokenizer, pair, role) for role in ("IO", "S1", "S2"))
        assert io != s1 == s2 and at(real_tokenizer, pair, "S2", "corrupt") == io
        assert changed_roles(pair) == {"S2"}
        clean, corrupt = pair.variables["clean"], pair.variables["corrupt"]
        assert [clean[name] for name in ("IO", "S", "S@1", "S@2")] == [io, s1, s1, s1]
        assert corrupt == clean | {"S@2": io} and clean["template"] == pair.template
        assert task.expected(clean) == (f" {io}",) and decoded(real_tokenizer, pair.answers) == [io]
        assert task.expected(corrupt) == (f" {s1}",) and decoded(real_tokenizer, pair.wrong_answers) == [s1]
        assert task.expected(clean | {"S": io}) is task.expected(clean | {"IO": None}) is None
    assert Counter(pair.template for pair in samples["flip"]) == {"1": 20, "2": 20}
    for pair in samples["IO+S@1+S@2"]:
        sides = [{at(real_tokenizer, pair, r, side) for r in ("IO", "S1", "S2")} for side in pair.variables]
        assert [len(names) for names in sides] == [2, 3] and not sides[0] & sides[1]
        assert pair.variables["corrupt"]["S"] is task.expected(pair.variables["corrupt"]) is None


def test_answers_of_other_kinds_of_tasks_are_right_by_construction(template_file, smollm2):
    for pair in template_file(AGREEMENT).sample(smollm2, 8, counterfactual="both"):
        clean, corrupt = pair.variables["clean"], pair.variables["corrupt"]
        assert {clean["number"], corrupt["number"]} == set(VERBS) and clean["near"] != corrupt["near"]
        subject = clean["noun"] if clean["number"] == "singular" else NOUNS[clean["noun"]]
        assert at(smollm2, pair, "noun") == subject and changed_roles(pair) == {"noun", "other"}
        assert decoded(smollm2, pair.answers) == VERBS[clean["number"]]
        assert decoded(smollm2, pair.wrong_answers) == VERBS[corrupt["number"]]
    for pair in template_file(CAPITAL).sample(smollm2, 4):
        country, other = (at(smollm2, pair, "country", side) for side in pair.variables)
        assert decoded(smollm2, pair.answers) == [CAPITALS[country]] and country != other
        assert decoded(smollm2, pair.wrong_answers) == [CAPITALS[other]]
    pairs = template_file(GREATER_THAN).sample(smollm2, 30)
    assert pairs.metric == "prob_diff"
    for pair in pairs:
        tens = int(pair.variables["clean"]["tens"])
        assert 1 <= tens <= 8 and pair.corrupt == pair.clean[:-17] + "01" + pair.clean[-15:]
        assert decoded(smollm2, pair.answers) == [str(digit) for digit in range(tens + 1, 10)]
        assert decoded(smollm2, pair.wrong_answers) == [str(digit) for digit in range(tens)]
    for pair in template_file(SUCCESSOR).sample(smollm2, 4):
        word, later, latest = (at(smollm2, pair, f"word{i}") for i in (1, 2, 3))
        start = COUNT.index(word)
        assert [word, later, latest, *decoded(smollm2, pair.answers)] == COUNT[start : start + 4]
    task = template_file(ANTONYM)
    for pair in task.sample(smollm2, 10):
        query, asked = pair.variables["clean"]["query"], pair.variables["clean"]["relation"]
        answers = [OPPOSITES[query], query] if asked == "opposite" else [query, OPPOSITES[query]]
        assert decoded(smollm2, pair.answers + pair.wrong_answers) == answers
        assert changed_roles(pair) == {"a2", "b2"}
        assert task.expected(pair.variables["corrupt"]) == (f" {answers[1]}",)


def test_samples_are_seeded_distinct_and_used_up(template_file, smollm2):
    task = template_file(IOI)
    pairs = task.sample(smollm2, 40, 3, "S@2")
    assert list(pairs) == list(template_file(IOI).sample(smollm2, 40, 3, "S@2"))
    assert list(task.sample(smollm2, 20, 3, "S@2")) == pairs[:20] != list(task.sample(smollm2, 20, 4, "S@2"))
    assert len({pair.clean for pair in pairs}) == 40
    others = held_out_pairs(task, smollm2, 9, pairs)
    assert len(others) == 9 and not {p.clean for p in others} & {p.clean for p in pairs}
    small = template_file(SUCCESSOR)
    assert len(sample_pairs(small, smollm2, None, small.default_n)) == 4
    with pytest.raises(TooFewPairs, match="5 pairs asked for.* give 4 "):
        small.sample(smollm2, 5)


def test_words_of_other_lengths_are_dropped_counted_and_named(template_file, smollm2):
    names = {**IOI["values"], "IO": [*PEOPLE, "Bartholomew", "Wilhelmina"], "thing": ["Bartholomew"]}
    pairs = template_file(IOI, values=names).sample(smollm2, 30, 0, "flip")
    assert pairs.dropped == {"values of IO": 2}
    assert not any(name in pair.clean.partition(",")[0] for pair in pairs for name in names["IO"][5:])
    assert "thing is 'Bartholomew' in every prompt" in pairs.notes
    assert any(note.startswith("S and S@1 have the same value") for note in pairs.notes)
    names["IO"] = names["IO"][2:]
    with pytest.raises(InputError, match=r"list of IO has 3 .*2 values .*Bartholomew, Wilhelmina.* need 5"):
        template_file(IOI, values=names).sample(smollm2, 1)


PRONOUN = {"templates": ["{A} said that"], "values": {"A": ["x", "y", "z"]}}
PRONOUN |= {"answer": "{A}", "corrupt": [{"A": "*"}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"templates": ["{B} said"]}, r"templates\[0\] names B: the variables are A"),
        ({"templates": ["{A said"]}, "braces"),
        ({"templates": ["{A.later} said"]}, "'x' of A .*'later'.*text"),
        ({"templates": ["{A+3} said"]}, "list of A has 0 "),
        ({"values": {"A": ["x", "y"], "B": ["z"]}}, "values: B stands in no"),
        ({"values": {"A": "B"}}, "values.A names 'B'"),
        ({"values": {"A": ["x", "x"]}}, "values.A 'x' .*twice"),
        ({"values": {"A": ["x", 3]}}, r"values.A \[1\] is 3"),
        ({"values": {"A": {"from": "9", "to": "12"}}}, "range"),
        ({"values": {"A": ["x"]}}, "list of A has 1 .*need 2"),
        ({"answer": "{A}", "wrong": ["{A}"]}, r"'{A}' is both"),
        ({"corrupt": [{"B": "*"}]}, "sets B: the variables are A"),
        ({"corrupt": [{"A@2": "*"}]}, "A@2 is not in every template"),
        ({"corrupt": [{"A": "w"}]}, "A to w: it may be ."),
        ({"corrupt": [{"A@1": "*"}]}, "say wrong"),
        ({"corrupt": [{"A": "*"}, {"A": "*"}]}, "called the same"),
        ({"prompts": []}, "prompts"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_line_that_names_it(template_file, changes, message):
    with pytest.raises(InputError, match=message) as error:
        template_file(PRONOUN, **changes)
    assert "mine.json" in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_template_file_is_read_as_prompts_or_refused(tmp_path):
    prompts = {"clean": "a b", "corrupt": "a c", "answers": [' "templates"'], "wrong_answers": ["templates"]}
    (tmp_path / "prompts.json").write_text(json.dumps({"prompts": [prompts]}))
    assert isinstance(load_task(tmp_path / "prompts.json"), PromptFile)
    (tmp_path / "cut.json").write_text(json.dumps(IOI)[:-3])
    with pytest.raises(InputError, match="JSON.*the form is {.templates"):
        load_task(tmp_path / "cut.json")


def test_a_planted_circuit_is_found_from_templates_and_the_run_samples_them_again(template_file, tmp_path):
    name = "planted-inhibition"
    frames = (
        "{IO} and {S} went to the {place} . {S} gave a {thing} to",
        "{S} and {IO} went to the {place} . {S} gave a {thing} to",
        "Then {IO} and {S} left the {place} . {S} handed a {thing} to",
        "When {S} met {IO} at the {place} , {S} gave the {thing} to",
        "{IO} and {S} left the old {place} while {S} passed the {thing} to",
    )
    values = {"IO": [*NAMES, "Unheard"], "S": "IO", "place": PLACES, "thing": OBJECTS}
    task = template_file(IOI, templates=frames, values=values, corrupt=IOI["corrupt"][1:2])
    model = load_model(name)
    run = find_circuit(model, task, n=16)
    shipped = find_circuit(model, name, n=16)
    assert {part.site for part in run.members} == {part.site for part in shipped.members}
    assert run.provenance.pairs.dropped == {"values of IO": 1}
    run.save(tmp_path / "run")
    (tmp_path / "mine.json").unlink()
    again = Run.load(tmp_path / "run")
    pairs = pairs_of(again, tmp_path / "run", model.tokenizer, 16)
    assert isinstance(task_of(again, tmp_path / "run"), TemplateFile)
    assert list(pairs) == list(task.sample(model.tokenizer, 16))
