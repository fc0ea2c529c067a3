"""Codes are found where they were put; precision, recall and p are those of other texts."""

import numpy as np
import pytest
import torch
from scipy.stats import fisher_exact

from interp.bottlenecks import Codebook, CodebookConfig
from interp.models import Model, hooked, load_model
from interp.steering import find_codes, load_topic, steer, topic_names
from interp.steering.find import DETECTED
from interp.steering.texts import read_texts, tokenize
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


def test_the_effect_is_the_change_of_log_likelihood_to_first_order(model, books):
    # a code that differs from what is there by a small step: the effect predicts what setting it does
    texts = tokenize(model, MARKED)
    weights = torch.full((len(MARKED),), 1 / len(MARKED))
    reading = read_texts(model, {"m0": books["m0"]}, texts, weights)["m0"]
    place = reading.pull[0]
    assert reading.ids.shape[2:] == (1, 1)

    def likelihood(step: float) -> float:
        counted = texts.counted
        push = lambda x: x + step * counted[..., None] * place / place.norm()  # noqa: E731
        with torch.no_grad(), hooked(model, {"blocks.0.hook_mlp_out": push}):
            logits = model(texts.tokens).double()
        each = logits[:, :-1].log_softmax(-1).gather(-1, texts.tokens[:, 1:, None])[..., 0]
        return float(((each * counted[:, 1:]).sum(1) / counted.sum(1)).mean())

    slope = (likelihood(1e-3) - likelihood(-1e-3)) / 2e-3
    assert slope == pytest.approx(float(place.norm()), rel=2e-2)


def test_effects_of_found_codes_can_be_set(model, books):
    found = find_codes(model, books, MARKED, PLAIN)
    assert list(found.codes) == sorted(found.codes, key=lambda code: -code.effect)
    assert all(np.isfinite(code.effect) for code in found.codes)
    tokens = tokenize(model, PLAIN[:2]).tokens
    with torch.no_grad(), steer(model, books, found.sets(1), positions="all") as steered:
        model(tokens)
    assert steered.ids
    with pytest.raises(InputError, match="99 codes: choose 1 to"):
        found.sets(99)


@pytest.mark.parametrize(
    ("positive", "negative", "options", "message"),
    [
        (MARKED[:3], PLAIN, {}, "3 positive texts: at least 6"),
        (MARKED, PLAIN[:1], {}, "1 negative texts"),
        ([*MARKED, PLAIN[0]], PLAIN, {}, "is among the positive and the negative texts"),
        ([*MARKED, ""], PLAIN, {}, "is empty"),
        ([*MARKED, "a " * 400], PLAIN, {}, "the model reads 128"),
        ([*MARKED[:4], *PLAIN[4:]], [*PLAIN[:4], *MARKED[4:]], {}, "no code tells the positive texts"),
        (MARKED, PLAIN, {"by": "taste"}, "ranking 'taste': choose effect or detection"),
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
