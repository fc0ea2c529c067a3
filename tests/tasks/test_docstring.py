import re

import pytest

from interp.prompts.sampling import read_data
from interp.tasks import Docstring

FORM = re.compile(
    r"\ndef (?P<method>\w+)\(self, (?P<before1>\w+), (?P<before2>\w+), "
    r"(?P<A_def>\w+), (?P<B_def>\w+), (?P<C_def>\w+), (?P<after>\w+)\):\n"
    r'    """(?P<summary>\w+ \w+ \w+)\n\n'
    r"    :param (?P<A_doc>\w+): (?P<first>\w+ \w+)\n"
    r"    :param (?P<B_doc>\w+): (?P<second>\w+ \w+)\n"
    r"    :param"
)

CHANGED = {
    "random_random": {"A_def", "B_def", "C_def", "A_doc", "B_doc"},
    "random_doc": {"A_doc", "B_doc"},
    "random_def": {"A_def", "B_def"},
    "random_answer": {"C_def"},
    "random_def_doc": {"A_def", "B_def", "A_doc", "B_doc"},
    "random_answer_doc": {"C_def", "A_doc", "B_doc"},
}


@pytest.mark.parametrize("kind", Docstring.counterfactuals)
def test_each_kind_changes_its_arguments_and_nothing_else(real_tokenizer, kind):
    for pair in Docstring().sample(real_tokenizer, 60, counterfactual=kind):
        clean, corrupt = (FORM.fullmatch(text).groupdict() for text in (pair.clean, pair.corrupt))
        assert {key for key in clean if clean[key] != corrupt[key]} == CHANGED[kind]
        new = [corrupt[key] for key in sorted(CHANGED[kind])]
        assert not set(new) & set(clean.values())
        if kind == "random_def_doc":
            assert (corrupt["A_def"], corrupt["B_def"]) == (corrupt["A_doc"], corrupt["B_doc"])
        else:
            assert len(set(new)) == len(new)


@pytest.mark.parametrize("kind", Docstring.counterfactuals)
def test_roles_point_at_their_tokens_in_both_prompts(real_tokenizer, kind):
    for pair in Docstring().sample(real_tokenizer, 30, counterfactual=kind):
        assert set(pair.positions) == set(Docstring.roles)
        for text, tokens in ((pair.clean, pair.clean_tokens), (pair.corrupt, pair.corrupt_tokens)):
            words = FORM.fullmatch(text).groupdict()
            at = {role: real_tokenizer.decode([tokens[i]]) for role, i in pair.positions.items()}
            for role in ("A_def", "B_def", "C_def", "A_doc", "B_doc"):
                assert at[role] == " " + words[role]
            assert at["comma"] == ","
            assert at["param2"] == at["param3"] == at["END"] == "param"
        positions = pair.positions
        assert positions["comma"] == positions["B_def"] + 1
        assert positions["param2"] == positions["B_doc"] - 1
        assert positions["param3"] == positions["END"] == len(pair.clean_tokens) - 1


@pytest.mark.slow
def test_positions_without_bos_are_those_of_auto_circuit_where_indents_are_one_token(smollm2):
    pair = Docstring().sample(smollm2, 1, bos=False)[0]
    first = {"A_def": 10, "B_def": 12, "comma": 13, "C_def": 14}
    assert pair.positions == first | {"A_doc": 26, "param2": 32, "B_doc": 33, "param3": 39, "END": 39}


@pytest.mark.parametrize("kind", Docstring.counterfactuals)
def test_wrong_answers_are_the_other_argument_names_of_both_prompts(gpt2, kind):
    arguments = ("before1", "before2", "A_def", "B_def", "C_def", "after", "A_doc", "B_doc")
    for pair in Docstring().sample(gpt2, 30, counterfactual=kind):
        clean, corrupt = (FORM.fullmatch(text).groupdict() for text in (pair.clean, pair.corrupt))
        assert [gpt2.decode([token]) for token in pair.answers] == [" " + clean["C_def"]]
        expected = {words[key] for words in (clean, corrupt) for key in arguments} - {clean["C_def"]}
        assert {gpt2.decode([token]) for token in pair.wrong_answers} == {" " + word for word in expected}
        assert len(pair.wrong_answers) == len(expected)


def test_all_prompts_of_a_tokenizer_have_one_length_and_no_name_is_a_word(real_tokenizer):
    pairs, data = Docstring().sample(real_tokenizer, 200), read_data("docstring")
    assert len({len(pair.clean_tokens) for pair in pairs}) == 1 and pairs.dropped == {}
    assert len({*data["names"], *data["words"]}) == len(data["names"]) + len(data["words"])
