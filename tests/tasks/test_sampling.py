"""What holds for every shipped task."""

import dataclasses
import subprocess
import sys

import pytest

from interp.prompts.sampling import dealt, draw_unseen, fill, sample_pairs, seeded
from interp.tasks import InputError, PromptPair, PromptPairs, Task, TooFewPairs, load_task
from interp.tasks.ioi import IOI
from interp.tasks.registry import SHIPPED

TASKS = tuple(type(load_task(name)) for name in SHIPPED)
KINDS = [(task, kind) for task in TASKS for kind in task.counterfactuals]

each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
each_kind = pytest.mark.parametrize(("task", "kind"), KINDS, ids=lambda value: getattr(value, "name", value))


@each_task
def test_a_shipped_task_fulfils_the_protocol(task):
    assert isinstance(task(), Task)
    assert task.default_n == 100


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
def test_seeds_differ(gpt2, task):
    first, second = (task().sample(gpt2, 20, seed) for seed in (0, 1))
    assert not {pair.clean for pair in first} & {pair.clean for pair in second}


@each_task
def test_a_smaller_sample_is_the_start_of_a_larger(gpt2, task):
    assert list(task().sample(gpt2, 10, 2)) == list(task().sample(gpt2, 25, 2))[:10]


@each_task
def test_prompts_are_distinct(gpt2, task):
    pairs = task().sample(gpt2, 1500)
    assert len({pair.clean for pair in pairs}) == 1500


@each_task
def test_without_bos_tokens_and_positions_move_by_one(gpt2, task):
    with_bos, without = (task().sample(gpt2, 10, bos=bos) for bos in (True, False))
    for long, short in zip(with_bos, without, strict=True):
        assert long.clean_tokens == (gpt2.bos_token_id, *short.clean_tokens)
        assert long.positions == {role: position + 1 for role, position in short.positions.items()}


@each_task
def test_the_default_counterfactual_is_the_first(gpt2, task):
    pairs = task().sample(gpt2, 5)
    assert pairs.counterfactual == task.counterfactuals[0]
    assert (pairs.task, pairs.metric) == (task.name, task.metric)


@each_task
@pytest.mark.parametrize("n", [0, -3])
def test_a_bad_n_is_an_input_error(gpt2, task, n):
    with pytest.raises(InputError, match=f"n is {n!r}"):
        task().sample(gpt2, n)


@each_task
def test_an_unknown_counterfactual_is_an_input_error_that_lists_them(gpt2, task):
    with pytest.raises(InputError) as caught:
        task().sample(gpt2, 5, counterfactual="nonsense")
    assert all(kind in str(caught.value) for kind in ("nonsense", *task.counterfactuals))


def test_a_stream_depends_on_every_part():
    assert len({seeded(*parts).random() for parts in (("a", 1), ("a", 2), ("b", 1), ("a", 1, "x"))}) == 4


def test_dealt_cards_come_equally_often_in_another_order_each_time():
    cards = dealt(range(8), seeded("cards"))
    rounds = [[next(cards) for _ in range(8)] for _ in range(3)]
    assert all(sorted(dealt_round) == list(range(8)) for dealt_round in rounds)
    assert len(set(map(tuple, rounds))) == 3


def test_drawing_ends_with_an_input_error_when_all_is_seen():
    stream, seen = seeded("draws"), set()
    assert {draw_unseen("x", lambda: stream.randrange(3), seen) for _ in range(3)} == {0, 1, 2}
    with pytest.raises(InputError, match="the task x has no more distinct prompts after 3 "):
        draw_unseen("x", lambda: stream.randrange(3), seen)


def test_filled_templates_give_fields_with_their_space_the_role_of_their_name():
    pieces = fill("{who} said {what}, then", {"who": "Mary", "what": "so"}, ("what",))
    assert pieces == [("Mary", None), (" said", None), (" so", "what"), (", then", None)]


def test_importing_tasks_imports_neither_torch_nor_transformers():
    code = (
        "import sys, interp.tasks as t; t.task_names(); print({'torch', 'transformers'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_sample_that_is_no_prompt_pairs_is_an_input_error():
    class Listing(IOI):
        def sample(self, *_arguments, **_named):
            return []

    with pytest.raises(InputError, match="sample must return PromptPairs, not list"):
        sample_pairs(Listing(), None, 3, 3)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"corrupt_tokens": (1,)}, "clean has 3 tokens and corrupt 1"),
        ({"wrong_answers": ()}, "needs an answer and a wrong answer"),
        ({"answers": ()}, "needs an answer and a wrong answer"),
        ({"positions": {"IO": 1, "END": 3}}, "outside of the 3 tokens of 'a b c': END at 3"),
    ],
)
def test_a_pair_that_cannot_be_is_an_input_error(wrong, words):
    sound = {"clean_tokens": (1, 2, 3), "corrupt_tokens": (1, 2, 4), "answers": (5,), "wrong_answers": (6,)}
    PromptPair("a b c", "a b d", **sound)
    with pytest.raises(InputError, match=words):
        PromptPair("a b c", "a b d", **sound | wrong)


NUMBERS = """
import json
import numpy as np
from interp.tasks import InputError, PromptPair

sound = {"clean_tokens": (1, 2, 3), "corrupt_tokens": (1, 2, 4), "answers": (5,), "wrong_answers": (6,)}
plain = PromptPair("a b c", "b", **sound, positions={"IO": 1, "END": 2})
pair = PromptPair("a b c", "b", **sound, positions={"IO": np.int64(1), "END": np.int32(2)})
assert pair == plain and json.dumps(pair.positions) == json.dumps(plain.positions)
assert pair.fingerprint == plain.fingerprint
for wrong in (
    {"positions": {"IO": 1.0}},
    {"positions": {"IO": None}},
    {"clean_tokens": (1, "2", 3)},
    {"answers": (None,)},
):
    try:
        PromptPair("a b c", "b", **sound | wrong)
    except InputError as error:
        print(error)
"""


def test_positions_of_numpy_can_be_written_as_json_and_what_is_no_number_is_an_input_error():
    """In a process in which types are not checked by the tests."""
    result = subprocess.run([sys.executable, "-c", NUMBERS], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "the pair of 'a b c': position of IO: 1.0: it must be a whole number",
        "the pair of 'a b c': position of IO: None: it must be a whole number",
        "the pair of 'a b c': clean_tokens: '2': it must be a whole number",
        "the pair of 'a b c': answers: None: it must be a whole number",
    ]


FAILING = """
import sys
from interp.tasks.ioi import IOI


class Failing(IOI):
    def sample(self, *arguments, **named):
        return {}["no such\\nword"]


class Leaving(IOI):
    def sample(self, *arguments, **named):
        sys.exit(3)
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Failing", r"task 'ioi': sample failed in line 8 of .*mine\.py: KeyError: 'no such"),
        ("Leaving", r"task 'ioi': sample failed in line 13 of .*mine\.py: SystemExit: 3"),
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


def test_a_sample_that_fails_for_many_is_no_sample_of_fewer():
    class Short(IOI):
        asked = []

        def sample(self, _tokenizer, n, *_others, **_named):
            self.asked.append(n)
            return [][n]

    with pytest.raises(InputError, match="sample failed in line .*IndexError"):
        sample_pairs(Short(), None, None, 64)
    assert Short.asked == [64]


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


def test_a_sample_of_ours_that_fails_is_a_bug_and_shows_where():
    with pytest.raises(TypeError):
        sample_pairs(IOI(), None, 3, 3)
