"""The default model, whose codes of a topic are found and set through its chat template."""

import pytest
import torch

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.attach import attach
from interp.models import hooked
from interp.steering import find_codes, load_topic
from interp.steering.continuations import continue_prompts
from interp.steering.texts import tokenize


@pytest.mark.slow
def test_codes_of_a_topic_change_what_the_chat_says_and_cost_perplexity(smollm2):
    topic = load_topic("fire")
    positive, negative = topic.positive[:12], topic.negative[:24]
    texts = tokenize(smollm2, [*positive, *negative])
    seen = []
    with torch.no_grad(), hooked(smollm2, {"blocks.12.hook_resid_post": lambda x: seen.append(x.clone())}):
        smollm2(texts.tokens)
    book = Codebook(CodebookConfig(d_in=576, n_codes=64, selection="matching_pursuit")).fit(
        seen[0][texts.counted]
    )
    found = find_codes(smollm2, {"r12": book}, positive, negative)

    def told(within=None):
        return continue_prompts(smollm2, ["Tell me a story."], 8, within=within, chat=True, temperature=0)[0]

    steered, plain = told(attach(smollm2, {"r12": book}, read=False).edit(*found.sets(1))), told()
    assert steered.text != plain.text
    assert steered.perplexity > plain.perplexity
    assert told().text == plain.text
