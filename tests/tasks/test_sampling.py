"""What holds for every shipped task."""

import dataclasses
import json
from itertools import count

import numpy as np
import pytest

from interp.prompts.sampling import distinct, fill, held_out_pairs, sample_pairs, seeded
from interp.tasks import InputError, PromptPair, PromptPairs, Task, TooFewPairs, load_task
from interp.tasks.ioi import IOI
from interp.tasks.registry import SHIPPED

TASKS = tuple(type(load_task(name)) for name in SHIPPED)
KINDS = [(task, kind) for task in TASKS for kind in task.counterfactuals]

each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
each_kind = pytest.mark.parametrize(("task", "kind"), KINDS, ids=lambda value: getattr(value, "name", value))


@each_kind
def test_prompts_have_equal_lengths_and_their_text_encodes_to_their_tokens(real_tokenizer, task, kind):
    for pair in task().sample(real_tokenizer, 40, 5, kind):
        assert len(pair.clean_tokens) == len(pair.corrupt_tokens)
        for text, tokens in ((pair.clean, pair.clean_tokens), (pair.corrupt, pair.corrupt_tokens)):
            encoded = real_tokenizer(text, add_special_tokens=False).input_ids
            assert tokens == (real_tokenizer.bos_token_id, *encoded)
        assert pair.clean_tokens != pair.corrupt_tokens
        assert not set(pair.answers) & set(pair.wrong_answers)


@each_kind
def test_sampling_is_a_pure_function_of_its_arguments(gpt2, task, kind):
    once, again = (task().sample(gpt2, 20, 7, kind) for _ in range(2))
    assert isinstance(once, PromptPairs) and list(once) == list(again)
    assert once.provenance() == again.provenance()


@each_task
def test_samples_are_distinct_by_seed_and_a_smaller_one_is_the_start_of_a_larger(gpt2, task):
    assert isinstance(task(), Task) and task.default_n == 100
    pairs = task().sample(gpt2, 1500)
    assert len({pair.clean for pair in pairs}) == 1500
    assert (pairs.task, pairs.metric) == (task.name, task.metric)
    assert pairs.counterfactual == task.counterfactuals[0]
    assert list(task().sample(gpt2, 10)) == pairs[:10]
    first, second = (task().sample(gpt2, 20, seed) for seed in (0, 1))
    assert not {pair.clean for pair in first} & {pair.clean for pair in second}


@each_task
def test_without_bos_tokens_and_positions_move_by_one(gpt2, task):
    with_bos, without = (task().sample(gpt2, 10, bos=bos) for bos in (True, False))
    for long, short in zip(with_bos, without, strict=True):
        assert long.clean_tokens == (gpt2.bos_token_id, *short.clean_tokens)
        assert long.positions == {role: position + 1 for role, position in short.positions.items()}


@each_task
def test_a_bad_n_and_an_unknown_counterfactual_are_input_errors(gpt2, task):
    for n in (0, -3):
        with pytest.raises(InputError, match=f"n is {n!r}"):
            task().sample(gpt2, n)
    with pytest.raises(InputError) as caught:
        task().sample(gpt2, 5, counterfactual="nonsense")
    assert all(kind in str(caught.value) for kind in ("nonsense", *task.counterfactuals))


def test_cards_are_dealt_equally_often_by_every_part_of_a_stream_and_drawing_ends():
    assert len({seeded(*parts).random() for parts in (("a", 1), ("a", 2), ("b", 1), ("a", 1, "x"))}) == 4
    numbers = count()
    drawn = list(distinct("x", 24, seeded("cards"), range(8), lambda card: (card, next(numbers))))
    rounds = [[card for card, _ in drawn[i : i + 8]] for i in (0, 8, 16)]
    assert all(sorted(dealt_round) == list(range(8)) for dealt_round in rounds)
    assert len(set(map(tuple, rounds))) == 3, "in another order each time"
    stream = seeded("draws")
    draws = distinct("x", 4, stream, range(2), lambda _: stream.randrange(3))
    assert {next(draws) for _ in range(3)} == {0, 1, 2}
    with pytest.raises(InputError, match="the task x has no more distinct prompts after 3 "):
        next(draws)


def test_filled_templates_give_fields_with_their_space_the_role_of_their_name():
    pieces = fill("{who} said {what}, then", {"who": "Mary", "what": "so"}, ("what",))
    assert pieces == [("Mary", None), (" said", None), (" so", "what"), (", then", None)]


SOUND = {"clean_tokens": (1, 2, 3), "corrupt_tokens": (1, 2, 4), "answers": (5,), "wrong_answers": (6,)}


