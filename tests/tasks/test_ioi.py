import re
from types import SimpleNamespace

import pytest

from interp.prompts.sampling import read_data
from interp.tasks import IOI, InputError


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def test_the_first_template_reads_as_published():
    templates = read_data("ioi")["templates"]
    assert len(templates) == 15
    assert templates[0] == "Then, {first} and {second} went to the {place}. {subject} gave a {object} to"
    assert all(template.endswith(" to") for template in templates)


def test_lists_have_the_published_sizes():
    data = read_data("ioi")
    assert (len(data["names"]), len(data["places"]), len(data["objects"])) == (99, 8, 8)
    assert len(set(data["names"])) == 99


def test_abba_names_the_indirect_object_first_and_baba_the_subject(gpt2):
    for pair in IOI().sample(gpt2, 60):
        io = gpt2.decode([pair.answers[0]]).strip()
        subject = gpt2.decode([pair.wrong_answers[0]]).strip()
        found = [word for word in words(pair.clean) if word in (io, subject)]
        expected = [io, subject, subject] if pair.template.startswith("ABBA") else [subject, io, subject]
        assert found == expected


def test_thirty_pairs_hold_every_template_in_both_orders_once(gpt2):
    pairs = IOI().sample(gpt2, 60)
    expected = {f"{order}-{number}" for order in ("ABBA", "BABA") for number in range(1, 16)}
    assert {pair.template for pair in pairs[:30]} == {pair.template for pair in pairs[30:]} == expected


def test_every_template_text_is_the_template_with_names_filled_in(gpt2):
    data = read_data("ioi")
    for pair in IOI().sample(gpt2, 60):
        template = data["templates"][int(pair.template.split("-")[1]) - 1]
        choices = {"place": data["places"], "object": data["objects"]}
        pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
        for key in ("first", "second", "subject", "place", "object"):
            allowed = "|".join(choices.get(key, data["names"]))
            pattern = pattern.replace("{" + key + "}", f"(?:{allowed})")
        assert re.fullmatch(pattern, pair.clean) and re.fullmatch(pattern, pair.corrupt)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("kind", IOI.counterfactuals)
def test_roles_point_at_their_tokens(real_tokenizer, kind, bos):
    for pair in IOI().sample(real_tokenizer, 60, counterfactual=kind, bos=bos):
        assert tuple(pair.positions) and set(pair.positions) == set(IOI.roles)
        at = {role: pair.clean_tokens[position] for role, position in pair.positions.items()}
        assert at["IO"] == pair.answers[0]
        assert at["S1"] == at["S2"] == pair.wrong_answers[0]
        assert pair.positions["S1+1"] == pair.positions["S1"] + 1
        assert real_tokenizer.decode([at["S1+1"]]) in (" and", " went", " had", " were", " got", " found")
        assert real_tokenizer.decode([at["END"]]) == " to"
        assert pair.positions["END"] == len(pair.clean_tokens) - 1


@pytest.mark.parametrize("kind", IOI.counterfactuals)
def test_only_name_tokens_change(real_tokenizer, kind):
    for pair in IOI().sample(real_tokenizer, 60, counterfactual=kind):
        names = {pair.positions[role] for role in ("IO", "S1", "S2")}
        changed = {
            i
            for i, tokens in enumerate(zip(pair.clean_tokens, pair.corrupt_tokens, strict=True))
            if tokens[0] != tokens[1]
        }
        assert changed <= names
        if kind == "abc":
            assert changed == names


def corrupt_names(pair) -> tuple[int, int, int]:
    io, s1, s2 = (pair.corrupt_tokens[pair.positions[role]] for role in ("IO", "S1", "S2"))
    return io, s1, s2


def test_abc_puts_three_different_names_that_are_neither_of_the_two(gpt2):
    for pair in IOI().sample(gpt2, 200, counterfactual="abc"):
        names = set(corrupt_names(pair))
        assert len(names) == 3 and not names & {pair.answers[0], pair.wrong_answers[0]}


def test_s2_io_repeats_the_indirect_object_so_that_the_answer_flips(gpt2):
    for pair in IOI().sample(gpt2, 60, counterfactual="s2_io"):
        io, subject = pair.answers[0], pair.wrong_answers[0]
        assert corrupt_names(pair) == (io, subject, io)


def test_oneill_moves_the_indirect_object_to_s1_and_puts_a_new_name_at_its_place(gpt2):
    for pair in IOI().sample(gpt2, 60, counterfactual="oneill"):
        io, subject = pair.answers[0], pair.wrong_answers[0]
        new, s1, s2 = corrupt_names(pair)
        assert (s1, s2) == (io, subject) and new not in (io, subject)


def test_clean_prompts_do_not_depend_on_the_counterfactual(gpt2):
    samples = [IOI().sample(gpt2, 40, 3, kind) for kind in IOI.counterfactuals]
    assert len({tuple(pair.clean for pair in sample) for sample in samples}) == 1


def test_names_of_several_tokens_are_dropped_and_counted(gpt2):
    class ShortSighted:
        bos_token_id = None

        def __call__(self, text, **options):
            return gpt2(text.replace("Mary", "Maryxq").replace("John", "Johnxq"), **options)

    pairs = IOI().sample(ShortSighted(), 300)
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
