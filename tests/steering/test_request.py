"""One request: its conditions differ in their codes alone, and what repeats it says everything."""

import ast
import shlex
from dataclasses import replace

import pytest

from interp.bottlenecks.attach import attach
from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.errors import InputError
from interp.models.generate import generate
from interp.steering import AddCode, SetCode, SteeringRequest, WeightedCode, request, steer
from interp.steering.continuations import continue_prompts
from interp.text import load_text

CODES = (WeightedCode("a0.h1", 3), WeightedCode("a1.h2", 5, 0.5))
PROMPTS = ("John went to", "Mary", "The store")
ASKED = SteeringRequest(PROMPTS, CODES, "added", n_tokens=6)


@pytest.fixture(scope="module")
def books(model, tmp_path_factory):
    text = load_text("stdlib", model, n_tokens=640, context=32)
    return fit_codebooks(model, ["heads"], text, tmp_path_factory.mktemp("books"), FitConfig(n_codes=12))


def test_each_condition_is_written_under_its_own_codes(model, books):
    texts = replace(ASKED, scale=40, temperature=0, random_baseline=True).run(model, books)
    plain = continue_prompts(model, PROMPTS, 6, temperature=0)
    edits = [AddCode(site, code, 40 * weight, from_mean=True) for site, code, weight in CODES]
    steered = continue_prompts(model, PROMPTS, 6, within=attach(model, books).edit(*edits), temperature=0)
    assert [text.tokens for text in texts["base"]] == [text.tokens for text in plain]
    assert [text.tokens for text in texts["steered"]] == [text.tokens for text in steered]
    assert len({tuple(text.tokens for text in condition) for condition in texts.values()}) == 3
    assert [text.prompt for text in texts["random codes"]] == [*PROMPTS]
    for less in ({"codes": ()}, {"prompts": ()}):  # nothing to compare
        with pytest.raises(InputError):
            replace(ASKED, **less).run(model, books)


@pytest.mark.parametrize("error_term", [True, False])
def test_steered_texts_are_those_of_an_edited_model(model, books, error_term):
    prompts, options = ["Mary and John", "The store"], {"seed": 2, "temperature": 1.0}
    edits = [AddCode("a0.h1", 3, 30), SetCode("a1.h2", 5)]
    texts = steer(model, books, edits, prompts, 8, error_term=error_term, **options)
    with attach(model, books, error_term=error_term).edit(*edits, seed=2):
        assert texts == generate(model, prompts, 8, **options)
    assert all(text.startswith(prompt) for text, prompt in zip(texts, prompts, strict=True))
    assert texts != generate(model, prompts, 8, **options)
    single_text = steer(model, books, edits, prompts[0], 8, error_term=error_term, temperature=0)
    assert single_text == attach(model, books, error_term=error_term).edit(*edits).generate(prompts[0], 8)


def test_batches_go_on_in_the_order_of_the_prompts_and_their_draws_never_meet(model, books, monkeypatch):
    monkeypatch.setattr(request, "ROWS", 4)
    asked = replace(ASKED, prompts=("Mary",), samples=6, n_tokens=8, scale=2)
    written = [text for seed in (0, 1) for text in replace(asked, seed=seed).run(model, books)["base"]]
    assert len(written) == len({text.tokens for text in written}) == 12
    greedy = replace(ASKED, samples=2, scale=2, temperature=0).run(model, books)["steered"]
    assert [text.prompt for text in greedy] == [*PROMPTS] * 2
    assert [text.tokens for text in greedy[:3]] == [text.tokens for text in greedy[3:]]


def test_the_command_is_quoted_for_a_shell_and_leaves_out_what_is_usual():
    asked = SteeringRequest(("it's $HOME; `x`",), (WeightedCode("a12.h3", 417),), n_tokens=40, seed=3)
    assert shlex.split(asked.command()) == [
        *("interp", "steer", "--codes", "a12.h3=417", "--prompt", "it's $HOME; `x`", "--tokens", "40"),
        *("--positions", "generated", "--temperature", "0.7", "--seed", "3"),
    ]
    ast.parse(asked.program())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"scale": -1.5}, "--add=-1.5"),
        ({"how": "forbidden"}, "--forbid"),
        ({"k": 4}, "--k 4"),
        ({"chat": True, "error_term": False}, "--chat --splice"),
        ({"fraction": 0.5, "positions": "generated:4"}, "--positions generated:4 --token-fraction 0.5"),
        ({"when": "token: (girl|boy)$"}, "'--when=token: (girl|boy)$'"),
        ({"model": "gpt2", "codebooks": "runs/a b"}, "--codebooks 'runs/a b' --model gpt2"),
    ],
    ids=str,
)
def test_what_is_not_usual_stands_in_both(changed, words):
    asked = replace(ASKED, **changed)
    assert words in asked.command()
    ast.parse(asked.program())
    assert all(repr(value) in asked.program() for value in changed.values())
