"""Positions and continuations with tokenizers that mark words in other ways than GPT-2."""

import re

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from interp.prompts.encoding import PromptEncoder
from interp.prompts.sampling import read_data
from interp.tasks import IOI, GreaterThan, InputError

from .conftest import sentences


@pytest.fixture(scope="module")
def metaspace():
    """As SentencePiece does it: a text's first word is marked like the others; every digit is a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    data = read_data("ioi")
    names = [f"Then {name} and {name} went to gave" for name in data["names"]] * 5
    alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*names, *data["templates"], *sentences()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def test_pieces_that_do_not_add_up_are_placed_by_prefixes(metaspace):
    encoder = PromptEncoder(metaspace, bos=True)
    pieces = [("The year", None), (" 17", "XX"), ("3", "Y1"), ("2", "Y2"), (" to", None)]
    parts = [token for text, _ in pieces for token in encoder.encode(text)]
    tokens, positions = encoder.place(pieces)
    assert tuple(parts) != tokens[1:]
    at = {role: metaspace.convert_ids_to_tokens(tokens[i]) for role, i in positions.items()}
    assert at == {"XX": "7", "Y1": "3", "Y2": "2", "END": "▁to"}


def test_greater_than_works_where_words_are_marked_at_their_start(metaspace):
    for pair in GreaterThan().sample(metaspace, 20):
        year = re.search(r"\d{4}", pair.clean)[0]
        at = {role: metaspace.convert_ids_to_tokens(pair.clean_tokens[i]) for role, i in pair.positions.items()}
        assert at == {"XX": year[1], "Y1": year[2], "Y2": year[3], "END": year[1]}
        right = metaspace.convert_ids_to_tokens(list(pair.answers))
        assert right == [str(digit) for digit in range(int(year[2]) + 1, 10)]


def test_ioi_works_where_words_are_marked_at_their_start(metaspace):
    for pair in IOI().sample(metaspace, 60):
        at = {role: pair.clean_tokens[i] for role, i in pair.positions.items()}
        assert at["IO"] == pair.answers[0] and at["S1"] == at["S2"] == pair.wrong_answers[0]
        assert metaspace.convert_ids_to_tokens(pair.answers[0]).startswith("▁")


def test_a_role_within_a_token_and_unequal_prompts_are_input_errors(gpt2):
    encoder = PromptEncoder(gpt2, bos=False)
    with pytest.raises(InputError, match="no token border after 'Hel'"):
        encoder.place([("Hel", "half"), ("lo", None)])
    short, long = ([(text, "A"), (end, None)] for text, end in (("a", " b"), ("a b", " c")))
    with pytest.raises(InputError, match="2 tokens and its corrupt partner .* 3: choose another"):
        encoder.pair(short, long, answers=[1], wrong_answers=[2])


def test_a_continuation_that_fuses_with_its_prefix_is_encoded_alone(gpt2):
    encoder = PromptEncoder(gpt2, bos=False)
    assert encoder.continuation("year 13", "00") == encoder.encode("00")
    assert encoder.continuation("year 13", "52") == encoder.encode("52")
    assert encoder.continuation("to", " Mary") == encoder.encode(" Mary")


def test_a_tokenizer_without_bos_gets_none(whole_year_tokenizer):
    assert PromptEncoder(whole_year_tokenizer, bos=True).bos == ()
