"""What stands on a page for each token joins to the text, whatever the characters are made of."""

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from interp.app.codes.code_view import strip
from interp.app.widgets.tokens import pieces, visible
from interp.codesearch import CodeContext
from tests.tiny_models import make_tokenizer

TEXTS = (
    "Then, Mary went to the store.\n\n  def f(x):",
    "naïve 🙂🙂 日本語 x\u0301",
    "\ufffd is a character, too \ufffd",
)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_pieces_join_to_the_text_and_a_character_stands_at_the_token_that_completes_it(tokenizer):
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        parts = pieces(tokenizer, ids)
        assert len(parts) == len(ids) and "".join(parts) == text
    smile = tokenizer("🙂", add_special_tokens=False).input_ids
    assert pieces(tokenizer, smile) == ["", "", "", "🙂"]
    assert pieces(tokenizer, smile[:2]) == ["", "\ufffd"]  # what is cut off shows
    assert pieces(tokenizer, []) == []


def test_spaces_that_a_token_has_only_behind_another_are_kept():
    """Metaspace decoders drop the space in front of the first token that they are given."""
    backend = Tokenizer(models.WordLevel({"▁the": 0, "▁store": 1, "s": 2}, unk_token="s"))
    backend.decoder = decoders.Metaspace()
    metaspace = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert pieces(metaspace, [0, 1, 2, 1]) == ["the", " store", "s", " store"]


def test_a_token_shows_what_would_not_be_seen_or_would_turn_its_neighbours_round():
    texts = {" \n": "·↵", " of the": "of the", "a\nb": "a↵b", "\x07\u2066": r"\u0007\u2066", "": ""}
    assert {text: visible(text) for text in texts} == texts
    row = strip(CodeContext(0, 0, ["a\tb", "\u202e", "c\n"], 1, [False, True, False]), 3)
    assert r"a b<span" in row and r">\u202e</span>c↵" in row and "\u202e" not in row
