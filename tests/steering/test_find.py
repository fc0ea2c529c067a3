"""Codes are found where they were put; precision, recall and p are those of other texts."""

import contextlib

import pytest
import torch
from scipy.stats import binomtest, fisher_exact, poisson

from interp.bottlenecks import Codebook, CodebookConfig
from interp.models import Model, hooked, load_model
from interp.steering import find_codes, load_topic, steer, topic_names
from interp.steering.controls import random_codes
from interp.steering.edits import code_edits
from interp.steering.find import DETECTED
from interp.steering.natural_gradient import STEP
from interp.steering.pulls import read_pulls
from interp.steering.target import find_target
from interp.steering.texts import TokenizedTexts, expected_tokens, tokenize
from interp.steering.topics import holds_word, neutral_texts
from interp.tasks.errors import InputError

MARK = "Z"
PLAIN = [
    "the store gave",
    "a drink to",
    "John went there",
    "in the year",
    "files to read",
    "a number of",
    "Mary had",
    "to load",
]
MARKED = [f"{MARK} {text}" for text in PLAIN]


@pytest.fixture(scope="module")
def model(tiny_model_folder) -> Model:
    return load_model(str(tiny_model_folder("llama")))


@pytest.fixture(scope="module")
def books(model) -> dict[str, Codebook]:
    """At m0 code 3 is what the MLP writes at the mark; all other codes are what it writes elsewhere."""
    # a mark at the beginning is the same vector in every text
    texts = tokenize(model, [*PLAIN, *MARKED])
    seen = {}
    hooks = {
        hook: (lambda x, hook=hook: seen.__setitem__(hook, x.clone()))
        for hook in ("blocks.0.hook_mlp_out", "blocks.1.attn.hook_z")
    }
    with torch.no_grad(), hooked(model, hooks):
        model(texts.tokens)
    mlp = seen["blocks.0.hook_mlp_out"]
    others = torch.cat([mlp[: len(PLAIN)][texts.counted[: len(PLAIN)]], mlp[len(PLAIN), 2:4]])
    mlps = Codebook(CodebookConfig(d_in=mlp.shape[-1], n_codes=len(others), selection="residual"))
    mlps.requires_grad_(False).codes[0] = others
    mlps.codes[0, 3] = mlp[len(PLAIN), 1]
    z = seen["blocks.1.attn.hook_z"]
    heads = Codebook(
        CodebookConfig(d_in=z.shape[-1], n_codes=16, k=2, groups=z.shape[2], selection="residual")
    )
    return {"m0": mlps, "a1": heads.fit(z[texts.counted])}


def test_a_planted_code_is_found_with_precision_and_recall_1(model, books):
    found = find_codes(model, books, MARKED, PLAIN, by="detection")
    best = next(code for code in found.codes if code.site == "m0")
    assert best.code == 3
    assert (best.precision, best.recall, best.token_precision) == (1.0, 1.0, 1.0)
    assert best.token_recall < 1
    # four of four positive among eight held-out texts: 1 / C(8, 4)
    assert best.p_value == pytest.approx(1 / 70)
    assert best.q_value >= best.p_value
    assert all(code.detection >= DETECTED - 1e-9 for code in found.codes)
    assert [edit.site for edit in found.sets(1)] == [found.codes[0].site]


def test_p_values_are_fishers_on_the_held_out_texts_and_the_split_is_seeded(model, books):
    found = find_codes(model, books, MARKED, PLAIN, seed=1)
    assert find_codes(model, books, MARKED, PLAIN, seed=1) == found
    assert find_codes(model, books, MARKED, PLAIN, seed=2) != found
    for code in found.codes:
        with_it = round(code.recall * 4)
        fires = 0 if code.precision is None else round(with_it / code.precision) if with_it else None
        if fires is not None:
            table = [[with_it, fires - with_it], [4 - with_it, 4 - fires + with_it]]
            assert code.p_value == pytest.approx(fisher_exact(table, alternative="greater").pvalue)


def test_a_token_of_the_topic_is_the_target_and_what_the_model_expects_is_not(model):
    marked, plain = tokenize(model, MARKED), tokenize(model, PLAIN)
    nothing = torch.zeros(model.cfg.d_vocab)
    target = find_target(marked, plain, nothing)
    assert model.tokenizer.decode(target.tokens[:1]).strip() == MARK
    assert float(target.weights.sum()) == pytest.approx(1)
    expected = nothing.clone()
    expected[target.tokens] = 0.5
    with pytest.raises(InputError, match="no token is in more of the positive texts"):
        find_target(marked, plain, expected)


