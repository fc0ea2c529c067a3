"""Steered texts are those of the model with its codes edited."""

import pytest

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.attach import attach
from interp.models import load_model
from interp.models.generate import generate
from interp.steering import AddCode, SetCode, steer

PROMPTS = ["Mary and John", "The store"]


@pytest.mark.parametrize("error_term", [True, False])
def test_steered_texts_are_those_of_an_edited_model(tiny_model_folder, error_term):
    model = load_model(str(tiny_model_folder("llama")))
    size = {"d_in": model.cfg.d_head, "groups": model.cfg.n_heads}
    books = {f"a{layer}": Codebook(CodebookConfig(n_codes=9, **size)) for layer in range(2)}
    edits, options = [AddCode("a0.h1", 3, 30), SetCode("a1.h2", 5)], {"seed": 2, "temperature": 1.0}
    texts = steer(model, books, edits, PROMPTS, 8, error_term=error_term, **options)
    with attach(model, books, error_term=error_term).edit(*edits, seed=2):
        assert texts == generate(model, PROMPTS, 8, **options)
    assert all(text.startswith(prompt) for text, prompt in zip(texts, PROMPTS, strict=True))
    assert texts != generate(model, PROMPTS, 8, **options)
    one = steer(model, books, edits, PROMPTS[0], 8, error_term=error_term, temperature=0)
    assert one == attach(model, books, error_term=error_term).edit(*edits).generate(PROMPTS[0], 8)
