"""The tasks of the planted models: positions, counterfactuals, seeds."""

import pytest

from interp.planted.models import load_planted_model
from interp.planted.tasks import load_planted_task, planted_task_names


@pytest.mark.parametrize("name", planted_task_names())
def test_pairs_name_the_right_positions_and_are_a_function_of_the_seed(name):
    tokenizer = load_planted_model(name).tokenizer
    task = load_planted_task(name)
    for kind in task.counterfactuals:
        pairs = task.sample(tokenizer, 40, 5, kind)
        assert pairs == task.sample(tokenizer, 40, 5, kind)
        assert pairs != task.sample(tokenizer, 40, 6, kind)
        assert [p.clean for p in pairs[:7]] == [p.clean for p in task.sample(tokenizer, 7, 5)]
        bare = task.sample(tokenizer, 40, 5, kind, bos=False)
        assert [p.clean_tokens for p in bare] == [p.clean_tokens[1:] for p in pairs]
        for pair, without in zip(pairs, bare, strict=True):
            at = {role: pair.clean_tokens[i] for role, i in pair.positions.items()}
            assert set(at) == set(task.roles)
            assert {role: i - 1 for role, i in pair.positions.items()} == without.positions
            assert pair.positions["END"] == len(pair.clean_tokens) - 1
            if name == "planted-induction":
                assert at["A1"] == at["END"] and (at["B"],) == pair.answers
                assert len(set(pair.corrupt_tokens) | set(pair.clean_tokens)) == 1 + 10 + 11
            else:
                assert (at["IO"],) == pair.answers and (at["S1"],) == (at["S2"],) == pair.wrong_answers
                assert pair.clean_tokens.count(at["S1"]) == 2 and pair.clean_tokens.count(at["IO"]) == 1


def test_names_counterfactuals_change_the_names_and_nothing_else():
    tokenizer = load_planted_model("planted-backup").tokenizer
    task = load_planted_task("planted-backup")
    for kind, roles in (("abc", {"IO", "S1", "S2"}), ("s2_io", {"S2"})):
        for pair in task.sample(tokenizer, 30, 0, kind):
            tokens = zip(pair.clean_tokens, pair.corrupt_tokens, strict=True)
            changed = {i for i, (clean, corrupt) in enumerate(tokens) if clean != corrupt}
            assert changed == {pair.positions[role] for role in roles}
