"""The watcher knows where every forward begins, for every way in which a model is run."""

import pytest

from interp.models.generate import generate
from interp.models.hooks import forwards_watched, running_generation
from tests.tiny_models import FAMILIES

PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.mark.parametrize("family", FAMILIES)
def test_begin_is_told_how_many_positions_are_cached(family, tiny_model):
    # longer than the sliding window of the Gemma models, whose cache then drops its oldest positions
    model, begun = tiny_model(family), []
    n = model.to_tokens(PROMPT).shape[1]
    with forwards_watched(model, begun.append):
        model(PROMPT)
        assert begun == [0]
        begun.clear()
        new = generate(model, PROMPT, 5, return_type="tokens").shape[1] - n
        assert begun == [0, *range(n, n + new - 1)]
        begun.clear()
        generate(model, PROMPT, 5, use_cache=False)
        assert begun == [0] * new
    begun.clear()
    model(PROMPT)
    assert begun == []


def test_a_generation_within_a_generation_ends_alone(tiny_model):
    model, seen = tiny_model("llama"), []

    def watch(_tokens) -> None:
        outer = running_generation(model)
        generate(model, PROMPT, 1)
        seen.append((outer, running_generation(model)))

    generate(model, PROMPT, 3, watch=watch)
    assert len({id(one) for pair in seen for one in pair}) == 1 and seen[0][0] is not None
    assert running_generation(model) is None


def test_the_watcher_is_gone_after_an_exception(tiny_model):
    model, begun = tiny_model("llama"), []
    with pytest.raises(RuntimeError), forwards_watched(model, begun.append):
        raise RuntimeError
    model(PROMPT)
    assert begun == []
