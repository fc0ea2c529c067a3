"""Held-out pairs: as many as were asked for, or as there are."""

import json

import pytest

from interp.errors import InputError
from interp.prompts.sampling import held_out_pairs
from interp.tasks import load_task


@pytest.fixture
def of_eight(tmp_path):
    prompts = [
        {
            "clean": f"The {word} and",
            "corrupt": "The other and",
            "answers": [" one"],
            "wrong_answers": [" two"],
        }
        for word in ("red", "blue", "green", "black", "white", "gold", "pink", "grey")
    ]
    path = tmp_path / "eight.json"
    path.write_text(json.dumps({"prompts": prompts}))
    return load_task(str(path))


@pytest.mark.parametrize(
    ("used", "asked", "got"), [(4, 4, 4), (4, 3, 3), (2, 20, 6), (7, 1, 1), (7, 5, 1), (1, 8, 7)]
)
def test_a_short_file_gives_all_that_is_left(of_eight, gpt2, used, asked, got):
    pool = of_eight.sample(gpt2, used, 0)
    others = held_out_pairs(of_eight, gpt2, asked, pool)
    texts = [pair.clean for pair in others]
    assert len(texts) == len(set(texts)) == got
    assert not {pair.clean for pair in pool} & set(texts)


def test_a_file_that_is_used_up_is_an_error(of_eight, gpt2):
    pool = of_eight.sample(gpt2, 8, 0)
    with pytest.raises(InputError, match="no pairs beyond the 8 used"):
        held_out_pairs(of_eight, gpt2, 4, pool)


def test_a_task_that_repeats_itself_without_end_is_used_up_too(of_eight, gpt2):
    class Repeating:
        name, metric, roles, counterfactuals, default_n = "repeating", of_eight.metric, ("END",), ("file",), 8

        def sample(self, tokenizer, n, *_rest, **_bos):
            return of_eight.sample(tokenizer, 8, 0).subset(i % 8 for i in range(n))

    pool = of_eight.sample(gpt2, 8, 0)
    with pytest.raises(InputError, match="no pairs beyond the 8 used"):
        held_out_pairs(Repeating(), gpt2, 4, pool)
    some = pool.subset(range(6))
    assert {pair.clean for pair in held_out_pairs(Repeating(), gpt2, 2, some)} == {p.clean for p in pool[6:]}
