"""A label for every code: the pattern of a stated family that tells best at which tokens the code is on.

No language model is asked. A pattern is a set of tokens of the corpus. The family:

* one value of a variable, or up to :data:`MOST_VALUES` of them: the token, the word whatever its case, the token
  before, the token after, the token and the one before, the token in code or in prose, its class and the class before;
* a word said shortly before, within :data:`RECENT` tokens;
* a class of words (digits, capitalised, *-ing*, prepositions …) of the token, of the one before, of the one after;
* a place: first of a document, a line or a sentence, how far into the block, inside brackets, quotes, a tag or a word,
  said before, said before after the same token, in code or in prose.

The documents are split in two. On one half the pattern with the best F1 is chosen; precision, recall and F1 are
measured on the other. A set of values must be better than one value by :data:`SIMPLER`: it has more to choose from.

A code of a head is often one of many that share a pattern out among them. Where no F1 is :data:`FITS` of the way from
that of a random code to 1, a pattern is chosen that most of the code's tokens have, at least :data:`MOSTLY` of them and
:data:`LIFT` times the share of all tokens: that with the largest share · log2 (share / share of all tokens). Its label
begins with *mostly*. What is chosen has to hold on the second half too:

* **rare**: the code is on at fewer than :data:`LEAST` tokens there, so that nothing can be measured.
* **mixed**: F1 is less than :data:`FITS` of that way, or for *mostly* the share or its lift too small.

Random codes are those of one book a site, each with its firings at other tokens, and go the same way.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from interp.bottlenecks.store import PRETRAINED, Codebooks
from interp.codesearch.corpus import Corpus
from interp.codesearch.index import CodeIndex
from interp.errors import InputError
from interp.files import atomic_path
from interp.progress import Stage, silent

LABELS = "labels.parquet"
FORMAT = 1
LEAST = 20
FITS = 0.25
MOSTLY, LIFT = 0.5, 2.0
RECENT = 8
SIMPLER = 0.02
MOST_VALUES = 8
LEAST_COUNT = 5
"""Occurrences in the first half that a value must have to be looked at."""
SHARES = 0.5, 0.8
"""Values of F1 that it is told how many codes reach."""
SHOWN = 3
"""Values of a set that its label names."""
RARE, MIXED = "rare", "mixed"
_ROUNDS = 6

_CLOSED = {
    "articles": "the a an",
    "pronouns": "i me my mine we us our ours you your yours he him his she her hers it its they them their theirs",
    "this, that": "this that these those",
    "prepositions": "of in to for on with at by from into over about after before under between through during "
    "against without within among across behind beyond upon toward towards",
    "conjunctions": "and or but nor so yet because although though while if unless since whereas",
    "forms of be": "be am is are was were been being",
    "auxiliaries": "have has had having do does did can could will would shall should may might must",
    "not": "not no never none nothing neither n't don't doesn't didn't cannot",
    "question words": "what which who whom whose when where why how",
    "number words": "one two three four five six seven eight nine ten hundred thousand million first second third",
    "months and days": "january february march april june july august september october november december monday "
    "tuesday wednesday thursday friday saturday sunday",
    "keywords of code": "def return class import self if else elif for while int void const static struct public "
    "private function var let none true false null new try except catch include",
}
_APART = (
    "digits",
    "punctuation that ends a sentence",
    "commas, semicolons and colons",
    "opening brackets",
    "closing brackets",
    "quotation marks",
    "operators",
    "line breaks",
    "white space",
    "punctuation",
    "words in capitals",
    "capitalised words",
    "pieces without a space in front",
    "lower-case words",
)
"""Classes that with the lists share out the tokens, of two the first."""
CODE, PROSE = "text that is code", "text that is prose"
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Label:
    """What a code stands for, and how well that tells where it is on.

    Attributes:
        text: the pattern in words, :data:`MIXED` or :data:`RARE`; what tokens say in it is not escaped.
        precision, recall, f1: on the second half: of the code's tokens those with the pattern, of the pattern's those
            with the code, as a search of the index has it.
        null: mean F1 of random codes of the same frequency.
        firings: tokens of the second half at which it is on.
    """

    text: str
    precision: float
    recall: float
    f1: float
    null: float
    firings: int

    @property
    def named(self) -> bool:
        return self.text not in (RARE, MIXED)


@dataclass(frozen=True)
class Boolean:
    """A pattern that is one set of tokens."""

    text: str
    tokens: Int[np.ndarray, " n"]
    count: tuple[int, int]


@dataclass(frozen=True)
class Variable:
    """A value at every token; each of them, and any few together, are patterns.

    Attributes:
        order: tokens that have a frequent value, by value; ``values`` are theirs.
        counts: [half, value].
        margin: what its patterns must be better by than the plainest ones.
        show: values in words.
        several: whether a token has one value at most, so that a few together can be counted.
    """

    order: Int[np.ndarray, " n"]
    values: Int[np.ndarray, " n"]
    counts: Int[np.ndarray, "half value"]
    margin: float
    show: Callable[[Sequence[int]], str]
    several: bool = True


class Patterns:
    """The family over one corpus, worked out once.

    Attributes:
        half: 0 or 1 of every token, by document; ``sizes`` are their numbers of tokens.
    """

    def __init__(self, corpus: Corpus, *, seed: int = 0) -> None:
        tokens = np.asarray(corpus.tokens).astype(np.int64)
        if len(corpus.documents) < 2:
            raise InputError(
                f"a corpus of {len(corpus.documents)} document: labels need two halves of several"
            )
        rng = np.random.default_rng(seed)
        of_document = rng.permutation(len(corpus.documents)) % 2
        self.half = np.repeat(of_document, corpus.document_lengths()).astype(np.int64)
        self.sizes = tuple(np.bincount(self.half, minlength=2).tolist())
        words = Vocabulary(corpus)
        before, after = _shifted(tokens, corpus.context, 1), _shifted(tokens, corpus.context, -1)
        places = list(_places(corpus, tokens, before, words))
        kind = np.zeros(len(tokens), np.int64)
        for i, name in enumerate((CODE, PROSE), 1):
            kind[dict(places)[name]] = i
        every = np.arange(len(tokens))
        self.variables = [
            self._variable(every, values, margin, show)
            for values, margin, show in _variables(tokens, before, after, kind, words)
        ]
        self.variables.append(self._recent(tokens, corpus.context, words))
        self.booleans = [self._boolean(text, where) for text, where in _classes(tokens, before, after, words)]
        self.booleans += [self._boolean(text, where) for text, where in places]

    def _boolean(self, text: str, where: Bool[np.ndarray, " token"]) -> Boolean:
        tokens = np.flatnonzero(where)
        second = int(self.half[tokens].sum())
        return Boolean(text, tokens, (len(tokens) - second, second))

    def _variable(
        self,
        tokens: Int[np.ndarray, " n"],
        values: Int[np.ndarray, " n"],
        margin: float,
        show: Callable,
        *,
        several: bool = True,
    ) -> Variable:
        """Values at tokens in one row; those that are rare, or −1, are left out."""
        n = int(values.max(initial=0)) + 1
        there = values >= 0
        counts = np.bincount(values[there] * 2 + self.half[tokens[there]], minlength=2 * n).reshape(n, 2)
        kept = np.flatnonzero(there & (counts[values, 0] >= LEAST_COUNT))
        kept = kept[np.argsort(values[kept], kind="stable")]
        return Variable(tokens[kept].astype(np.int32), values[kept], counts.T.copy(), margin, show, several)

    def _recent(self, tokens: np.ndarray, context: int, words: "Vocabulary") -> Variable:
        """Words that say something, each once a token, from two to :data:`RECENT` tokens before it."""
        closed = words.closed()
        tells = words.where(lambda text: text.strip().isalpha() and len(text.strip()) > 2) & ~closed
        word = np.where(tells, words.word, -1)
        keys = []
        for lag in range(2, min(RECENT, context - 1) + 1):
            earlier = _shifted(tokens, context, lag)
            at = np.flatnonzero((earlier >= 0) & tells[earlier])
            keys.append(at * len(words.words) + word[earlier[at]])
        at, value = np.divmod(np.unique(np.concatenate(keys)), len(words.words))

        def show(values: Sequence[int]) -> str:
            return f"soon after “{words.words[values[0]]}”"

        return self._variable(at, value, SIMPLER / 2, show, several=False)


class Vocabulary:
    """The tokens of a vocabulary as texts, and what kind of word each is."""

    def __init__(self, corpus: Corpus) -> None:
        self.special = np.asarray(corpus.special)
        self.texts = [corpus.token_text(i) for i in range(len(self.special))]
        self.bare = [text.strip() for text in self.texts]
        self.blank = np.array([not text for text in self.bare])
        lower: dict[str, int] = {}
        self.word = np.array([lower.setdefault(text.lower(), len(lower)) for text in self.bare])
        self.words = list(lower)

    def where(self, rule: Callable[[str], object]) -> Bool[np.ndarray, " d_vocab"]:
        """Tokens whose text, as it stands, is as a rule says; special ones are none."""
        found = np.fromiter((bool(rule(text)) for text in self.texts), bool, len(self.texts))
        return found & ~self.special

    def count(self, characters: str) -> Int[np.ndarray, " d_vocab"]:
        """How many of some characters each token has."""
        found = np.fromiter(
            (sum(map(text.count, characters)) for text in self.texts), np.int64, len(self.texts)
        )
        return np.where(self.special, 0, found)

    def closed(self) -> Bool[np.ndarray, " d_vocab"]:
        """Words of any of the lists."""
        every = {word for words in _CLOSED.values() for word in words.split()}
        return self.where(lambda text: text.strip().lower() in every)

    def partition(self) -> tuple[Int[np.ndarray, " d_vocab"], list[str]]:
        """One class of every token, the first that it is in; the last one is of the rest."""
        known = dict(self.classes())
        names = [*_CLOSED, *_APART]
        found = np.full(len(self.texts), len(names))
        for i in range(len(names) - 1, -1, -1):
            found[known[names[i]]] = i
        return found, [*names, "other tokens"]

    def classes(self) -> Iterator[tuple[str, Bool[np.ndarray, " d_vocab"]]]:
        """Word classes by simple rules."""
        for name, listed in _CLOSED.items():
            yield name, self.where(partial(_listed, frozenset(listed.split())))
        yield "function words", self.closed()
        letters = self.where(lambda text: text.strip().isalpha())
        spaced = self.where(lambda text: text[:1] == " ")
        yield "digits", self.where(lambda text: text.strip().isdecimal())
        yield "punctuation", self.where(lambda text: text.strip() and not any(map(str.isalnum, text)))
        yield (
            "punctuation that ends a sentence",
            self.where(lambda text: text.strip() in (".", "!", "?", "...")),
        )
        yield "commas, semicolons and colons", self.where(lambda text: text.strip() in (",", ";", ":"))
        yield "opening brackets", self.where(lambda text: text.strip()[-1:] in ("(", "[", "{"))
        yield "closing brackets", self.where(lambda text: text.strip()[:1] in (")", "]", "}"))
        yield "quotation marks", self.where(lambda text: text.strip() and not text.strip().strip("\"'“”‘’`"))
        yield "operators", self.where(lambda text: text.strip() and not text.strip().strip("=+-*/<>&|!%^~"))
        yield "white space", self.where(lambda text: text.isspace())
        yield "line breaks", self.where(lambda text: "\n" in text)
        yield "capitalised words", self.where(lambda text: text.strip().istitle() and text.strip().isalpha())
        yield (
            "words in capitals",
            self.where(
                lambda text: len(text.strip()) > 1 and text.strip().isalpha() and text.strip().isupper()
            ),
        )
        yield "single letters", self.where(lambda text: len(text.strip()) == 1 and text.strip().isalpha())
        yield "lower-case words", letters & spaced & self.where(lambda text: text.strip().islower())
        yield "pieces without a space in front", letters & ~spaced
        yield "long words", letters & self.where(lambda text: len(text.strip()) >= 8)
        yield (
            "tokens with letters outside ASCII",
            self.where(lambda text: not text.isascii() and any(map(str.isalpha, text))),
        )
        for ending in ("ing", "ed", "ly", "s", "tion", "er", "al", "able", "ment", "ity"):
            yield f"words in -{ending}", letters & self.where(partial(_ends_in, ending))


def _variables(
    tokens: np.ndarray, before: np.ndarray, after: np.ndarray, kind: np.ndarray, words: Vocabulary
) -> Iterator[tuple[np.ndarray, float, Callable]]:
    size = len(words.texts)
    own, names = words.partition()

    def quoted(texts: Sequence[str]) -> str:
        shown = " ".join(f"“{text}”" for text in texts[:SHOWN])
        return shown + (f" +{len(texts) - SHOWN}" if len(texts) > SHOWN else "")

    def token(values: Sequence[int]) -> str:
        return quoted([words.texts[value] for value in values])

    def pair(values: Sequence[int]) -> str:
        texts = (f"{words.texts[v // size]}{words.texts[v % size]}" for v in map(pairs.__getitem__, values))
        return f"end of {quoted(list(texts))}"

    yield tokens, 0.0, token
    yield (
        np.where(words.blank[tokens], -1, words.word[tokens]),
        SIMPLER / 2,
        lambda v: f"{quoted([words.words[i] for i in v])} in any case",
    )
    yield before, 0.0, lambda values: f"after {token(values)}"
    yield after, 0.0, lambda values: f"before {token(values)}"
    both = np.where(before < 0, -1, before * size + tokens)
    pairs, numbers = np.unique(both, return_inverse=True)  # the first is −1
    yield np.where(before < 0, -1, numbers), SIMPLER / 2, pair

    def kinds(values: Sequence[int]) -> str:
        """Those in code, then those in prose."""
        parts = []
        for i, name in ((1, "code"), (2, "prose")):
            some = [value // 3 for value in values if value % 3 == i]
            parts += [f"{token(some)} in {name}"] if some else []
        return "; ".join(parts)

    def classes(values: Sequence[int]) -> str:
        shown = [f"{names[v % len(names)]} after {names[v // len(names)]}" for v in values]
        return "; ".join(shown[:2]) + (f" +{len(shown) - 2}" if len(shown) > 2 else "")

    yield np.where(kind > 0, 3 * tokens + kind, -1), SIMPLER / 2, kinds
    yield np.where(before < 0, -1, own[before] * len(names) + own[tokens]), SIMPLER / 2, classes


def _classes(
    tokens: np.ndarray, before: np.ndarray, after: np.ndarray, words: Vocabulary
) -> Iterator[tuple[str, np.ndarray]]:
    for name, of in words.classes():
        yield name, of[tokens]
        yield f"after {name}", (before >= 0) & of[before]
        yield f"before {name}", (after >= 0) & of[after]


def _places(
    corpus: Corpus, tokens: np.ndarray, before: np.ndarray, words: Vocabulary
) -> Iterator[tuple[str, Bool[np.ndarray, " token"]]]:
    """Where in the document and in what: as far as the model sees, which is from the beginning of the block."""
    n, context = len(tokens), corpus.context
    place = np.arange(n) % context
    begins = place == 0
    begins[corpus.documents] = True
    segment = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)
    since = np.arange(n) - first[segment]
    of_document = np.arange(n) - np.repeat(corpus.documents, corpus.document_lengths())

    def within(values: np.ndarray) -> np.ndarray:
        """Sums from the beginning of the segment up to and with each token."""
        total = np.cumsum(values)
        return total - (total - values)[first][segment]

    yield "first token of a document", of_document == 0
    for bound in (2, 4, 8):
        yield f"first {bound} tokens", place < bound
        yield f"first {bound} tokens of a document", of_document < bound
    for bound in (16, 32, 64):
        if context > bound:
            yield f"first {bound} tokens", place < bound
            yield f"after the first {bound} tokens", place >= bound
    line = (before >= 0) & words.where(lambda text: "\n" in text)[before]
    stop = words.where(lambda text: text.strip() in (".", "!", "?", "..."))
    yield "first of a line or a sentence", line | ((before >= 0) & stop[before]) | (of_document == 0)
    inside_any = np.zeros(n, bool)
    for opening, closing in _BRACKETS.items():
        steps = (words.count(opening) - words.count(closing))[tokens]
        depth = within(steps)
        # a bracket that was never opened closes nothing; segments are apart by more than any depth
        apart = segment * 64 * context
        depth -= np.minimum(np.minimum.accumulate(depth - apart) + apart, 0)
        inside = (since > 0) & (np.roll(depth, 1) > 0)
        inside_any |= inside
        yield f"inside {opening} {closing}", inside
    yield "inside brackets", inside_any
    quotes = words.count('"')[tokens]
    yield (
        "inside quotes",
        ((within(quotes) - quotes) % 2 == 1) | (within((words.count("“") - words.count("”"))[tokens]) > 0),
    )
    tag = np.array([_last(text, "<", ">") for text in words.texts])[tokens]
    marked = np.maximum.accumulate(np.where(tag != 0, np.arange(n), -1))
    yield "inside a tag", (marked >= first[segment]) & (tag[marked] > 0)
    letters = words.where(lambda text: text.isalpha())
    ends = words.where(lambda text: text[-1:].isalpha())
    yield "later piece of a word", (before >= 0) & letters[tokens] & ends[before]
    repeated = _seen(segment, tokens, n)
    yield "token said before", repeated
    yield "token not said before", ~repeated
    yield "after a token said before", (before >= 0) & np.roll(repeated, 1) & (since > 0)
    yield (
        "said before after the same token",
        (before >= 0) & _seen(segment, before * (tokens.max() + 1) + tokens, n),
    )
    capital = words.where(lambda text: text.strip().istitle())[tokens]
    yield "capitalised word said before", repeated & capital
    yield "capitalised word not said before", ~repeated & capital
    symbols = words.count("{}();=_<>[]\\/")[tokens] > 0
    share = np.bincount(segment, symbols) / np.bincount(segment)
    yield CODE, share[segment] >= 0.15
    yield PROSE, share[segment] < 0.05


def _listed(words: frozenset[str], text: str) -> bool:
    return text.strip().lower() in words


def _ends_in(ending: str, text: str) -> bool:
    return text.strip().endswith(ending) and len(text.strip()) > len(ending) + 1


def _last(text: str, opening: str, closing: str) -> int:
    """1 where the last of two characters is the opening one, −1 where it is the closing one, 0 without either."""
    return int(np.sign(text.rfind(opening) - text.rfind(closing)))


def _seen(segment: np.ndarray, values: np.ndarray, n: int) -> Bool[np.ndarray, " token"]:
    """Where the segment had the same value before."""
    order = np.lexsort((values, segment))
    again = np.zeros(n, bool)
    same = (np.diff(values[order]) == 0) & (np.diff(segment[order]) == 0)
    again[order[1:][same]] = True
    return again


def _shifted(tokens: np.ndarray, context: int, by: int) -> Int[np.ndarray, " token"]:
    """The token so many places before, −1 where the block has none."""
    rows = tokens.reshape(-1, context)
    found = np.full_like(rows, -1)
    if by > 0:
        found[:, by:] = rows[:, :-by]
    else:
        found[:, :by] = rows[:, -by:]
    return found.reshape(-1)


@dataclass
class _Best:
    """The best pattern so far of each code of a book.

    Attributes:
        score: on the first half, what is chosen by: F1 less the pattern's margin, or what :func:`_bits` gives.
        hits, tokens, fired: of the second half, with code and pattern, with the pattern, and with the code.
        kind: number among booleans, then variables; −1 for none.
        values: of a variable, by code.
    """

    score: Float[np.ndarray, " code"]
    hits: Int[np.ndarray, " code"]
    tokens: Int[np.ndarray, " code"]
    kind: Int[np.ndarray, " code"]
    values: dict[int, list[int]]
    fired: Int[np.ndarray, " code"]

    @property
    def f1(self) -> Float[np.ndarray, " code"]:
        return 2 * self.hits / np.maximum(self.tokens + self.fired, 1)

    def take(
        self, codes: np.ndarray, score: np.ndarray, hits: np.ndarray, tokens: Any, kind: int
    ) -> np.ndarray:
        """Note what is better than what is known; which of the codes it was."""
        better = score > self.score[codes]
        codes = codes[better]
        self.score[codes], self.kind[codes], self.hits[codes] = score[better], kind, hits[better]
        self.tokens[codes] = np.broadcast_to(tokens, better.shape)[better]
        return better


def _best(patterns: Patterns, ids: Shaped[np.ndarray, "token k"], n_codes: int) -> tuple[_Best, _Best]:
    """The best pattern of every code of one book, by F1 and by what most of its tokens have."""
    width = 2 * (n_codes + 1)
    small = np.uint16 if width < 2**16 else np.int32  # numbers of 16 bits are sorted by radix
    slots = [(slot.astype(np.int64) * 2 + patterns.half).astype(small) for slot in ids.T]
    fired = np.sum([np.bincount(slot, minlength=width) for slot in slots], 0).reshape(-1, 2)[:n_codes]
    best, mostly = (
        _Best(
            np.zeros(n_codes),
            np.zeros(n_codes, np.int64),
            np.zeros(n_codes, np.int64),
            np.full(n_codes, -1),
            {},
            fired[:, 1],
        )
        for _ in range(2)
    )
    every = np.arange(n_codes)
    # of two patterns that are as good the first stays: one token before a class that it makes up
    for kind, variable in enumerate(patterns.variables, len(patterns.booleans)):
        _try_values(variable, slots, fired, best, mostly, patterns.sizes[0], kind)
    for kind, pattern in enumerate(patterns.booleans):
        hits = np.sum([np.bincount(slot[pattern.tokens], minlength=width) for slot in slots], 0)
        hits = hits.reshape(-1, 2)[:n_codes]
        score = 2 * hits[:, 0] / np.maximum(fired[:, 0] + pattern.count[0], 1)
        best.take(every, score, hits[:, 1], pattern.count[1], kind)
        score = _bits(hits[:, 0] / np.maximum(fired[:, 0], 1), pattern.count[0] / max(patterns.sizes[0], 1))
        mostly.take(every, score, hits[:, 1], pattern.count[1], kind)
    return best, mostly


def _beyond(f1: np.ndarray, chance: np.ndarray) -> Float[np.ndarray, " n"]:
    """How far from chance to 1."""
    return (f1 - chance) / np.maximum(1 - chance, 1e-9)


def _bits(share: np.ndarray, of_all: np.ndarray | float) -> Float[np.ndarray, " n"]:
    """share · log2 lift, where share and lift are large enough for *mostly*, else 0."""
    enough = (share >= MOSTLY) & (share >= LIFT * of_all)
    return np.where(enough, share * np.log2(np.where(enough, share / np.maximum(of_all, 1e-9), 1)), 0)


def _try_values(
    variable: Variable,
    slots: Sequence[np.ndarray],
    fired: np.ndarray,
    best: _Best,
    mostly: _Best,
    n_first: int,
    kind: int,
) -> None:
    """One value, and the best few: those whose share with the code is above half the F1 that they reach together."""
    n_codes, n_values = len(fired), variable.counts.shape[1]
    row = np.concatenate([slot[variable.order] for slot in slots])
    values = np.concatenate([variable.values] * len(slots))
    inside = row < 2 * n_codes
    row, values = row[inside], values[inside]
    # by code, within it half and value
    order = np.argsort(row, kind="stable") if len(slots) == 1 else np.lexsort((values, row))
    key = row[order].astype(np.int64) * n_values + values[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    key, hits = key[starts], np.diff(starts, append=len(key))
    row, value = np.divmod(key, n_values)
    first = np.flatnonzero((row % 2 == 0) & (hits > 1))  # once may be chance, and is most of them
    code, value, hit = row[first] // 2, value[first], hits[first]
    if not len(code):
        return
    total, size = fired[code, 0], variable.counts[0][value]

    def second(code: np.ndarray, value: np.ndarray) -> np.ndarray:
        wanted = (2 * code + 1) * n_values + value
        at = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        return np.where(key[at] == wanted, hits[at], 0)

    begins = np.flatnonzero(np.diff(code, prepend=-1))
    sizes = np.diff(begins, append=len(code))
    alone = 2 * hit / (total + size)
    for found, score, margin in (
        (best, alone, variable.margin),
        (mostly, _bits(hit / total, size / n_first), 0.0),
    ):
        top = np.flatnonzero(score == np.repeat(np.maximum.reduceat(score, begins), sizes))
        top = top[np.flatnonzero(np.diff(code[top], prepend=-1))]
        held, marked = second(code[top], value[top]), variable.counts[1][value[top]]
        taken = found.take(code[top], score[top] - margin, held, marked, kind)
        ones = ([v] for v in value[top][taken].tolist())
        found.values.update(zip(code[top][taken].tolist(), ones, strict=True))
    if not variable.several:
        return
    reached = np.zeros(n_codes)
    reached[code[begins]] = np.maximum.reduceat(alone, begins)
    some = np.flatnonzero(2 * hit > reached[code] * size)
    code, value, hit, size = code[some], value[some], hit[some], size[some]
    for _ in range(_ROUNDS):
        gain = 2 * hit - reached[code] * size
        some = np.flatnonzero(gain > 0)
        some = some[np.lexsort((-gain[some], code[some]))]
        begins = np.flatnonzero(np.diff(code[some], prepend=-1))
        rank = np.arange(len(some)) - np.repeat(begins, np.diff(begins, append=len(some)))
        some = some[rank < MOST_VALUES]
        together = np.bincount(code[some], hit[some], n_codes)
        now = 2 * together / np.maximum(np.bincount(code[some], size[some], n_codes) + fired[:, 0], 1)
        if (now <= reached + 1e-9).all():
            break
        reached = np.maximum(now, reached)
    several = np.bincount(code[some], minlength=n_codes) > 1
    held = np.bincount(code[some], second(code[some], value[some]), n_codes).astype(np.int64)
    marked = np.bincount(code[some], variable.counts[1][value[some]], n_codes).astype(np.int64)
    sets = np.flatnonzero(several)
    score = reached[sets] - variable.margin - SIMPLER
    taken = sets[best.take(sets, score, held[sets], marked[sets], kind)]
    bounds = np.searchsorted(code[some], [taken, taken + 1])
    for one, low, high in zip(taken.tolist(), *bounds.tolist(), strict=True):
        own = some[low:high]
        best.values[one] = value[own[np.argsort(-hit[own], kind="stable")]].tolist()


@dataclass(frozen=True)
class Labels:
    """Labels of every code of some codebooks, by book and id.

    Attributes:
        about: ``books`` (fingerprint), ``text``, ``n_tokens``, and the rules' numbers.
        starts: where each book's codes begin in the columns.
    """

    about: dict[str, Any]
    starts: dict[str, tuple[int, int]]
    columns: dict[str, np.ndarray]

    def of(self, book: str, code: int) -> Label | None:
        """None where there is no such code."""
        begin, n = self.starts.get(book, (0, 0))
        if not 0 <= code < n:
            return None
        row = {name: column[begin + code].item() for name, column in self.columns.items()}
        return Label(**{**row, "text": self.texts[row["text"]]})

    def text(self, book: str, code: int) -> str:
        """What stands beside the code's number; empty where there is no label."""
        label = self.of(book, code)
        return "" if label is None else label.text

    @property
    def texts(self) -> list[str]:
        return self.about["texts"]

    def shares(self) -> dict[str, tuple[int, float, float, float, float, float]]:
        """By site: codes that are not rare; of them the shares with a name, with F1 of at least each of
        :data:`SHARES`, and the same of random codes.
        """
        layer = {name: name.partition(".")[0] for name in self.starts}
        measured, named = (
            self.columns["firings"] >= LEAST,
            np.array([t not in (RARE, MIXED) for t in self.texts]),
        )
        found = {}
        for site, random in self.about["random"].items():
            parts = [np.arange(b, b + n) for name, (b, n) in self.starts.items() if layer[name] == site]
            some = np.concatenate(parts)
            some = some[measured[some]]
            f1, words = self.columns["f1"][some], named[self.columns["text"][some]]
            n = max(len(some), 1)
            found[site] = (
                len(some),
                words.sum() / n,
                *((f1 >= bound).sum() / n for bound in SHARES),
                *random,
            )
        return found

    def clearest(self, n: int, *, per_site: int = 2) -> list[tuple[str, int]]:
        """Codes with a name by falling F1: of each name the best, and of each site the best few."""
        text, seen, sites, found = self.columns["text"], {RARE, MIXED}, dict[str, int](), []
        names = [(name, code) for name, (_, size) in self.starts.items() for code in range(size)]
        for i in np.argsort(-self.columns["f1"], kind="stable").tolist():
            site = names[i][0].partition(".")[0]
            if self.texts[text[i]] not in seen and sites.get(site, 0) < per_site:
                seen.add(self.texts[text[i]])
                sites[site] = sites.get(site, 0) + 1
                found.append(names[i])
                if len(found) == n:
                    break
        return found

    def save(self, path: Path) -> None:
        """One parquet file; shares are kept to a percent."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        books = np.repeat(np.arange(len(self.starts)), [n for _, n in self.starts.values()])
        columns = {"book": pa.DictionaryArray.from_arrays(pa.array(books, pa.int32()), list(self.starts))}
        columns["text"] = pa.DictionaryArray.from_arrays(
            pa.array(self.columns["text"], pa.int32()), self.texts
        )
        for name in ("precision", "recall", "f1", "null"):
            columns[name] = pa.array(np.rint(100 * self.columns[name]), pa.uint8())
        columns["firings"] = pa.array(self.columns["firings"], pa.uint32())
        about = {key: value for key, value in self.about.items() if key != "texts"}
        table = pa.table(columns).replace_schema_metadata({"labels": json.dumps({"format": FORMAT, **about})})
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def open(cls, path: Path) -> "Labels":
        """What :meth:`save` wrote.

        Raises:
            InputError: a file that is missing, damaged or of another format.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
            about = json.loads((table.schema.metadata or {})[b"labels"])
            if about.pop("format") != FORMAT:
                raise ValueError(f"not of format {FORMAT}, which this version reads")
            book, text = (table[name].combine_chunks().dictionary_encode() for name in ("book", "text"))
            sizes = np.bincount(book.indices.to_numpy())
            if (np.diff(book.indices.to_numpy()) < 0).any():
                raise ValueError("its books are not one after the other")
            starts = np.cumsum(sizes) - sizes
            columns = {name: table[name].to_numpy() / 100 for name in ("precision", "recall", "f1", "null")}
            columns |= {"text": text.indices.to_numpy(), "firings": table["firings"].to_numpy()}
            names = map(str, book.dictionary.to_pylist())
            where = dict(zip(names, zip(starts.tolist(), sizes.tolist(), strict=True), strict=True))
            return cls({**about, "texts": text.dictionary.to_pylist()}, where, columns)
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"cannot read the labels {path}: {error}") from None

    def part(self, names: Sequence[str], fingerprint: str) -> "Labels":
        """Those of some of the books, which are codebooks of their own."""
        kept = np.concatenate([np.arange(b, b + n) for b, n in (self.starts[name] for name in names)])
        sizes = [self.starts[name][1] for name in names]
        used, numbers = np.unique(self.columns["text"][kept], return_inverse=True)
        columns = {name: column[kept] for name, column in self.columns.items()} | {"text": numbers}
        starts = (np.cumsum(sizes) - sizes).tolist()
        sites = {name.partition(".")[0] for name in names}
        about = {
            **self.about,
            "books": fingerprint,
            "random": {site: random for site, random in self.about["random"].items() if site in sites},
            "texts": [self.texts[i] for i in used.tolist()],
        }
        return Labels(about, dict(zip(names, zip(starts, sizes, strict=True), strict=True)), columns)


