import re
from types import SimpleNamespace

import pytest

from interp.prompts.sampling import read_data
from interp.tasks import IOI, InputError
from tests.tasks.reading import ShortSighted, changed_roles


def test_lists_and_templates_are_the_published_ones():
    data = read_data("ioi")
    assert (len(data["names"]), len(data["places"]), len(data["objects"])) == (99, 8, 8)
    assert len(set(data["names"])) == 99 and len(data["templates"]) == 15
    first = "Then, {first} and {second} went to the {place}. {subject} gave a {object} to"
    assert data["templates"][0] == first and all(template.endswith(" to") for template in data["templates"])


def test_thirty_pairs_hold_every_template_in_both_orders_once(gpt2):
    pairs = IOI().sample(gpt2, 60)
    expected = {f"{order}-{number}" for order in ("ABBA", "BABA") for number in range(1, 16)}
    assert {pair.template for pair in pairs[:30]} == {pair.template for pair in pairs[30:]} == expected


def test_every_text_is_its_template_with_names_filled_in_in_its_order(gpt2):
    data = read_data("ioi")
    choices = {"place": data["places"], "object": data["objects"]}
    for pair in IOI().sample(gpt2, 60):
        order, index = pair.template.split("-")
        pattern = re.escape(data["templates"][int(index) - 1]).replace(r"\{", "{").replace(r"\}", "}")
        for key in ("first", "second", "subject", "place", "object"):
            allowed = "|".join(choices.get(key, data["names"]))
            pattern = pattern.replace("{" + key + "}", f"(?P<{key}>{allowed})", 1)
            pattern = pattern.replace("{" + key + "}", f"(?P={key})")
        assert re.fullmatch(pattern, pair.corrupt)
        io, subject = (gpt2.decode([tokens[0]]).strip() for tokens in (pair.answers, pair.wrong_answers))
        names = re.fullmatch(pattern, pair.clean).group("first", "second", "subject")
        assert names == ((io, subject, subject) if order == "ABBA" else (subject, io, subject))


@pytest.mark.parametrize("kind", IOI.counterfactuals)
def test_roles_point_at_their_tokens(real_tokenizer, kind):
    for pair in IOI().sample(real_tokenizer, 60, counterfactual=kind):
        assert tuple(pair.positions) and set(pair.positions) == set(IOI.roles)
        at = {role: pair.clean_tokens[position] for role, position in pair.positions.items()}
        assert at["IO"] == pair.answers[0]
        assert at["S1"] == at["S2"] == pair.wrong_answers[0]
        assert pair.positions["S1+1"] == pair.positions["S1"] + 1
        assert real_tokenizer.decode([at["S1+1"]]) in (" and", " went", " had", " were", " got", " found")
        assert real_tokenizer.decode([at["END"]]) == " to"
        assert pair.positions["END"] == len(pair.clean_tokens) - 1


@pytest.mark.parametrize("kind", IOI.counterfactuals)
def test_only_names_change_and_as_the_counterfactual_says(real_tokenizer, kind):
    for pair in IOI().sample(real_tokenizer, 60, counterfactual=kind):
        names, changed = {"IO", "S1", "S2"}, changed_roles(pair)
        assert changed == names if kind == "abc" else changed <= names
        io, subject = pair.answers[0], pair.wrong_answers[0]
        new, s1, s2 = (pair.corrupt_tokens[pair.positions[role]] for role in ("IO", "S1", "S2"))
        if kind == "abc":
            assert len({new, s1, s2, io, subject}) == 5, "three that are neither of the two"
        elif kind == "s2_io":
            assert (new, s1, s2) == (io, subject, io), "so that the answer flips"
        else:
            assert kind == "oneill" and (s1, s2) == (io, subject) and new not in (io, subject)


def test_clean_prompts_do_not_depend_on_the_counterfactual(gpt2):
    samples = [IOI().sample(gpt2, 40, 3, kind) for kind in IOI.counterfactuals]
    assert len({tuple(pair.clean for pair in sample) for sample in samples}) == 1


def test_names_of_several_tokens_are_dropped_and_counted(gpt2):
    pairs = IOI().sample(ShortSighted(gpt2, "Mary", "John"), 300)
    assert pairs.dropped == {"names": 2}
    assert not any(re.search(r"\b(Mary|John)\b", pair.clean + pair.corrupt) for pair in pairs)


def test_a_tokenizer_without_single_token_names_is_told_so():
    class ByteWise:
        bos_token_id = None

        def __call__(self, text, add_special_tokens):
            assert not add_special_tokens
            return SimpleNamespace(input_ids=list(text.encode()))

    with pytest.raises(InputError, match="at least 5 names .* leaves 0"):
        IOI().sample(ByteWise(), 5)
