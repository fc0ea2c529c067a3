"""The text behind an index: tokens, documents, and the bytes of every token, so that no tokenizer is needed to read it.

Bytes, because a token may hold a part of a character: what a match overlaps and what a token shows are both right for
any script. Special tokens have no bytes: the text of a document runs on where the model's blocks are cut.
"""

import codecs
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from interp.errors import InputError
from interp.text.special import between, check_unicode, first_token

INVALID = "\x1a"  # stands for each byte that is no part of a character; one byte, so that offsets stay
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")

codecs.register_error("interp-same-length", lambda e: (INVALID * (e.end - e.start), e.end))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Corpus:
    tokens: Shaped[np.ndarray, " token"]  # all blocks behind each other
    context: int  # tokens per block, which is what the model saw at once
    documents: Int[np.ndarray, " document"]  # where each begins
    vocabulary: UInt8[np.ndarray, " byte"]  # bytes of all tokens of the vocabulary behind each other
    vocabulary_ends: Int[np.ndarray, " d_vocab"]  # where each one's end
    # which tokens of the vocabulary are special: their bytes are for show only
    special: Bool[np.ndarray, " d_vocab"]
    text: UInt8[np.ndarray, " text_byte"]  # bytes of all tokens, valid UTF-8 in every document

    @cached_property
    def ends(self) -> Int[np.ndarray, " token"]:
        """Where each token ends in :attr:`text`; a special token ends where it begins."""
        lengths = np.diff(self.vocabulary_ends, prepend=0) * ~self.special
        self._check(self.tokens)
        ends = np.cumsum(lengths[self.tokens])
        if len(ends) and ends[-1] != len(self.text):
            raise InputError("the index is damaged: its text is not that of its tokens; build it again")
        return ends

    @cached_property
    def starts(self) -> Int[np.ndarray, " token"]:
        return np.concatenate([[0], self.ends[:-1]])

    @cached_property
    def token_counts(self) -> Int[np.ndarray, " d_vocab"]:
        return np.bincount(self.tokens, minlength=len(self.special))

    @cached_property
    def document_bytes(self) -> Int[np.ndarray, " bound"]:
        """Where each document begins in :attr:`text`, and the end."""
        return np.concatenate([self.starts[self.documents], [len(self.text)]])

    def document_of(self, tokens: Shaped[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        return np.searchsorted(self.documents, tokens, side="right") - 1

    def document_lengths(self) -> Int[np.ndarray, " document"]:
        return np.diff(self.documents, append=len(self.tokens))

    def _check(self, tokens: Sequence[int] | Shaped[np.ndarray, " n"]) -> None:
        if len(tokens) and int(np.max(tokens)) >= len(self.special):
            raise InputError("the index is damaged: it has tokens that its vocabulary lacks; build it again")

    def token_bytes(self, token: int) -> bytes:
        begin = int(self.vocabulary_ends[token - 1]) if token else 0
        return self.vocabulary[begin : int(self.vocabulary_ends[token])].tobytes()

    def token_text(self, token: int) -> str:
        """One token of the vocabulary by itself; a part of a character shows as U+FFFD."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def pieces(self, tokens: Sequence[int] | Shaped[np.ndarray, " n"]) -> list[str]:
        """What each token adds to the text: a character of several tokens stands at the one that completes it."""
        self._check(tokens)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        texts = []
        for token in map(int, tokens):
            if self.special[token]:
                texts.append(decoder.decode(b"", final=True) + self.token_text(token))
                decoder.reset()
            else:
                texts.append(decoder.decode(self.token_bytes(token)))
        if texts:
            texts[-1] += decoder.decode(b"", final=True)
        return texts

    def find_tokens(self, text: str) -> Int[np.ndarray, " n"]:
        """Ids of the vocabulary that are this text, with or without a space in front; of spaces alone, just these."""
        check_unicode(text)
        bare = text.removeprefix(" ").encode()
        wanted = {bare, b" " + bare} if text.strip(" ") else {text.encode()}
        lengths = np.diff(self.vocabulary_ends, prepend=0)
        likely = np.flatnonzero(np.isin(lengths, [len(w) for w in wanted]))
        return np.array([i for i in likely if self.token_bytes(int(i)) in wanted], np.int64)


def read_corpus(
    tokens: Int[np.ndarray, "block pos"],
    tokenizer: PreTrainedTokenizerBase,
    d_vocab: int,
    sources: Int[np.ndarray, " block"] | None = None,
) -> Corpus:
    """A corpus from blocks of text. Where no token stands between documents every block is one. Where a block is from
    another source than the one before, a document begins."""
    begin, join = first_token(tokenizer), between(tokenizer)
    table, special = vocabulary(tokenizer, d_vocab)
    last = np.full(tokens.shape, False) if join is None else tokens == join
    if join is None:
        last[:, -1] = True
    elif begin is not None:
        last[:, 0] = False
    if sources is not None:
        last[:-1, -1] |= sources[1:] != sources[:-1]
    flat = tokens.reshape(-1)
    documents = np.append(0, np.flatnonzero(last.reshape(-1)[:-1]) + 1)
    plain = [b"" if is_special else part for part, is_special in zip(table, special, strict=True)]
    parts = []
    for document in np.split(flat, documents[1:]):
        raw = b"".join([plain[t] for t in document.tolist()])
        parts.append(raw.decode("utf-8", "interp-same-length").encode())
    small = flat.astype(np.uint16 if d_vocab <= 2**16 else np.uint32)
    ends = np.cumsum([len(part) for part in table], dtype=np.int64)
    words, text = (np.frombuffer(b"".join(part), np.uint8) for part in (table, parts))
    return Corpus(small, tokens.shape[1], documents, words, ends, special, text)


def vocabulary(tokenizer: PreTrainedTokenizerBase, d_vocab: int) -> tuple[list[bytes], Bool[np.ndarray, " d_vocab"]]:
    """The bytes of every token, and which are special; rows of the embedding without a token are empty and special."""
    added = tokenizer.added_tokens_decoder
    names: list[str | None] = [*tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), d_vocab))))]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    byte_level = backend is not None and "ByteLevel" in json.dumps(json.loads(backend.to_str()).get("decoder"))
    alphabet = {letter: byte for byte, letter in bytes_to_unicode().items()} if byte_level else {}
    table: list[bytes] = []
    special = np.ones(d_vocab, bool)
    for i, name in enumerate(names):
        special[i] = name is None or (added[i].special if i in added else i in tokenizer.all_special_ids)
        if i in added and name is not None:
            table.append(added[i].content.encode())
        elif name and byte_level and all(letter in alphabet for letter in name):
            table.append(bytes(alphabet[letter] for letter in name))
        elif name and (match := _BYTE_TOKEN.fullmatch(name)):
            table.append(bytes([int(match[1], 16)]))
        else:
            table.append((name or "").replace("\u2581", " ").encode())
    table += [b""] * (d_vocab - len(table))
    return table, special
