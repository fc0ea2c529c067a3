"""What is told of two readings: contexts where the models disagree most, and codes that changed at a word."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from interp.bottlenecks.base import NO_CODE
from interp.changes.counts import ALPHA, count_codes, only_in
from interp.changes.reading import Reading
from interp.changes.words import LEAST_WORDS, Moved, codes_at_words
from interp.codesearch.corpus import Corpus
from interp.codesearch.labels import MIXED, RARE, Labels
from interp.codesearch.patterns import Vocabulary

EXAMPLES, SAID = 3, 10  # of a code, and tokens that are said behind a word
BEFORE, AFTER = 12, 6  # tokens around the one that an example is about


@dataclass(frozen=True)
class ChangedContext:
    """A token of the text, and what either model says next."""

    text: str  # the tokens before it and itself; `after` those that follow
    after: str
    token: str
    kl: float
    position: int  # of the token in the text that was read
    # base, tuned: what the models like best as the next token
    base: str
    tuned: str
    alike: int = 0  # other tokens of the text with the same token and the same answers


@dataclass(frozen=True)
class CodeExample:
    before: str
    token: str
    after: str


@dataclass(frozen=True)
class ChangedCode:
    """A code that the tuned model has at a word far more often than its head's changes elsewhere would bring there."""

    site: str
    code: int
    name: str  # of its label; empty where it has none
    writes: str  # what its label says that it writes
    # base, tuned: tokens of the whole text that have it in either model
    base: int
    tuned: int
    # in lower case; `of_word` stretches of the text hold it, in `at_word` it has become this code, `expected` of them
    # by how the head's codes moved at other words, and `null` in the null model
    word: str
    at_word: int
    of_word: int
    expected: float
    surprise: float
    q: float  # of that, over all codes and words; `surprise` in nats
    instead: int | None  # the code that most of those tokens have in the base
    alike: int  # other codes that changed at this word
    examples: list[CodeExample] = field(default_factory=list)  # tokens that have become this code


@dataclass(frozen=True)
class ChangedWord:
    """A word behind which the next token changed: the mean KL there, and in how many stretches it stands."""

    word: str
    kl: float
    stretches: int
    # what the tuned model likes best behind it where the base likes something else, commonest first
    says: list[str]


