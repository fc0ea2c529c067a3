"""What is told of two readings: contexts where the models disagree most, and codes that only one of them has."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.bottlenecks.base import NO_CODE
from interp.changes.counts import ALPHA, Counts, only_in
from interp.changes.reading import Reading
from interp.codesearch.corpus import Corpus
from interp.codesearch.labels import MIXED, RARE, Labels
from interp.codesearch.patterns import Vocabulary

SHOWN_TOKENS, EXAMPLES = 5, 3
"""Tokens that are named of a code, and examples of it."""
BEFORE, AFTER = 12, 6
"""Tokens around the one that an example is about."""
ALIKE = 0.5
"""Of two codes that share this part of their tokens, the second is counted with the first."""


@dataclass(frozen=True)
class Context:
    """A token of the text, and what either model says next.

    Attributes:
        text: the tokens before it and itself; ``after`` those that follow.
        position: of the token in the text that was read.
        base, tuned: what the models like best as the next token.
        alike: other tokens of the text with the same token and the same answers.
    """

    text: str
    after: str
    token: str
    kl: float
    position: int
    base: str
    tuned: str
    alike: int = 0


@dataclass(frozen=True)
class Example:
    before: str
    token: str
    after: str


@dataclass(frozen=True)
class ChangedCode:
    """A code that one model has where the other has not.

    Attributes:
        name: of its label; empty where it has none.
        writes: what its label says that it writes.
        base, tuned: tokens that have it in either model.
        gained, lost: tokens that have it in one of them only.
        instead: the code that most of those tokens have in the other model.
        tokens: those at which only one model has it, by how many more they are than among all changes of the head.
        alike: codes behind it in the list that changed at the same tokens, counted with it.
        examples: of tokens that only one model has it at.
    """

    site: str
    code: int
    name: str
    writes: str
    base: int
    tuned: int
    gained: int
    lost: int
    q: float
    instead: int | None
    tokens: list[str]
    alike: int
    examples: list[Example] = field(default_factory=list)


class Listing:
    """Two readings of one text, and names."""

    def __init__(
        self, corpus: Corpus, base: Reading, tuned: Reading, counts: Counts, labels: Sequence[Labels] = ()
    ) -> None:
        self.corpus, self.base, self.tuned, self.counts = corpus, base, tuned, counts
        self.labels = {book: part for part in labels for book in part.starts}
        self.tokens = np.asarray(corpus.tokens).astype(np.int64)

    def _pieces(self, first: int, end: int) -> str:
        return "".join(self.corpus.pieces(self.tokens[max(first, 0) : end]))

    def _around(self, at: int) -> Example:
        begin = at - at % self.corpus.context
        end = min(begin + self.corpus.context, at + 1 + AFTER)
        first = max(begin, at - BEFORE)
        return Example(self._pieces(first, at), self.corpus.token_text(int(self.tokens[at])), self._pieces(at + 1, end))

    def contexts(self, n: int) -> list[Context]:
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
        found = []
        for at in chosen:
            around = self._around(at)
            says = (self.corpus.token_text(int(reading.says[at])) for reading in (self.base, self.tuned))
            count = alike[tuple(keys[at].tolist())] - 1
            kl = float(self.tuned.kl[at])
            found.append(Context(around.before + around.token, around.after, around.token, kl, at, *says, count))
        return found

    def classes(self) -> list[tuple[str, float, float]]:
        """Classes of tokens with their share of the text and of the whole KL, by falling share of the KL."""
        number, names = Vocabulary(self.corpus).partition()
        of_token = number[self.tokens]
        size = np.bincount(of_token, minlength=len(names)) / len(of_token)
        share = np.bincount(of_token, self.tuned.kl, len(names)) / max(float(self.tuned.kl.sum()), 1e-12)
        return [(names[i], float(size[i]), float(share[i])) for i in np.argsort(-share) if share[i] > 0]

    def _changes(self, row: int) -> tuple[Int[np.ndarray, " n"], bool]:
        """Tokens where only one model has a code, and whether it is the tuned one: that with more of them."""
        book, code = self.counts.book_of(row)
        gains = bool(self.counts.gained[row] >= self.counts.lost[row])
        models = (self.tuned, self.base) if gains else (self.base, self.tuned)
        first, second = (model.ids[book] for model in models)
        return np.flatnonzero((only_in(first, second) & (first == code)).any(1)), gains

    def codes(self, n: int) -> list[ChangedCode]:
        """Codes that changed, best first; those that changed where an earlier one did are counted with that."""
        listed, places, alike = list[int](), list[set[int]](), Counter[int]()
        for row in ranked(self.counts).tolist():
            at = set(self._changes(row)[0].tolist())
            same = next((i for i, other in enumerate(places) if _same(at, other)), None)
            if same is not None:
                alike[same] += 1
            elif len(listed) < n:
                listed.append(row)
                places.append(at)
            else:
                break
        return [self._code(row, alike[i]) for i, row in enumerate(listed)]

    def _code(self, row: int, alike: int) -> ChangedCode:
        book, code = self.counts.book_of(row)
        at, gains = self._changes(row)
        other = (self.base if gains else self.tuned).ids[book][at].ravel()
        other = other[other != NO_CODE]
        labels = self.labels.get(book)
        label = None if labels is None else labels.of(book, code)
        named = labels is not None and labels.both_texts(book, code) not in (RARE, MIXED)
        spread = at[np.linspace(0, len(at) - 1, min(EXAMPLES, len(at))).astype(int)]
        return ChangedCode(
            book,
            code,
            labels.both_texts(book, code) if named else "",
            "" if label is None else label.writes,
            *(int(column[row]) for column in (self.counts.base, self.counts.tuned)),
            *(int(column[row]) for column in (self.counts.gained, self.counts.lost)),
            float(self.counts.q[row]),
            int(np.bincount(other).argmax()) if len(other) else None,
            self.telling(at, self._changed_at(book)),
            alike,
            [self._around(int(token)) for token in spread],
        )

    def _changed_at(self, book: str) -> Bool[np.ndarray, " token"]:
        return only_in(self.tuned.ids[book], self.base.ids[book]).any(1)

    def telling(self, at: Int[np.ndarray, " n"], among: Bool[np.ndarray, " token"]) -> list[str]:
        """Words that are commoner at some tokens than among others, by n · log of how much."""
        here, there = Counter(self.tokens[at].tolist()), Counter(self.tokens[among].tolist())
        total = sum(there.values())
        weight = {
            token: n * np.log((n / len(at)) / ((there[token] + 1) / (total + 1))) for token, n in here.items()
        }
        words = dict[str, None]()
        for token in sorted(weight, key=lambda token: -weight[token]):
            words.setdefault(self.corpus.token_text(token).strip())
        return [word for word in words if word][:SHOWN_TOKENS]


def ranked(counts: Counts) -> Int[np.ndarray, " n"]:
    """Rows of codes that changed, by :func:`weight`."""
    found = weight(counts)
    order = np.argsort(-found, kind="stable")
    return order[found[order] > 0]


def weight(counts: Counts) -> Float[np.ndarray, " code"]:
    """How much a code tells: 0 unless its q is at most :data:`ALPHA`."""
    return np.where(counts.q <= ALPHA, -np.log10(np.maximum(counts.p, 1e-300)), 0.0)


def _same(a: set[int], b: set[int]) -> bool:
    return len(a & b) >= ALIKE * min(len(a), len(b))