def labels_of(source: CodeIndex | Codebooks) -> Labels | None:
    """The labels that lie with an index, else with its codebooks; of codebooks, those that lie with them.

    None where there are none, or where they are of other codebooks. Read once a process.

    Raises:
        InputError: a damaged file.
    """
    if isinstance(source, CodeIndex):
        made = source.manifest["books"]
        own = _read(source.folder, made["fingerprint"])
        if own is not None or made.get("folder") is None:
            return own
        try:
            source.codebooks()
        except InputError:  # they are away, or elsewhere than may be read
            return None
        return _read(Path(made["folder"]), made["fingerprint"])
    if source.folder is None or not (source.folder / LABELS).is_file():
        return None
    return _read(source.folder, source.fingerprint)


def keep(index: CodeIndex, labels: Labels) -> list[Path]:
    """Write labels beside their index, and to its codebooks, where these are there and not the package's."""
    paths = [index.folder / LABELS]
    where = index.manifest["books"].get("folder")
    if where is not None and not Path(where).resolve().is_relative_to(PRETRAINED.resolve()):
        try:
            index.codebooks()
            paths.append(Path(where) / LABELS)
        except InputError:  # they are away, or others
            pass
    for path in paths:
        labels.save(path)
    return paths


def _read(folder: Path, books: str) -> Labels | None:
    path = folder / LABELS
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return None
    found = _opened(path, changed)
    return found if found.about["books"] == books else None


