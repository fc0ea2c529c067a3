"""The high-level models of shipped tasks: from what they say of a prompt to its answers."""

import pytest

from interp.prompts.encoding import PromptEncoder
from interp.prompts.pairs import HighLevelModel
from interp.tasks import load_task
from interp.tasks.registry import SHIPPED

ANSWERED = {
    "ioi": {"s2_io"},
    "agreement": {"number", "both"},
    "pronoun": {"gender"},
    "capital": {"country"},
    "successor": {"stretch"},
    "antonym": {"relation"},
}
"""Kinds whose corrupt prompt has the wrong answers for its answers."""


def first_tokens(tokenizer, prompt: str, texts) -> set[int]:
    encoder = PromptEncoder(tokenizer, bos=False)
    return {encoder.continuation(prompt, text)[0] for text in texts}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_variables_give_the_answers_of_every_clean_prompt_and_of_corrupt_ones_that_have_some(real_tokenizer, name):
    task = load_task(name)
    assert isinstance(task, HighLevelModel)
    for kind in task.counterfactuals:
        pairs = task.sample(real_tokenizer, 12, 2, kind)
        for pair in pairs:
            clean = first_tokens(real_tokenizer, pair.clean, task.expected(pair.variables["clean"]))
            if name == "greater-than" and pairs.notes:  # of digits the equal one counts for neither side
                clean -= set(real_tokenizer.encode(pair.variables["clean"]["tens"])[-1:])
            assert clean == set(pair.answers)
            corrupt = task.expected(pair.variables["corrupt"])
            if kind in ANSWERED.get(name, ()):
                assert first_tokens(real_tokenizer, pair.corrupt, corrupt) == set(pair.wrong_answers)
            elif (name, kind) in (("ioi", "abc"), ("ioi", "oneill"), ("greater-than", "unrelated")):
                assert corrupt is None


@pytest.mark.parametrize("name", SHIPPED)
def test_of_no_value_and_of_one_that_it_does_not_know_a_task_expects_nothing(name):
    assert load_task(name).expected({}) is None
    if name not in ("ioi", "docstring"):  # any name may be repeated
        names = ("tens", "ones", "number", "gender", "country", "sequence", "last", "relation", "query")
        assert load_task(name).expected(dict.fromkeys(names, "no such value")) is None


def test_examples_of_what_is_expected():
    assert load_task("greater-than").expected({"tens": "9", "ones": "8"}) == ("99",)
    assert load_task("greater-than").expected({"tens": "9", "ones": "9"}) is None
    assert load_task("antonym").expected({"relation": "opposite", "query": "cold"}) == (" hot",)
    assert load_task("agreement").expected({"number": "plural"}) == (" are", " were", " have")