def changed(**values) -> PromptPair:
    pair = PromptPair("a b c", "a b d", **SOUND)
    for name, value in values.items():
        object.__setattr__(pair, name, value)  # tests check types before a constructor is reached
    pair.__post_init__()
    return pair


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"corrupt_tokens": (1,)}, "clean has 3 tokens and corrupt 1"),
        ({"wrong_answers": ()}, "needs an answer and a wrong answer"),
        ({"positions": {"IO": 1, "END": 3}}, "outside of the 3 tokens of 'a b c': END at 3"),
        ({"positions": {"IO": None}}, "position of IO: None: it must be a whole number"),
        ({"clean_tokens": (1, "2", 3)}, "clean_tokens: '2': it must be a whole number"),
    ],
)
def test_a_pair_that_cannot_be_is_an_input_error(wrong, words):
    with pytest.raises(InputError, match=words):
        changed(**wrong)


def test_positions_of_numpy_can_be_written_as_json():
    plain = changed(positions={"IO": 1, "END": 2})
    pair = changed(positions={"IO": np.int64(1), "END": np.int32(2)})
    assert pair == plain and pair.fingerprint == plain.fingerprint
    assert json.dumps(pair.positions) == json.dumps(plain.positions)


FAILING = """
import sys
from interp.tasks.ioi import IOI


class Failing(IOI):
    def sample(self, *arguments, **named):
        return {}["no such\\nword"]


class Leaving(IOI):
    def sample(self, *arguments, **named):
        sys.exit(3)


class Listing(IOI):
    def sample(self, *arguments, **named):
        return []
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Failing", r"task 'ioi': sample failed in line 8 of .*mine\.py: KeyError: 'no such"),
        ("Leaving", r"task 'ioi': sample failed in line 13 of .*mine\.py: SystemExit: 3"),
        ("Listing", "sample must return PromptPairs, not list"),
    ],
)
def test_a_sample_of_one_s_own_that_fails_is_an_input_error_and_names_its_line(tmp_path, name, words):
    path = tmp_path / "mine.py"
    path.write_text(FAILING, encoding="utf-8")
    task = load_task(f"{path}:{name}")
    for n in (3, None):
        with pytest.raises(InputError, match=words) as error:
            sample_pairs(task, None, n, 3)
        assert "\n" not in str(error.value)


def test_fewer_pairs_are_taken_where_a_task_has_fewer_and_not_where_one_of_them_is_wrong(gpt2):
    class Slip(IOI):
        asked = []

        def sample(self, tokenizer, n, *others, **named):
            self.asked.append(n)
            if n > 20:
                raise TooFewPairs("there are twenty")
            pairs = IOI.sample(self, tokenizer, n, *others, **named)
            if n > 12:
                dataclasses.replace(pairs[12], corrupt_tokens=pairs[12].corrupt_tokens[1:])
            return pairs

    with pytest.raises(InputError, match="a pair must have equal lengths"):
        sample_pairs(Slip(), gpt2, None, 64)
    assert Slip.asked == [64, 32, 16]
    assert len(sample_pairs(Slip(), gpt2, None, 12)) == 12
    with pytest.raises(TypeError):  # a sample of ours that fails is a bug and shows where
        sample_pairs(IOI(), None, 3, 3)


@pytest.fixture
def of_eight(tmp_path):
    answers = {"answers": [" one"], "wrong_answers": [" two"]}
    words = ("red", "blue", "green", "black", "white", "gold", "pink", "grey")
    prompts = [{"clean": f"The {word} and", "corrupt": "The other and"} | answers for word in words]
    (tmp_path / "eight.json").write_text(json.dumps({"prompts": prompts}))
    return load_task(str(tmp_path / "eight.json"))


@pytest.mark.parametrize(("used", "asked", "got"), [(4, 4, 4), (4, 3, 3), (2, 20, 6), (7, 1, 1), (7, 5, 1), (1, 8, 7)])
def test_a_short_file_gives_all_that_is_left(of_eight, gpt2, used, asked, got):
    pool = of_eight.sample(gpt2, used, 0)
    others = held_out_pairs(of_eight, gpt2, asked, pool)
    texts = [pair.clean for pair in others]
    assert len(texts) == len(set(texts)) == got
    assert not {pair.clean for pair in pool} & set(texts)


def test_a_file_that_is_used_up_or_a_task_that_repeats_itself_is_an_error(of_eight, gpt2):
    class Repeating:
        name, metric, roles, counterfactuals, default_n = "repeating", of_eight.metric, ("END",), ("file",), 8

        def sample(self, tokenizer, n, *_rest, **_bos):
            return of_eight.sample(tokenizer, 8, 0).subset(i % 8 for i in range(n))

    pool = of_eight.sample(gpt2, 8, 0)
    for task in (of_eight, Repeating()):
        with pytest.raises(InputError, match="no pairs beyond the 8 used"):
            held_out_pairs(task, gpt2, 4, pool)
    first_six = pool.subset(range(6))
    others = held_out_pairs(Repeating(), gpt2, 2, first_six)
    assert {pair.clean for pair in others} == {pair.clean for pair in pool[6:]}