class Listing:
    """Two readings of one text, and names."""

    def __init__(
        self, corpus: Corpus, base: Reading, tuned: Reading, n_codes: dict[str, int], labels: Sequence[Labels] = ()
    ) -> None:
        self.corpus, self.base, self.tuned, self.n_codes = corpus, base, tuned, n_codes
        self.labels = {book: part for part in labels for book in part.starts}
        self.tokens = np.asarray(corpus.tokens).astype(np.int64)
        self.vocabulary = Vocabulary(corpus)
        unseen = self.vocabulary.blank | self.vocabulary.special
        self.word = np.where(unseen[self.tokens], -1, self.vocabulary.word[self.tokens])
        self.counts = count_codes(base, tuned, n_codes, corpus.context)
        self.moved = self.compared(tuned)

    def compared(self, other: Reading) -> Moved:
        return codes_at_words(self.base, other, self.n_codes, self.word, self.corpus.context)

    def _pieces(self, first: int, end: int) -> str:
        return "".join(self.corpus.pieces(self.tokens[first:end]))

    def _around(self, at: int) -> CodeExample:
        begin = at - at % self.corpus.context
        end = min(begin + self.corpus.context, at + 1 + AFTER)
        before = self._pieces(max(begin, at - BEFORE), at)
        return CodeExample(before, self.corpus.token_text(int(self.tokens[at])), self._pieces(at + 1, end))

    def contexts(self, n: int) -> list[ChangedContext]:
        """Where the tuned model's next token is furthest from the base's; of the same token and answers the worst."""
        keys = np.stack([self.tokens, self.base.says, self.tuned.says], 1)
        order, chosen, alike = np.argsort(-self.tuned.kl, kind="stable"), list[int](), Counter[tuple]()
        for at in order.tolist():
            key = tuple(keys[at].tolist())
            if key not in alike and len(chosen) < n:
                chosen.append(at)
            alike[key] += 1
            if alike.total() >= len(order) // 10:  # of the rest of the text models hardly differ
                break
        contexts = []
        for at in chosen:
            around, key = self._around(at), tuple(keys[at].tolist())
            base, tuned = map(self.corpus.token_text, key[1:])
            text, kl = around.before + around.token, float(self.tuned.kl[at])
            contexts.append(ChangedContext(text, around.after, around.token, kl, at, base, tuned, alike[key] - 1))
        return contexts

    def classes(self) -> list[tuple[str, float, float]]:
        """Classes of tokens with their share of the text and of the whole KL, by falling share of the KL."""
        number, names = self.vocabulary.partition()
        of_token = number[self.tokens]
        size = np.bincount(of_token, minlength=len(names)) / len(of_token)
        share = np.bincount(of_token, self.tuned.kl, len(names)) / max(float(self.tuned.kl.sum()), 1e-12)
        return [(names[i], float(size[i]), float(share[i])) for i in np.argsort(-share) if share[i] > 0]

    def words(self, n: int, null: Reading | None = None) -> list[ChangedWord]:
        """Words by their KL, or by how far it exceeds that of a null model, for the square root of their number."""
        is_word, words, stretches = self.word >= 0, self.vocabulary.words, self.moved.stretches
        kl = np.bincount(self.word[is_word], self.tuned.kl[is_word], len(stretches))
        size = np.maximum(np.bincount(self.word[is_word], minlength=len(kl)), 1)
        mean = weight = kl / size
        if null is not None:
            weight = (kl - np.bincount(self.word[is_word], null.kl[is_word], len(kl))) / np.sqrt(size)
        weight = np.where(stretches >= LEAST_WORDS, weight, 0)
        order = [i for i in np.argsort(-weight, kind="stable")[:n].tolist() if weight[i] > 0]
        changed, changed_words = self.tuned.says != self.base.says, list[ChangedWord]()
        for i in order:
            says = Counter(self.tuned.says[(self.word == i) & changed].tolist()).most_common(SAID)
            texts = [self.corpus.token_text(token) for token, _ in says]
            changed_words.append(ChangedWord(words[i], float(mean[i]), int(stretches[i]), texts))
        return changed_words

    def codes(self, n: int, null: Moved | None = None) -> list[ChangedCode]:
        """The most surprising code of each word, words by falling weight."""
        weight, listed = self.moved.weights(null), list[ChangedCode]()
        for word in np.argsort(-weight, kind="stable").tolist():
            rows = np.flatnonzero((self.moved.word == word) & (self.moved.q <= ALPHA))
            if weight[word] <= 0 or len(listed) == n:
                break
            if len(rows):
                listed.append(self._code(int(rows[self.moved.surprise[rows].argmax()]), len(rows) - 1))
        return listed

    def behind(self, n_words: int, most: int, sites: Collection[str], null: Moved | None = None) -> list[ChangedCode]:
        """Codes of some sites that changed at the first words, the most surprising first."""
        weight = self.moved.weights(null)
        first = np.argsort(-weight, kind="stable")[:n_words]
        first = first[weight[first] > 0]
        begins = np.array([*self.counts.starts.values(), len(self.counts.q)])
        wanted = [name in sites for name in self.counts.starts]
        at_site = np.repeat(wanted, np.diff(begins))[self.moved.row]
        pairs = np.flatnonzero(np.isin(self.moved.word, first) & (self.moved.q <= ALPHA) & at_site)
        pairs = pairs[np.argsort(-self.moved.surprise[pairs], kind="stable")][:most]
        return [self._code(int(pair), 0) for pair in pairs]

    def _code(self, pair: int, alike: int) -> ChangedCode:
        moved, row = self.moved, int(self.moved.row[pair])
        book, code = self.counts.book_of(row)
        before, after = self.base.ids[book], self.tuned.ids[book]
        gained = (only_in(after, before) & (after == code)).any(1)
        at = np.flatnonzero(gained & (self.word == moved.word[pair]))
        instead = before[at][before[at] != NO_CODE]
        labels = self.labels.get(book)
        label = None if labels is None else labels.of(book, code)
        name = "" if labels is None else labels.both_texts(book, code)
        spread = at[np.linspace(0, len(at) - 1, min(EXAMPLES, len(at))).astype(int)]
        return ChangedCode(
            site=book,
            code=code,
            name="" if name in (RARE, MIXED) else name,
            writes="" if label is None else label.writes,
            base=int(self.counts.base[row]),
            tuned=int(self.counts.tuned[row]),
            word=self.vocabulary.words[int(moved.word[pair])],
            at_word=int(moved.n[pair]),
            of_word=int(moved.stretches[moved.word[pair]]),
            expected=float(moved.expected[pair]),
            surprise=float(moved.surprise[pair]),
            q=float(moved.q[pair]),
            instead=int(np.bincount(instead).argmax()) if len(instead) else None,
            alike=alike,
            examples=[self._around(int(token)) for token in spread],
        )