@lru_cache(maxsize=8)
def _opened(path: Path, changed: int) -> Labels:  # noqa: ARG001 - a key of the cache
    return Labels.open(path)


def label_index(index: CodeIndex, *, seed: int = 0, stage: Stage = silent) -> Labels:
    """Label every code of an index.

    Raises:
        InputError: a corpus of one document.
    """
    patterns = Patterns(index.corpus, seed=seed)
    rng = np.random.default_rng(seed)
    firsts = {book.site: i for i, book in reversed(list(enumerate(index.books)))}
    found, random = [], {}
    with stage("labelling codes", len(index.books) + len(firsts)) as done:
        for number, book in enumerate(index.books):
            ids = index.ids.book(number).reshape(-1, book.k)[: index.n_tokens]
            found.append(_best(patterns, ids, book.n_codes))
            done(1)
            if firsts[book.site] == number:
                random[book.site] = _best(patterns, rng.permutation(ids), book.n_codes)[0]
                done(1)
    null = _Null(
        *(np.concatenate([getattr(one, name) for one in random.values()]) for name in ("fired", "f1"))
    )
    texts: dict[str, int] = {}
    parts = [_columns(patterns, best, mostly, null, texts) for best, mostly in found]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    begins = index.layout.codes.tolist()
    about = {
        "books": index.manifest["books"]["fingerprint"],
        "text": index.manifest["text"],
        "n_tokens": index.n_tokens,
        "seed": seed,
        "rules": {
            "least": LEAST,
            "fits": FITS,
            "mostly": MOSTLY,
            "lift": LIFT,
            "simpler": SIMPLER,
            "most_values": MOST_VALUES,
        },
        "random": {
            site: [round(float((one.f1[one.fired >= LEAST] >= bound).mean()), 4) for bound in SHARES]
            for site, one in random.items()
        },
        "texts": list(texts),
    }
    starts = {book.name: (begins[i], book.n_codes) for i, book in enumerate(index.books)}
    return Labels(about, starts, columns)


