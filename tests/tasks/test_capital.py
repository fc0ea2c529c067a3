from interp.prompts.sampling import read_data
from interp.tasks import Capital
from tests.tasks.reading import at, changed_roles, decoded


def test_answers_are_the_capitals_of_both_countries(real_tokenizer):
    capitals = read_data("capital")["capitals"]
    for pair in Capital().sample(real_tokenizer, 60, 3):
        country, other = (at(real_tokenizer, pair, "country", side) for side in ("clean", "corrupt"))
        assert country != other
        assert decoded(real_tokenizer, pair.answers) == [capitals[country]]
        assert decoded(real_tokenizer, pair.wrong_answers) == [capitals[other]]
        assert changed_roles(pair) == {"country"}
        assert capitals[country] not in pair.clean


def test_every_template_comes_equally_often(gpt2):
    pairs = Capital().sample(gpt2, 14)
    assert {p.template for p in pairs[:7]} == {p.template for p in pairs[7:]} == set("1234567")


def test_a_country_whose_capital_is_several_tokens_is_dropped_and_counted(gpt2):
    class ShortSighted:
        bos_token_id = None

        def __call__(self, text, **options):
            return gpt2(text.replace("Paris", "Parisxq").replace("Japan", "Japanxq"), **options)

    all_dropped = Capital().sample(gpt2, 1).dropped.get("countries", 0)
    pairs = Capital().sample(ShortSighted(), 100)
    assert pairs.dropped == {"countries": all_dropped + 2}
    assert not any(country in pair.clean + pair.corrupt for pair in pairs for country in ("France", "Japan"))
