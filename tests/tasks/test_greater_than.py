import re

import pytest

from interp.tasks import GreaterThan, InputError

LONG = re.compile(r"The (\w+) lasted from the year (\d\d)(\d\d) to the year (\d\d)")


def test_prompt_reads_as_published_and_gpt2_answers_are_all_two_digit_tokens_above_the_year(gpt2):
    pairs = GreaterThan().sample(gpt2, 100)
    for pair in pairs:
        match = LONG.fullmatch(pair.clean)
        assert match and match[2] == match[4] and 11 <= int(match[2]) <= 17
        assert pair.corrupt == f"The {match[1]} lasted from the year {match[2]}01 to the year {match[2]}"
        right, wrong = ([gpt2.decode([t]) for t in tokens] for tokens in (pair.answers, pair.wrong_answers))
        assert right == [f"{year:02d}" for year in range(int(match[3]) + 1, 100)]
        assert wrong == [f"{year:02d}" for year in range(int(match[3]) + 1)]
    assert pairs.notes == ()


def test_gpt2_years_split_in_two_and_the_border_years_of_a_century_are_dropped(gpt2):
    pairs = GreaterThan().sample(gpt2, 5000)
    years = {"".join(LONG.fullmatch(pair.clean).group(2, 3)) for pair in pairs}
    for century in range(11, 18):
        splits = [
            f"{century}{y:02d}"
            for y in range(2, 99)
            if [gpt2.decode([i]) for i in gpt2(f" {century}{y:02d}").input_ids] == [f" {century}", f"{y:02d}"]
        ]
        assert {year for year in years if year.startswith(str(century))} == set(splits[1:-1])
    assert pairs.dropped["years"] == 7 * 97 - len(years)


@pytest.mark.parametrize("kind", GreaterThan.counterfactuals)
def test_gpt2_roles_point_at_the_year(gpt2, kind):
    for pair in GreaterThan().sample(gpt2, 40, 1, kind):
        match = LONG.fullmatch(pair.clean)
        at = {role: gpt2.decode([pair.clean_tokens[i]]) for role, i in pair.positions.items()}
        assert at == {"XX": f" {match[2]}", "YY": match[3], "END": f" {match[4]}"}


@pytest.mark.parametrize("name", ["digit_tokenizer", pytest.param("smollm2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", GreaterThan.counterfactuals)
def test_tokenizers_of_digits_are_asked_for_the_tens_digit(name, kind, request):
    tokenizer = request.getfixturevalue(name)
    pairs = GreaterThan().sample(tokenizer, 60, 1, kind)
    for pair in pairs:
        match = LONG.fullmatch(pair.clean)
        tens = int(match[3][0])
        at = {role: tokenizer.decode([pair.clean_tokens[i]]) for role, i in pair.positions.items()}
        assert at == {"XX": match[2][1], "Y1": match[3][0], "Y2": match[3][1], "END": match[4][1]}
        assert [tokenizer.decode([t]) for t in pair.answers] == [str(d) for d in range(tens + 1, 10)]
        assert [tokenizer.decode([t]) for t in pair.wrong_answers] == [str(d) for d in range(tens)]
        assert pair.answers and pair.wrong_answers
    assert "equal digit counts for neither side" in pairs.notes[0]


def test_digit_tokenizers_change_exactly_the_two_last_digits_under_01(digit_tokenizer):
    pair = GreaterThan().sample(digit_tokenizer, 1)[0]
    at = [digit_tokenizer.decode([pair.corrupt_tokens[pair.positions[role]]]) for role in ("Y1", "Y2")]
    assert at == ["0", "1"]
    clean, corrupt = list(pair.clean_tokens), list(pair.corrupt_tokens)
    for role in ("Y1", "Y2"):
        clean[pair.positions[role]] = corrupt[pair.positions[role]] = -1
    assert clean == corrupt


def test_no_other_year_has_the_answer_of_the_clean_one_where_a_digit_is_a_token(digit_tokenizer):
    for pair in GreaterThan().sample(digit_tokenizer, 200, 0, "year"):
        clean, corrupt = (LONG.fullmatch(text) for text in (pair.clean, pair.corrupt))
        assert clean[2] != corrupt[2] and clean[3][0] != corrupt[3][0]


def test_the_easier_counterfactuals_are_what_their_names_say(gpt2):
    task = GreaterThan()
    for kind in task.counterfactuals[1:]:
        for pair in task.sample(gpt2, 60, 2, kind):
            noun, century, last, _ = LONG.fullmatch(pair.clean).groups()
            corrupt = LONG.fullmatch(pair.corrupt)
            if kind == "range":
                assert corrupt.groups() == (noun, century, last, str(int(century) - 1))
            elif kind == "year":
                assert corrupt[1] == noun and corrupt[4] == century
                assert corrupt[2] != century and corrupt[3] != last
            elif kind == "random":
                assert corrupt[1] != noun and corrupt[2] == corrupt[4]
                assert corrupt.group(2, 3) != (century, last)
            elif kind == "unrelated":
                assert pair.corrupt.startswith("The ") and not re.search(r"\d|year", pair.corrupt)
            else:
                assert pair.corrupt == f"The {noun} began in the year {century}{last}, the year {century}"


def test_whole_year_tokens_and_more_prompts_than_there_are_are_refused(whole_year_tokenizer, digit_tokenizer):
    with pytest.raises(InputError, match="two two-digit tokens or one token a digit.* 1732 in 1 token "):
        GreaterThan().sample(whole_year_tokenizer, 4)
    with pytest.raises(InputError, match=r"n is 10000000: ask the task greater-than for 1 to 100000 pairs"):
        GreaterThan().sample(digit_tokenizer, 10_000_000)
