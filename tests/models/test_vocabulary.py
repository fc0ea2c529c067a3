"""A tokenizer of another model is refused when a model is loaded, and a token without an embedding where it is met."""

import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp.activations.stream import check_context, feed
from interp.errors import InputError
from interp.models import Model, load_model
from interp.models.generate import generate
from interp.steering.continuations import encode_prompts
from interp.steering.texts import tokenize
from interp.text import load_text
from tests.pairs import random_pairs
from tests.tasks.conftest import train_tokenizer
from tests.tiny_models import make_config

ADDED = "<|image|>"


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_model_folder) -> Model:
    """Its tokenizer has an added token beyond the embeddings, as some published ones."""
    copy = tmp_path_factory.mktemp("added") / "model"
    shutil.copytree(tiny_model_folder("llama"), copy)
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens([ADDED])
    tokenizer.save_pretrained(copy)
    return load_model(str(copy))


@pytest.fixture
def refused(model):
    """One line that names the token, its id and the vocabulary's size, before any forward."""
    message = r"has the token '<\|image\|>' of id 360: the model's vocabulary is of 360 tokens, ids 0 to 359$"

    def never(*_given):
        raise AssertionError("a forward")

    handle = model.embed.register_forward_hook(never)
    yield pytest.raises(InputError, match=message)
    handle.remove()


def test_a_tokenizer_of_another_model_is_refused_at_load(tmp_path, tiny_model_folder):
    copy = tmp_path / "model"
    shutil.copytree(tiny_model_folder("llama"), copy)
    words = [f"word{i} other{i}" for i in range(400)]
    train_tokenizer(texts=words).save_pretrained(copy)
    message = "its tokenizer is of another model: the token '.*' of id 360 and .*vocabulary is of 360 tokens"
    with pytest.raises(InputError, match=message) as error:
        load_model(str(copy))
    assert "\n" not in str(error.value)


def test_more_embeddings_than_tokens_are_no_harm(tmp_path, tiny_model_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder("llama"))
    tokenizer.save_pretrained(tmp_path)
    config = make_config("llama", len(tokenizer) + 24, tokenizer.eos_token_id)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert model.cfg.d_vocab == len(model.tokenizer) + 24
    assert check_context(model, random_pairs(model.cfg.d_vocab)) == 9


@pytest.mark.parametrize("part", ["clean_tokens", "corrupt_tokens", "answers", "wrong_answers"])
def test_pairs_with_a_token_that_the_model_does_not_know_are_refused(model, refused, part):
    pairs = random_pairs(360)
    pairs[3] = replace(pairs[3], **{part: (*getattr(pairs[3], part)[:-1], 360)})
    with refused:
        feed(model, pairs, [])


def test_texts_and_prompts_with_such_a_token_are_refused(model, refused, tmp_path):
    text = f"Mary {ADDED}"
    (tmp_path / "mine.txt").write_text("\n\n".join(f"{text} {i}" for i in range(400)))
    for use in (
        lambda: load_text(str(tmp_path / "mine.txt"), model, n_tokens=256, context=32),
        lambda: tokenize(model, ["Mary", text]),
        lambda: encode_prompts(model, [text]),
        lambda: generate(model, text, 2),
        lambda: generate(model, ["Mary", text], 2),
        lambda: generate(model, torch.tensor([[1, 360]]), 2),
    ):
        with refused:
            use()
