"""Agreement, pronoun, capital, successor and antonym: what is asked, answered, and changed by the corrupt prompt."""

from collections import Counter
from itertools import pairwise

import pytest

from interp.prompts.sampling import read_data
from interp.tasks import Agreement, Antonym, Capital, Pronoun, Successor
from tests.tasks.reading import ShortSighted, at, changed_roles, decoded

SINGULAR, PLURAL = (set(forms) for forms in zip(*read_data("agreement")["nouns"], strict=True))
OPPOSITES = read_data("antonym")["opposites"]


def number(noun: str) -> str:
    return "singular" if noun in SINGULAR else "plural"


@pytest.mark.parametrize("kind", Agreement.counterfactuals)
def test_verbs_agree_with_the_subject_and_the_corrupt_subject_wants_the_others(real_tokenizer, kind):
    verbs = {"singular": ["is", "was", "has"], "plural": ["are", "were", "have"]}
    for pair in Agreement().sample(real_tokenizer, 60, 3, kind):
        subject, place, attractor = (at(real_tokenizer, pair, r) for r in ("subject", "place", "attractor"))
        wanted, other = number(subject), number(at(real_tokenizer, pair, "subject", "corrupt"))
        assert {wanted, other} == set(verbs) and pair.template.startswith(wanted)
        assert decoded(real_tokenizer, pair.answers) == verbs[wanted]
        assert decoded(real_tokenizer, pair.wrong_answers) == verbs[other]
        assert changed_roles(pair) == ({"subject"} if kind == "number" else {"subject", "attractor"})
        assert pair.positions["attractor"] == pair.positions["END"]
        if pair.template.endswith("-1"):
            assert pair.clean == f"I think that the {subject} {place} the {attractor}"


def test_agreement_has_attractors_of_both_numbers_and_no_noun_is_both(gpt2):
    pairs = Agreement().sample(gpt2, 200)
    same = Counter(number(at(gpt2, p, "subject")) == number(at(gpt2, p, "attractor")) for p in pairs)
    assert min(same.values()) > 70
    assert not SINGULAR & PLURAL and len(SINGULAR) == len(PLURAL) == 30


@pytest.mark.parametrize("kind", Antonym.counterfactuals)
def test_examples_and_answer_are_opposites_and_the_wrong_answer_is_the_query(real_tokenizer, kind):
    opposite = {frozenset(pair) for pair in OPPOSITES}
    for pair in Antonym().sample(real_tokenizer, 60, 3, kind):
        words = {role: at(real_tokenizer, pair, role) for role in Antonym.roles}
        assert {frozenset((words[f"from{i}"], words[f"to{i}"])) for i in "12"} <= opposite
        assert {words["query"], *decoded(real_tokenizer, pair.answers)} in opposite
        assert decoded(real_tokenizer, pair.wrong_answers) == [words["query"]]
        assert changed_roles(pair) == ({"to1", "to2"} if kind == "relation" else {"query"})
        for i in "12" if kind == "relation" else "":  # the examples repeat their word
            again = (at(real_tokenizer, pair, f"{role}{i}", "corrupt") for role in ("to", "from"))
            assert len(set(again)) == 1


def test_opposites_are_asked_for_in_both_directions(gpt2):
    firsts = {a for a, _ in OPPOSITES}
    assert 30 < sum(at(gpt2, pair, "query") in firsts for pair in Antonym().sample(gpt2, 100)) < 70


def test_answers_are_the_capitals_of_both_countries(real_tokenizer):
    capitals = read_data("capital")["capitals"]
    for pair in Capital().sample(real_tokenizer, 60, 3):
        country, other = (at(real_tokenizer, pair, "country", side) for side in ("clean", "corrupt"))
        assert country != other
        assert decoded(real_tokenizer, pair.answers) == [capitals[country]]
        assert decoded(real_tokenizer, pair.wrong_answers) == [capitals[other]]
        assert changed_roles(pair) == {"country"} and capitals[country] not in pair.clean


def test_the_pronoun_fits_the_name_and_the_corrupt_name_wants_the_other(real_tokenizer):
    data = read_data("pronoun")
    assert len({*data["female"], *data["male"]}) == len(data["female"] + data["male"])
    for pair in Pronoun().sample(real_tokenizer, 60, 3):
        name, corrupt = at(real_tokenizer, pair, "name"), at(real_tokenizer, pair, "name", "corrupt")
        right, wrong = ("she", "he") if name in data["female"] else ("he", "she")
        assert (name in data["female"]) != (corrupt in data["female"])
        assert decoded(real_tokenizer, pair.answers) == [right]
        assert decoded(real_tokenizer, pair.wrong_answers) == [wrong]
        assert changed_roles(pair) == {"name"}


def test_the_answer_is_what_comes_next_in_the_sequence(real_tokenizer):
    following = {a: b for sequence in read_data("successor")["sequences"] for a, b in pairwise(sequence)}
    for pair in Successor().sample(real_tokenizer, 60, 3):
        for side, tokens in (("clean", pair.answers), ("corrupt", pair.wrong_answers)):
            first, second, last = (at(real_tokenizer, pair, r, side) for r in ("first", "second", "last"))
            assert (following[first], following[second]) == (second, last)
            assert decoded(real_tokenizer, tokens) == [following[last]]
        assert changed_roles(pair) == {"first", "second", "last"}
        assert at(real_tokenizer, pair, "END") == ","


@pytest.mark.parametrize(
    ("task", "templates"), [(Agreement, 20), (Antonym, 6), (Capital, 7), (Pronoun, 20), (Successor, 30)]
)
def test_every_template_comes_equally_often(gpt2, task, templates):
    names = [pair.template for pair in task().sample(gpt2, 2 * templates)]
    assert len(set(names)) == templates
    assert set(names[:templates]) == set(names[templates:]) == set(names)


def test_words_of_several_tokens_are_dropped_with_what_they_belong_to_and_counted(gpt2):
    before = Capital().sample(gpt2, 1).dropped.get("countries", 0)
    pairs = Capital().sample(ShortSighted(gpt2, "Paris", "Japan"), 100)
    assert pairs.dropped == {"countries": before + 2}
    assert not any(country in pair.clean + pair.corrupt for pair in pairs for country in ("France", "Japan"))
    pairs = Successor().sample(ShortSighted(gpt2, "seven", "Friday"), 100)
    assert pairs.dropped == {"sequences": 3}  # "seventh" too
    assert {pair.template.split("-")[0] for pair in pairs} == {"January", "A"}