class _Null:
    """Mean F1 of random codes by how often they are on, at every quarter of an octave and between them."""

    def __init__(self, fired: np.ndarray, f1: np.ndarray) -> None:
        octave = np.log2(fired + 1.0)
        _, bins, sizes = np.unique(np.rint(4 * octave), return_inverse=True, return_counts=True)
        self.octave, self.f1 = (np.bincount(bins, values) / sizes for values in (octave, f1))

    def __call__(self, fired: Int[np.ndarray, " code"]) -> Float[np.ndarray, " code"]:
        return np.interp(np.log2(fired + 1.0), self.octave, self.f1)


def _columns(
    patterns: Patterns, best: _Best, mostly: _Best, null: _Null, texts: dict[str, int]
) -> dict[str, np.ndarray]:
    """What is kept of one book's codes; ``texts`` numbers the labels."""
    fired, random = best.fired, null(best.fired)
    held = _bits(mostly.hits / np.maximum(fired, 1), mostly.tokens / max(patterns.sizes[1], 1))
    by_share = (_beyond(best.score, random) < FITS) & (mostly.score > 0)
    fits = np.where(by_share, held > 0, _beyond(best.f1, random) >= FITS)
    chosen = by_share & fits
    hits, tokens = (np.where(chosen, getattr(mostly, n), getattr(best, n)) for n in ("hits", "tokens"))
    words = []
    for code in range(len(fired)):
        one = mostly if chosen[code] else best
        kind = int(one.kind[code])
        if fired[code] < LEAST or kind < 0:
            words.append(RARE)
        elif not fits[code]:
            words.append(MIXED)
        elif kind < len(patterns.booleans):
            words.append(patterns.booleans[kind].text)
        else:
            words.append(patterns.variables[kind - len(patterns.booleans)].show(one.values[code]))
        if chosen[code] and words[-1] != RARE:
            words[-1] = f"mostly {words[-1]}"
    return {
        "text": np.array([texts.setdefault(word, len(texts)) for word in words]),
        "precision": hits / np.maximum(fired, 1),
        "recall": hits / np.maximum(tokens, 1),
        "f1": 2 * hits / np.maximum(tokens + fired, 1),
        "null": random,
        "firings": fired,
    }
