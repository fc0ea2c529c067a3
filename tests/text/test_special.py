"""Where a text ends, and what is no text."""

from types import SimpleNamespace

import pytest

from interp.errors import InputError
from interp.steering.continuations import encode_prompts
from interp.steering.texts import tokenize
from interp.text.special import ends, until_end


@pytest.mark.parametrize(
    ("of_config", "expected"), [(None, {2}), (2, {2}), (7, {2, 7}), ([7, 9], {2, 7, 9}), ((2, 9), {2, 9})]
)
def test_a_text_ends_at_whatever_generation_stops_at(of_config, expected):
    model = SimpleNamespace(
        cfg=SimpleNamespace(eos_token_id=of_config), tokenizer=SimpleNamespace(eos_token_id=2)
    )
    assert ends(model) == expected
    assert until_end([5, 6, max(expected), 5], ends(model)) == [5, 6]


def test_a_model_that_names_no_end_has_the_tokenizer_s_or_none(tiny_model):
    model = tiny_model("llama")
    assert model.tokenizer.eos_token_id in ends(model)
    nameless = SimpleNamespace(cfg=SimpleNamespace(), tokenizer=SimpleNamespace(eos_token_id=None))
    assert until_end([1, 2], ends(nameless)) == [1, 2]


def test_half_of_a_surrogate_pair_is_a_line(tiny_model):
    model = tiny_model("llama")
    for read in (lambda text: encode_prompts(model, [text]), lambda text: tokenize(model, [text])):
        with pytest.raises(InputError, match="character 4 .* half of a surrogate pair"):
            read("John\udcff went")
