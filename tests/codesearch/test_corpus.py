"""Tokens and bytes: what a match overlaps and what a token shows are right for parts of characters."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from interp.codesearch import find_regex
from interp.codesearch.corpus import INVALID, read_corpus
from interp.errors import InputError
from tests.codesearch.conftest import DOCUMENTS
from tests.tiny_models import make_tokenizer


def _corpus(rows, tokenizer):
    return read_corpus(np.array(rows), tokenizer, len(tokenizer) + 3)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_documents_are_whole_across_blocks(index, text):
    corpus = index.corpus
    ends = corpus.document_bytes
    texts = [corpus.text[a:b].tobytes().decode() for a, b in zip(ends[:-1], ends[1:], strict=True)]
    assert all(document in DOCUMENTS for document in texts[:-1])
    assert any(document.startswith(texts[-1]) for document in DOCUMENTS)  # the last is cut off
    # the second token of the text begins a document wherever one ended
    assert len(texts) == (text.tokens[:, 1:-1] == 0).sum() + (text.tokens[:-1, -1] == 0).sum() + 1


def test_an_emoji_of_several_tokens_is_one_match(index, model):
    matches = find_regex(index.corpus, "🙂")
    per_match = np.bincount(matches.match)
    length = len(model.tokenizer("🙂", add_special_tokens=False).input_ids)
    assert length == 4 and set(per_match) == {4}
    assert matches.n == sum("🙂" in t for t in index.corpus.text.tobytes().decode().split("Mary")[1:])
    # BOS in its middle is not of the match
    assert not index.corpus.special[index.corpus.tokens[matches.tokens]].any()


def test_pieces_join_to_the_text(index):
    corpus = index.corpus
    tokens = corpus.tokens[:200]
    plain = tokens[~corpus.special[tokens]]
    assert "".join(corpus.pieces(plain)) == corpus.text[: corpus.ends[199]].tobytes().decode(errors="replace")
    assert corpus.pieces([]) == []
    first = int(np.flatnonzero(corpus.text == 0xF0)[0])
    token = int(np.searchsorted(corpus.ends, first, side="right"))
    of_emoji = [t for t in corpus.tokens[token : token + 5].tolist() if not corpus.special[t]][:4]
    assert corpus.pieces(of_emoji) == ["", "", "", "🙂"]
    assert corpus.pieces(of_emoji[:2]) == ["", "�"]  # what is cut off shows
    assert corpus.pieces([of_emoji[0], 0])[1] == "�<|endoftext|>"


def test_bytes_that_are_no_text_stay_one_byte_long(tokenizer):
    smile = tokenizer("🙂").input_ids
    rows = [[0, *smile[:2], *tokenizer("ab").input_ids, 0, *smile]]
    corpus = _corpus([row + [0] * (12 - len(row)) for row in rows], tokenizer)
    assert corpus.text.tobytes().decode() == INVALID * 2 + "ab" + "🙂"
    matches = find_regex(corpus, "ab|🙂")
    assert matches.tokens.tolist() == [3, 4, 6, 7, 8, 9]
    assert matches.n == 2


def test_sentencepiece_with_byte_fallback():
    pieces = ["<unk>", "<s>", "▁New", "▁York", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    spaces = decoders.Replace("▁", " ")
    backend.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")
    smile = [4 + byte for byte in "🙂".encode()]
    corpus = _corpus([[1, 2, 3, *smile, 1]], tokenizer)
    assert corpus.text.tobytes().decode() == " New York🙂"
    assert corpus.pieces([3, *smile]) == [" York", "", "", "", "🙂"]
    assert find_regex(corpus, "York🙂").tokens.tolist() == [2, 3, 4, 5, 6]


def test_tokens_by_text(index):
    corpus = index.corpus
    (token,) = corpus.find_tokens("M")
    assert corpus.token_text(int(token)) == "M"
    assert len(corpus.find_tokens("no such token")) == 0
    names = [corpus.token_text(int(i)) for i in corpus.find_tokens(" M")]
    assert set(names) <= {"M", " M"} and "M" in names
    assert [corpus.token_text(int(i)) for i in corpus.find_tokens(" ")] == [" "]
    for spaces in ("  ", "    "):  # no other number of spaces
        assert {corpus.token_text(int(i)) for i in corpus.find_tokens(spaces)} <= {spaces}
    with pytest.raises(InputError, match="half of a surrogate pair"):
        corpus.find_tokens("\udcff")
