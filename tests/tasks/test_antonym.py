import pytest

from interp.prompts.sampling import read_data
from interp.tasks import Antonym
from tests.tasks.reading import at, changed_roles, decoded


def opposite_of() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for a, b in read_data("antonym")["opposites"]:
        found.setdefault(a, set()).add(b)
        found.setdefault(b, set()).add(a)
    return found


@pytest.mark.parametrize("kind", Antonym.counterfactuals)
def test_examples_and_answer_are_opposites_and_the_wrong_answer_is_the_query(real_tokenizer, kind):
    opposites = opposite_of()
    for pair in Antonym().sample(real_tokenizer, 60, 3, kind):
        words = {role: at(real_tokenizer, pair, role) for role in Antonym.roles}
        assert words["to1"] in opposites[words["from1"]] and words["to2"] in opposites[words["from2"]]
        assert decoded(real_tokenizer, pair.answers)[0] in opposites[words["query"]]
        assert decoded(real_tokenizer, pair.wrong_answers) == [words["query"]]
        assert changed_roles(pair) == ({"to1", "to2"} if kind == "relation" else {"query"})


def test_relation_makes_the_examples_repeat_their_word(gpt2):
    for pair in Antonym().sample(gpt2, 20):
        for i in "12":
            assert at(gpt2, pair, f"to{i}", "corrupt") == at(gpt2, pair, f"from{i}", "corrupt")


def test_opposites_are_asked_for_in_both_directions_and_in_every_frame(gpt2):
    firsts = {a for a, _ in read_data("antonym")["opposites"]}
    pairs = Antonym().sample(gpt2, 100)
    forward = sum(at(gpt2, pair, "query") in firsts for pair in pairs)
    assert 30 < forward < 70
    assert {p.template for p in pairs[:6]} == set("123456")
