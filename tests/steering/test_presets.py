"""What comes with the package for the default model was made with the codebooks that come with it."""

import pytest

from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import code_edits
from interp.bottlenecks.store import Codebooks
from interp.steering import load_topic, parse_codes, topic_names
from interp.steering.cache import identity, recall, request_key
from interp.steering.find import RANKINGS
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