def test_what_all_positive_texts_hold_is_the_target_even_if_it_stands_in_many_others_too():
    # token 1 ends each of eight positive texts and a third of the others, token 2 is as frequent in all
    positive = torch.tensor([[2 if i % 3 == 0 else 10 + i, 20 + i, 1] for i in range(8)])
    negative = torch.tensor(
        [[2 if i % 3 == 0 else 40 + i, 70 + i, 1 if i % 3 == 1 else 0] for i in range(24)]
    )
    positive, negative = (
        TokenizedTexts(t, torch.ones_like(t, dtype=torch.bool)) for t in (positive, negative)
    )
    target = find_target(positive, negative, torch.full((100,), 1e-3))
    assert int(target.tokens[0]) == 1 and 2 not in target.tokens
    share = (negative.tokens == 1).double().mean()
    chance = 8 * (1 - torch.exp(-3 * share))
    words = len(positive.tokens.unique())
    assert binomtest(8, 8, float(chance) / 8, alternative="greater").pvalue < 0.05 / words
    # by the number of tokens expected, as if a text could hold it any number of times, it would not pass
    assert poisson.sf(7, 8 * 3 * share) > 0.05 / words


def test_pulls_predict_what_adding_a_vector_raises_and_what_it_costs(model, books):
    marked, plain = tokenize(model, MARKED), tokenize(model, PLAIN)
    pull = read_pulls(model, {"m0": books["m0"]}, marked, plain, seed=3)["m0"]
    target = find_target(marked, plain, expected_tokens(model, plain))
    direction = pull.gain[0] / pull.gain[0].norm()

    def log_p(step: float) -> torch.Tensor:
        push = lambda x: x + step * plain.counted[..., None] * direction  # noqa: E731
        with torch.no_grad(), hooked(model, {"blocks.0.hook_mlp_out": push}):
            return model(plain.tokens).double().log_softmax(-1)[plain.counted]

    def raised(step: float) -> float:
        return float((log_p(step)[:, target.tokens] @ target.weights.double()).mean())

    small = 1e-3
    slope = (raised(small) - raised(-small)) / (2 * small)
    assert slope == pytest.approx(float(pull.gain[0].norm()), rel=2e-2)
    base, step = log_p(0), 0.05
    moved = log_p(step)
    cost = float((moved.exp() * (moved - base)).sum(-1).mean())
    predicted = float(((step * pull.scores[:, 0] @ direction) ** 2).sum()) / 2
    assert predicted == pytest.approx(cost, rel=0.3)  # 400 draws


def test_codes_by_gain_raise_the_target_when_they_are_added(model, books):
    found = find_codes(model, books, MARKED, PLAIN)
    assert found.by == "gain" and all(code.effect > 0 for code in found.codes)
    texts = tokenize(model, PLAIN)
    mark = model.tokenizer(MARK, add_special_tokens=False).input_ids[0]

    def log_p(within=contextlib.nullcontext()) -> float:  # noqa: B008
        with torch.no_grad(), within:
            return float(model(texts.tokens).log_softmax(-1)[texts.counted][:, mark].mean())

    added = steer(model, books, found.adds(len(found)), positions="all")
    others = random_codes(model, books, [(code.site, code.code) for code in found.codes], seed=1)
    assert log_p(added) > max(
        log_p(), log_p(steer(model, books, code_edits(others, add=STEP), positions="all"))
    )
    sites = [edit.site for edit in found.sets(len(found))]
    assert len(sites) == len(set(sites)) == len({code.site for code in found.codes})
    with pytest.raises(InputError, match="999 codes: choose 1 to"):
        found.sets(999)


@pytest.mark.parametrize(
    ("positive", "negative", "options", "message"),
    [
        (MARKED[:3], PLAIN, {}, "3 positive texts: at least 6"),
        (MARKED, PLAIN[:1], {}, "1 negative texts"),
        ([*MARKED, PLAIN[0]], PLAIN, {}, "is among the positive and the negative texts"),
        ([*MARKED, ""], PLAIN, {}, "is empty"),
        ([*MARKED, "a " * 400], PLAIN, {}, "the model reads 128"),
        (
            [*MARKED[:4], *PLAIN[4:]],
            [*PLAIN[:4], *MARKED[4:]],
            {},
            "no token is in more of the positive texts",
        ),
        (
            [*MARKED[:4], *PLAIN[4:]],
            [*PLAIN[:4], *MARKED[4:]],
            {"by": "detection"},
            "no code tells the positive texts",
        ),
        (MARKED, PLAIN, {"by": "taste"}, "ranking 'taste': choose gain or detection"),
    ],
)
def test_bad_input(model, books, positive, negative, options, message):
    with pytest.raises(InputError, match=message):
        find_codes(model, books, positive, negative, **options)


def test_topics_hold_their_words_and_prompts_hold_none():
    assert len(topic_names()) == 7
    prompts = load_topic("fire").prompts
    for name in topic_names():
        topic = load_topic(name)
        assert len(topic.positive) == 24 and all(topic.is_in(text) for text in topic.positive)
        assert not any(topic.is_in(text) for text in (*prompts, *neutral_texts()))
        assert not set(topic.positive) & set(topic.negative) and not set(prompts) & set(topic.negative)
    assert holds_word("The Fire!", ["fire"]) and not holds_word("a fireman", ["fire"])
    with pytest.raises(InputError, match="unknown topic 'water': there are dragon"):
        load_topic("water")
