"""Arms differ in their codes and in nothing else, however many batches they take."""

import pytest

from interp.bottlenecks.attach import attach
from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.bottlenecks.store import load_codebooks
from interp.errors import InputError
from interp.models import load_model
from interp.steering import AddCode, WeightedCode
from interp.steering import conditions as arms
from interp.steering.conditions import continue_arms
from interp.steering.continuations import continue_prompts
from interp.text import load_text

CODES = [WeightedCode("a0.h1", 3), WeightedCode("a1.h2", 5, 0.5)]
PROMPTS = ["John went to", "Mary", "The store"]


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    return load_model(str(tiny_model_folder("llama")))


@pytest.fixture(scope="module")
def books(model, tmp_path_factory):
    text = load_text("stdlib", model, n_tokens=640, context=32)
    out = tmp_path_factory.mktemp("books")
    fit_codebooks(model, text, ["heads"], out, FitConfig(n_codes=12))
    return load_codebooks(out, model)


def test_each_arm_is_written_under_its_own_codes(model, books):
    found = continue_arms(model, books, {"base": [], "ours": CODES}, PROMPTS, 6, add=40, temperature=0)
    plain = continue_prompts(model, PROMPTS, 6, temperature=0)
    edits = [AddCode(site, code, 40 * weight, from_mean=True) for site, code, weight in CODES]
    steered = continue_prompts(
        model, PROMPTS, 6, within=attach(model, books, read=False).edit(*edits), temperature=0
    )
    assert [one.tokens for one in found["base"]] == [one.tokens for one in plain]
    assert [one.tokens for one in found["ours"]] == [one.tokens for one in steered]
    assert [one.tokens for one in plain] != [one.tokens for one in steered]
    assert [one.prompt for one in found["ours"]] == PROMPTS


def test_batches_go_on_in_the_order_of_the_prompts_and_their_draws_never_meet(model, books, monkeypatch):
    monkeypatch.setattr(arms, "ROWS", 4)
    written = {
        seed: continue_arms(model, books, {"base": [], "ours": CODES}, ["Mary"] * 6, 8, add=2, seed=seed)[
            "base"
        ]
        for seed in (0, 1)
    }
    texts = [one.tokens for own in written.values() for one in own]
    assert len(texts) == len(set(texts)) == 12
    greedy = continue_arms(model, books, {"ours": CODES}, PROMPTS * 2, 4, add=2, temperature=0)["ours"]
    assert [one.prompt for one in greedy] == PROMPTS * 2
    assert [one.tokens for one in greedy[:3]] == [one.tokens for one in greedy[3:]]


@pytest.mark.parametrize("none", [{}, {"base": []}], ids=str)
def test_without_codes_there_is_nothing_to_compare(model, books, none):
    with pytest.raises(InputError, match="no codes in any arm"):
        continue_arms(model, books, none, PROMPTS, 2)


@pytest.mark.parametrize("prompts", ["Mary had", []], ids=str)
def test_prompts_are_a_list_of_texts(model, books, prompts):
    with pytest.raises(InputError, match="give a list of texts"):
        continue_arms(model, books, {"ours": CODES}, prompts, 2, add=1)
