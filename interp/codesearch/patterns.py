"""Patterns that may tell where a code is on: sets of tokens of a corpus, worked out once. The family of what a token is
and where it stands; that of what a head looks at is in :mod:`interp.codesearch.look_patterns`:

* one value of a variable, or up to :data:`MOST_VALUES` of them: the token, the word whatever its case, the token
  before, the token after, the token and the one before, the token in code or in prose, its class and the class before;
* a word said shortly before, within :data:`RECENT` tokens;
* a class of words (digits, capitalised, *-ing*, prepositions …) of the token, of the one before, of the one after;
* a place: first of a document, a line or a sentence, how far into the block, inside brackets, quotes, a tag or a word,
  said before, said before after the same token, in code or in prose.

A set of values must be better than one value by :data:`SIMPLER`: it has more to choose from.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from interp.codesearch.corpus import Corpus
from interp.errors import InputError

RECENT = 8
SIMPLER = 0.02
MOST_VALUES = 8
LEAST_COUNT = 5  # occurrences in the first half that a value must have to be looked at
SHOWN = 3  # values of a set that its label names

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
_STOPS = ".", "!", "?", "..."
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Boolean:
    """A pattern that is one set of tokens."""

    text: str
    tokens: Int[np.ndarray, " n"]
    count: tuple[int, int]


@dataclass(frozen=True)
class TokenVariable:
    """A value at every token; each of them, and any few together, are patterns."""

    order: Int[np.ndarray, " n"]  # tokens that have a frequent value, by value; `values` are theirs
    values: Int[np.ndarray, " n"]
    counts: Int[np.ndarray, "half value"]  # [half, value]
    margin: float  # what its patterns must be better by than the plainest ones
    show: Callable[[Sequence[int]], str]  # values in words
    several: bool = True  # whether a token has one value at most, so that a few together can be counted


def halves(corpus: Corpus, seed: int) -> Int[np.ndarray, " token"]:
    """0 or 1 of every token, by document."""
    if len(corpus.documents) < 2:
        raise InputError(f"a corpus of {len(corpus.documents)} document: names need two halves of several")
    of_document = np.random.default_rng(seed).permutation(len(corpus.documents)) % 2
    return np.repeat(of_document, corpus.document_lengths()).astype(np.int64)


@dataclass
class Family:
    """Patterns over one corpus."""

    half: Int[np.ndarray, " token"]  # 0 or 1 of every token, by document; `sizes` are their numbers of tokens
    sizes: tuple[int, ...]
    # of two that are as good the first is better: one token before a class that it makes up
    all: list[TokenVariable | Boolean]

    def boolean(self, text: str, holds: Bool[np.ndarray, " token"]) -> Boolean:
        tokens = np.flatnonzero(holds)
        second = int(self.half[tokens].sum())
        return Boolean(text, tokens, (len(tokens) - second, second))

    def variable(
        self, tokens: np.ndarray, values: np.ndarray, margin: float, show: Callable, *, several: bool = True
    ) -> TokenVariable:
        """Values at tokens in one row; those that are rare, or −1, are left out."""
        n = int(values.max(initial=0)) + 1
        known = values >= 0
        counts = np.bincount(values[known] * 2 + self.half[tokens[known]], minlength=2 * n).reshape(n, 2)
        kept = np.flatnonzero(known & (counts[values, 0] >= LEAST_COUNT))
        kept = kept[np.argsort(values[kept], kind="stable")]
        return TokenVariable(tokens[kept].astype(np.int32), values[kept], counts.T.copy(), margin, show, several)


class Patterns(Family):
    """What every token of a corpus is and where it stands, worked out once. ``tokens``, ``context``: of the corpus.
    ``words``: its vocabulary."""

    def __init__(self, corpus: Corpus, *, seed: int = 0) -> None:
        self.half = halves(corpus, seed)
        self.sizes = tuple(np.bincount(self.half, minlength=2).tolist())
        self.tokens = tokens = np.asarray(corpus.tokens).astype(np.int64)
        self.context, self.words = corpus.context, Vocabulary(corpus)
        self.before, self.after = (_shifted(tokens, corpus.context, by) for by in (1, -1))
        places = list(self._places(corpus))
        kind = np.select([dict(places)[CODE], dict(places)[PROSE]], [1, 2])
        numbers = np.arange(len(tokens))
        self.all: list[TokenVariable | Boolean] = [
            *(self.variable(numbers, *rest) for rest in self._variables(kind)),
            self._recent(),
            *(self.boolean(*named) for named in (*self._classes(), *places)),
        ]

    def _recent(self) -> TokenVariable:
        """Words that say something, each once a token, from two to :data:`RECENT` tokens before it."""
        words = self.words
        tells = words.where(lambda text: text.strip().isalpha() and len(text.strip()) > 2) & ~words.closed()
        keys = [np.empty(0, dtype=np.int64)]
        for lag in range(2, min(RECENT, self.context - 1) + 1):
            earlier = _shifted(self.tokens, self.context, lag)
            at = np.flatnonzero((earlier >= 0) & tells[earlier])
            keys.append(at * len(words.words) + words.word[earlier[at]])
        at, value = np.divmod(np.unique(np.concatenate(keys)), len(words.words))
        return self.variable(at, value, SIMPLER / 2, lambda v: f"soon after “{words.words[v[0]]}”", several=False)

    def _variables(self, kind: np.ndarray) -> Iterator[tuple[np.ndarray, float, Callable]]:
        tokens, before, after, words = self.tokens, self.before, self.after, self.words
        size = len(words.texts)
        word_class, names = words.partition()

        def token(values: Sequence[int]) -> str:
            return quoted([words.texts[value] for value in values])

        def pair(values: Sequence[int]) -> str:
            texts = (f"{words.texts[v // size]}{words.texts[v % size]}" for v in map(pairs.__getitem__, values))
            return f"end of {quoted(list(texts))}"

        yield tokens, 0.0, token
        word = np.where(words.blank[tokens], -1, words.word[tokens])
        yield word, SIMPLER / 2, lambda v: f"{quoted([words.words[i] for i in v])} in any case"
        yield before, 0.0, lambda values: f"after {token(values)}"
        yield after, 0.0, lambda values: f"before {token(values)}"
        pairs, numbers = np.unique(np.where(before < 0, -1, before * size + tokens), return_inverse=True)
        yield np.where(before < 0, -1, numbers), SIMPLER / 2, pair

        def kinds(values: Sequence[int]) -> str:
            """Those in code, then those in prose."""
            by_kind = {name: [v // 3 for v in values if v % 3 == i] for i, name in ((1, "code"), (2, "prose"))}
            return "; ".join(f"{token(ids)} in {name}" for name, ids in by_kind.items() if ids)

        def classes(values: Sequence[int]) -> str:
            return listed([f"{names[v % len(names)]} after {names[v // len(names)]}" for v in values], "; ", 2)

        yield np.where(kind > 0, 3 * tokens + kind, -1), SIMPLER / 2, kinds
        in_row = word_class[before] * len(names) + word_class[tokens]
        yield np.where(before < 0, -1, in_row), SIMPLER / 2, classes

    def _classes(self) -> Iterator[tuple[str, Bool[np.ndarray, " token"]]]:
        for name, members in self.words.classes():
            yield name, members[self.tokens]
            yield f"after {name}", (self.before >= 0) & members[self.before]
            yield f"before {name}", (self.after >= 0) & members[self.after]

    def _places(self, corpus: Corpus) -> Iterator[tuple[str, Bool[np.ndarray, " token"]]]:
        """Where in the document and in what: as far as the model sees, which is from the beginning of the block."""
        tokens, before, words = self.tokens, self.before, self.words
        n, context = len(tokens), self.context
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
        stop = (before >= 0) & words.listed(_STOPS)[before]
        yield "first of a line or a sentence", line | stop | (of_document == 0)
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
        plain, curly = words.count('"')[tokens], (words.count("“") - words.count("”"))[tokens]
        yield "inside quotes", ((within(plain) - plain) % 2 == 1) | (within(curly) > 0)
        # 1 where the last of the two is the opening one, −1 where it is the closing one
        tag = np.array([np.sign(text.rfind("<") - text.rfind(">")) for text in words.texts])[tokens]
        marked = np.maximum.accumulate(np.where(tag != 0, np.arange(n), -1))
        yield "inside a tag", (marked >= first[segment]) & (tag[marked] > 0)
        letters = words.where(str.isalpha)
        ends = words.where(lambda text: text[-1:].isalpha())
        yield "later piece of a word", (before >= 0) & letters[tokens] & ends[before]
        repeated = _seen(segment, tokens)
        yield "token said before", repeated
        yield "token not said before", ~repeated
        yield "after a token said before", (before >= 0) & np.roll(repeated, 1) & (since > 0)
        pair = before * (tokens.max() + 1) + tokens
        yield "said before after the same token", (before >= 0) & _seen(segment, pair)
        capital = words.where(lambda text: text.strip().istitle())[tokens]
        yield "capitalised word said before", repeated & capital
        yield "capitalised word not said before", ~repeated & capital
        symbols = words.count("{}();=_<>[]\\/")[tokens] > 0
        share = np.bincount(segment, symbols) / np.bincount(segment)
        yield CODE, share[segment] >= 0.15
        yield PROSE, share[segment] < 0.05


class Vocabulary:
    """The tokens of a vocabulary as texts, and what kind of word each is."""

    def __init__(self, corpus: Corpus) -> None:
        self.special = np.asarray(corpus.special)
        self.texts = [corpus.token_text(i) for i in range(len(self.special))]
        lower = [text.strip().lower() for text in self.texts]
        self.words = list(dict.fromkeys(lower))
        number = {word: i for i, word in enumerate(self.words)}
        self.word = np.array([number[word] for word in lower])
        self.blank = np.array([not word for word in lower])

    def where(self, rule: Callable[[str], object]) -> Bool[np.ndarray, " d_vocab"]:
        """Tokens whose text, as it stands, is as a rule says; special ones are none."""
        return np.array([bool(rule(text)) for text in self.texts]) & ~self.special

    def count(self, characters: str) -> Int[np.ndarray, " d_vocab"]:
        """How many of some characters each token has."""
        counts = np.array([sum(map(text.count, characters)) for text in self.texts])
        return np.where(self.special, 0, counts)

    def listed(self, words: Iterable[str]) -> Bool[np.ndarray, " d_vocab"]:
        """Tokens that are one of some words, whatever their case."""
        wanted = frozenset(words)
        return np.array([word in wanted for word in self.words])[self.word] & ~self.special

    def closed(self) -> Bool[np.ndarray, " d_vocab"]:
        """Words of any of the lists."""
        return self.listed(" ".join(_CLOSED.values()).split())

    def partition(self) -> tuple[Int[np.ndarray, " d_vocab"], list[str]]:
        """One class of every token, the first that it is in; the last one is of the rest."""
        known, names = dict(self.classes()), [*_CLOSED, *_APART]
        number = np.select([known[name] for name in names], list(range(len(names))), len(names))
        return number, [*names, "other tokens"]

    def classes(self) -> Iterator[tuple[str, Bool[np.ndarray, " d_vocab"]]]:
        """Word classes by simple rules."""
        for name, listed in _CLOSED.items():
            yield name, self.listed(listed.split())
        yield "function words", self.closed()
        letters = self.where(lambda text: text.strip().isalpha())
        spaced = self.where(lambda text: text[:1] == " ")
        yield "digits", self.where(lambda text: text.strip().isdecimal())
        yield "punctuation", self.where(lambda text: text.strip() and not any(map(str.isalnum, text)))
        yield "punctuation that ends a sentence", self.listed(_STOPS)
        yield "commas, semicolons and colons", self.listed(",;:")
        yield "opening brackets", self.where(lambda text: text.strip()[-1:] in ("(", "[", "{"))
        yield "closing brackets", self.where(lambda text: text.strip()[:1] in (")", "]", "}"))
        yield "quotation marks", self.where(lambda text: text.strip() and not text.strip().strip("\"'“”‘’`"))
        yield "operators", self.where(lambda text: text.strip() and not text.strip().strip("=+-*/<>&|!%^~"))
        yield "white space", self.where(lambda text: text.isspace())
        yield "line breaks", self.where(lambda text: "\n" in text)
        yield "capitalised words", letters & self.where(lambda text: text.strip().istitle())
        single = letters & self.where(lambda text: len(text.strip()) == 1)
        yield "words in capitals", letters & ~single & self.where(lambda text: text.strip().isupper())
        yield "single letters", single
        yield "lower-case words", letters & spaced & self.where(lambda text: text.strip().islower())
        yield "pieces without a space in front", letters & ~spaced
        yield "long words", letters & self.where(lambda text: len(text.strip()) >= 8)
        foreign = self.where(lambda text: not text.isascii() and any(map(str.isalpha, text)))
        yield "tokens with letters outside ASCII", foreign
        for ending in ("ing", "ed", "ly", "s", "tion", "er", "al", "able", "ment", "ity"):
            longer = re.compile(rf"\s*\S{{2,}}{ending}\s*")
            yield f"words in -{ending}", letters & self.where(longer.fullmatch)


def listed(texts: Sequence[str], separator: str = " ", most: int = SHOWN) -> str:
    """The first ones, and how many more there are."""
    more = f" +{len(texts) - most}" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def quoted(texts: Sequence[str]) -> str:
    return listed([f"“{text}”" for text in texts])


def _seen(segment: np.ndarray, values: np.ndarray) -> Bool[np.ndarray, " token"]:
    """Where the segment had the same value before."""
    order = np.lexsort((values, segment))
    again = np.zeros(len(values), bool)
    same = (np.diff(values[order]) == 0) & (np.diff(segment[order]) == 0)
    again[order[1:][same]] = True
    return again


def _shifted(tokens: np.ndarray, context: int, by: int) -> Int[np.ndarray, " token"]:
    """The token so many places before, −1 where the block has none."""
    moved = np.roll(tokens.reshape(-1, context), by, 1)
    moved[:, slice(by) if by > 0 else slice(by, None)] = -1
    return moved.reshape(-1)
