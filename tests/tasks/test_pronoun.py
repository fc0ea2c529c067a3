from interp.prompts.sampling import read_data
from interp.tasks import Pronoun
from tests.tasks.reading import at, changed_roles, decoded


def test_the_pronoun_fits_the_name_and_the_corrupt_name_wants_the_other(real_tokenizer):
    data = read_data("pronoun")
    for pair in Pronoun().sample(real_tokenizer, 60, 3):
        name, corrupt = at(real_tokenizer, pair, "name"), at(real_tokenizer, pair, "name", "corrupt")
        right, wrong = ("she", "he") if name in data["female"] else ("he", "she")
        assert (name in data["female"]) != (corrupt in data["female"])
        assert decoded(real_tokenizer, pair.answers) == [right]
        assert decoded(real_tokenizer, pair.wrong_answers) == [wrong]
        assert changed_roles(pair) == {"name"}


def test_twenty_pairs_hold_every_template_with_both_kinds_of_names(gpt2):
    pairs = Pronoun().sample(gpt2, 40)
    expected = {f"{gender}-{i}" for gender in ("female", "male") for i in range(1, 11)}
    assert {p.template for p in pairs[:20]} == {p.template for p in pairs[20:]} == expected


def test_no_name_stands_in_both_lists_or_twice():
    data = read_data("pronoun")
    names = data["female"] + data["male"]
    assert len(set(names)) == len(names)
