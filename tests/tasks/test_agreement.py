from collections import Counter

import pytest

from interp.prompts.sampling import read_data
from interp.tasks import Agreement
from tests.tasks.reading import at, changed_roles, decoded

SINGULAR, PLURAL = (set(forms) for forms in zip(*read_data("agreement")["nouns"], strict=True))


def number(noun: str) -> str:
    return "singular" if noun in SINGULAR else "plural"


def test_the_first_prompt_reads_as_documented(gpt2):
    pair = next(p for p in Agreement().sample(gpt2, 20) if p.template.endswith("-1"))
    place = at(gpt2, pair, "place")
    subject, attractor = at(gpt2, pair, "subject"), at(gpt2, pair, "attractor")
    assert pair.clean == f"I think that the {subject} {place} the {attractor}"


@pytest.mark.parametrize("kind", Agreement.counterfactuals)
def test_answers_agree_with_the_subject_and_the_corrupt_subject_wants_the_others(real_tokenizer, kind):
    verbs = {"singular": ["is", "was", "has"], "plural": ["are", "were", "have"]}
    for pair in Agreement().sample(real_tokenizer, 60, 3, kind):
        own = number(at(real_tokenizer, pair, "subject"))
        other = number(at(real_tokenizer, pair, "subject", "corrupt"))
        assert {own, other} == set(verbs) and pair.template.startswith(own)
        assert decoded(real_tokenizer, pair.answers) == verbs[own]
        assert decoded(real_tokenizer, pair.wrong_answers) == verbs[other]
        assert changed_roles(pair) == ({"subject"} if kind == "number" else {"subject", "attractor"})
        assert pair.positions["attractor"] == pair.positions["END"]


def test_twenty_pairs_hold_every_opening_in_both_numbers_and_attractors_of_both_numbers(gpt2):
    pairs = Agreement().sample(gpt2, 200)
    assert len({pair.template for pair in pairs[:20]}) == len({pair.template for pair in pairs}) == 20
    same = Counter(number(at(gpt2, p, "subject")) == number(at(gpt2, p, "attractor")) for p in pairs)
    assert min(same.values()) > 70


def test_singular_and_plural_nouns_are_different_words():
    assert not SINGULAR & PLURAL and len(SINGULAR) == len(PLURAL) == 30
