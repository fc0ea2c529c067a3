from itertools import pairwise

from interp.prompts.sampling import read_data
from interp.tasks import Successor
from tests.tasks.reading import at, changed_roles, decoded


def test_the_answer_is_what_comes_next_in_the_sequence(real_tokenizer):
    following = {a: b for sequence in read_data("successor")["sequences"] for a, b in pairwise(sequence)}
    for pair in Successor().sample(real_tokenizer, 60, 3):
        for side, tokens in (("clean", pair.answers), ("corrupt", pair.wrong_answers)):
            first, second, last = (
                at(real_tokenizer, pair, role, side) for role in ("first", "second", "last")
            )
            assert (following[first], following[second]) == (second, last)
            assert decoded(real_tokenizer, tokens) == [following[last]]
        assert changed_roles(pair) == {"first", "second", "last"}
        assert at(real_tokenizer, pair, "END") == ","


def test_thirty_pairs_hold_every_sequence_in_every_template(gpt2):
    pairs = Successor().sample(gpt2, 60)
    assert len({p.template for p in pairs[:30]}) == len({p.template for p in pairs}) == 30


def test_a_sequence_with_a_member_of_several_tokens_is_left_out_as_a_whole(gpt2):
    class ShortSighted:
        bos_token_id = None

        def __call__(self, text, **options):
            return gpt2(text.replace("seven", "sevenxq").replace("Friday", "Fridayxq"), **options)

    pairs = Successor().sample(ShortSighted(), 100)
    assert pairs.dropped == {"sequences": 3}  # "seventh" too
    assert {p.template.split("-")[0] for p in pairs} == {"January", "A"}
