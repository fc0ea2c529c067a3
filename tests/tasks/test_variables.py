"""What varies: what tasks and files say of their prompts, and what is derived."""

import json

import numpy as np
import pytest

from interp.errors import InputError
from interp.models import load_model
from interp.programs.codes import variables
from interp.prompts.pairs import PromptPairs
from interp.prompts.prompt_file import PromptFile, write_prompt_file
from interp.tasks import load_task

VARIED = {
    "ioi": ("order", {"S first", "S second", None}),
    "greater-than": ("tens", set("0123456789")),
    "agreement": ("number", {"singular", "plural"}),
    "antonym": ("relation", {"opposite", "same"}),
    "pronoun": ("gender", {"male", "female"}),
}


def sample(name: str, tokenizer, n: int = 40, **options) -> PromptPairs:
    return load_task(name).sample(tokenizer, n, seed=3, **options)


@pytest.mark.parametrize("name", [*VARIED, "docstring", "successor", "capital"])
def test_every_task_says_what_varies(name, gpt2):
    pairs = sample(name, gpt2)
    for pair in pairs:
        assert set(pair.variables) == {"clean", "corrupt"}
        assert pair.variables["clean"].keys() == pair.variables["corrupt"].keys()
    if name in VARIED:
        variable, values = VARIED[name]
        assert {pair.variables[side][variable] for pair in pairs for side in pair.variables} <= values
    by_name = {variable.name: variable for variable in variables(pairs, gpt2)}
    stated = list(pairs[0].variables["clean"])
    assert list(by_name)[: len(stated)] == stated and all(by_name[name].given for name in stated)


@pytest.mark.parametrize("kind", ["abc", "s2_io", "oneill"])
def test_the_order_of_ioi_is_where_the_repeated_name_stood(gpt2, kind):
    for pair in sample("ioi", gpt2, counterfactual=kind):
        for side, text in (("clean", pair.clean_tokens), ("corrupt", pair.corrupt_tokens)):
            io, s1, s2 = (text[pair.positions[role]] for role in ("IO", "S1", "S2"))
            values = pair.variables[side]
            if s2 not in (io, s1):
                assert values["order"] is values["S"] is values["IO"] is None
                continue
            at = {s1: pair.positions["S1"], io: pair.positions["IO"]}
            other = io if s2 == s1 else s1
            assert values["order"] == ("S first" if at[s2] < at[other] else "S second")
            assert gpt2.decode([s2]).strip() == values["S"]
            assert gpt2.decode([other]).strip() == values["IO"]


def entry(i: int = 0, **more) -> dict:
    names = ["Mary", "Paul", "Anna"]
    given = {"clean": f"John met {names[i]} and John gave", "corrupt": f"Bob met {names[i]} and Tom gave"}
    return {**given, "answers": [" a"], "wrong_answers": [" the"], **more}


def test_a_file_names_roles_by_pieces_and_gives_variables(gpt2, tmp_path):
    path = tmp_path / "mine.json"
    sides = {"clean": {"S": "John", "n": 1}, "corrupt": {"S": None, "n": 2}}
    roles = {"S1": ["John", 1], "S2": ["John", 2], "and": [" and", 1]}
    path.write_text(json.dumps({"prompts": [entry(i, roles=roles, variables=sides) for i in range(3)]}))
    pairs = PromptFile(path).sample(gpt2, 3)
    for pair in pairs:
        assert pair.variables == sides
        clean = [gpt2.decode([token]) for token in pair.clean_tokens]
        assert [clean[pair.positions[role]].strip() for role in roles] == ["John", "John", "and"]
        assert pair.positions["S1"] < pair.positions["S2"]
    write_prompt_file(pairs, tmp_path / "again.json", gpt2)
    again = PromptFile(tmp_path / "again.json").sample(gpt2, 3)
    assert sorted(map(str, again)) == sorted(map(str, pairs))


SIDES = {"clean": {"S": "John"}, "corrupt": {"S": None}}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([entry(roles={"S3": ["John", 3]})], "'John' stands 2 times"),
        ([entry(roles={"S1": ["John", 0]})], "greater than or equal to 1"),
        ([entry(roles={"part": ["Jo", 1]})], "no token border"),
        ([entry(0, variables=SIDES), entry(1)], "prompts[1] lacks the variables"),
        ([entry(variables={"clean": {"S": "John"}, "corrupt": {}})], "one side lacks S"),
        ([entry(variables={"clean": {"S": "John"}, "corrupt": {"S": 3}})], "one type"),
    ],
)
def test_mistakes_in_roles_and_variables_are_one_line(gpt2, tmp_path, rows, message):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"prompts": rows}))
    with pytest.raises(InputError) as error:
        PromptFile(path).sample(gpt2, len(rows))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_of_a_constant_and_of_one_value_a_prompt_nothing_can_be_told(gpt2, tmp_path):
    path = tmp_path / "mine.json"
    sides = [{"clean": {"same": 1, "own": 2 * i}, "corrupt": {"same": 1, "own": 2 * i + 1}} for i in range(3)]
    path.write_text(json.dumps({"prompts": [entry(i, variables=sides[i]) for i in range(3)]}))
    by_name = {v.name: v for v in variables(PromptFile(path).sample(gpt2, 3), gpt2)}
    assert by_name["same"].fault and by_name["own"].fault and by_name["same"].fault != by_name["own"].fault


def test_derived_variables_are_read_from_the_prompts():
    tokenizer = load_model("planted-inhibition").tokenizer
    pairs = sample("planted-inhibition", tokenizer)
    by_name = {v.name: v for v in variables(pairs, tokenizer)}
    assert [v.name for v in by_name.values() if v.given] == ["IO", "S", "order"]
    order, token = by_name["order of roles"], by_name["token at S2"]
    assert np.array_equal(order.ids[0], order.ids[1]) and len(order.values) == 2
    for i, pair in enumerate(pairs):
        assert token.values[token.ids[1, i]] == tokenizer.decode([pair.corrupt_tokens[pair.positions["S2"]]])
