"""The default model: what comes with the package was made with the codebooks that come with it, and codes of a topic
are found and set through the chat template."""

import pytest
import torch

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import code_edits
from interp.bottlenecks.store import Codebooks
from interp.models import hooked
from interp.steering import find_codes, load_topic, parse_codes, topic_names
from interp.steering.cache import identity, recall, request_key
from interp.steering.continuations import continue_prompts
from interp.steering.find import RANKINGS
from interp.steering.texts import tokenize
from interp.steering.topics import load_presets

STALE = "made with other codebooks: run benchmarks/steering_presets.py"


@pytest.mark.slow
def test_presets_and_topics_codes_belong_to_the_shipped_codebooks(smollm2, tmp_path):
    books = Codebooks.from_pretrained("smollm2-135m-instruct-k1", smollm2)
    made_with = identity(smollm2, books)
    presets = load_presets(made_with)
    assert presets, STALE
    for preset in presets:
        attach(smollm2, books, read=False).edit(*code_edits(parse_codes(preset.codes), "added", scale=preset.scale))
        measured = preset.measured
        assert measured.hits[1] >= max(measured.n / 2, 2 * measured.hits[0], 2 * measured.hits[2])
    for name in topic_names():
        topic = load_topic(name)
        for by in RANKINGS:
            code_set = recall(tmp_path, request_key(made_with, topic.positive, topic.negative, by, 0))
            assert code_set is not None, STALE
            assert code_set.by == by and code_set.n_positive == len(topic.positive)
            assert len(code_set) > (50 if by == "difference" else 100)
            attach(smollm2, books, read=False).edit(*code_set.sets(len(code_set)))


def test_presets_of_other_codebooks_are_none_and_what_is_kept_is_of_one_ranking_and_one_seed():
    assert load_presets("another") == []
    keys = {request_key("m", ["a"], ["b"], by, seed) for by in RANKINGS for seed in (0, 1)}
    assert len(keys) == 2 * len(RANKINGS)


@pytest.mark.slow
def test_codes_of_a_topic_change_what_the_chat_says_and_cost_perplexity(smollm2):
    topic = load_topic("fire")
    positive, negative = topic.positive[:12], topic.negative[:24]
    texts = tokenize(smollm2, [*positive, *negative])
    seen = []
    with torch.no_grad(), hooked(smollm2, {"blocks.12.hook_resid_post": lambda x: seen.append(x.clone())}):
        smollm2(texts.tokens)
    book = Codebook(CodebookConfig(d_in=576, n_codes=64, selection="matching_pursuit")).fit(seen[0][texts.counted])
    code_set = find_codes(smollm2, {"r12": book}, positive, negative)

    def told(within=None):
        return continue_prompts(smollm2, ["Tell me a story."], 8, within=within, chat=True, temperature=0)[0]

    steered, plain = told(attach(smollm2, {"r12": book}, read=False).edit(*code_set.sets(1))), told()
    assert steered.text != plain.text
    assert steered.perplexity > plain.perplexity
    assert told().text == plain.text
