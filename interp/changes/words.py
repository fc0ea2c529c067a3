"""Codes that changed at a word otherwise than the head's codes change elsewhere.

Finetuning moves everything a little: a third of all codes of a late head may become another. But codes can be counted.
How often does base code b become code t? Read off all other words, that table says how many of a word's tokens should
have t by now. A trait shows as codes that stand at its words far more often than the table allows.

    expected(w, t) = Σ over tokens of w of P(b → t),   P(b → t) from all tokens but those of w
    surprise(w)    = Σ over codes t of n log(n / expected) − (n − expected), where n is more than expected

A word counts once a stretch of text, so that stretches are independent; p is the upper tail of a binomial. Words are
ranked by surprise a token. Where a null model is given, finetuned on something else, they are ranked by how far they
exceed its surprise, for the square root of their number.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.stats import binom, false_discovery_control

from interp.bottlenecks.base import NO_CODE
from interp.changes.counts import only_in
from interp.changes.reading import Reading

LEAST_TOKENS, LEAST_WORDS = 5, 10
"""Tokens of a word that must have become a code, and stretches that must hold the word."""
SURPRISING = 5.0  # nats from which on a code adds to a word's surprise


@dataclass(frozen=True)
class Moved:
    """Codes at words, one row each, that are more often there than expected."""

    word: Int[np.ndarray, " pair"]
    row: Int[np.ndarray, " pair"]  # of the code, as in `Counts`
    # n, expected: tokens of the word that have become this code, and how many should have
    n: Int[np.ndarray, " pair"]
    expected: Float[np.ndarray, " pair"]
    # surprise, q: of that; q over all pairs of a code and a word that were looked at
    surprise: Float[np.ndarray, " pair"]
    q: Float[np.ndarray, " pair"]
    surprises: Float[np.ndarray, " word"]  # of every word, the sum
    stretches: Int[np.ndarray, " word"]  # of every word, those that hold it

    def weights(self, null: "Moved | None" = None) -> Float[np.ndarray, " word"]:
        """How much each word tells; 0 for rare ones."""
        size = np.maximum(self.stretches, 1)
        weight = self.surprises / size if null is None else (self.surprises - null.surprises) / np.sqrt(size)
        return np.where(self.stretches >= LEAST_WORDS, np.maximum(weight, 0), 0)


def codes_at_words(
    base: Reading, tuned: Reading, n_codes: dict[str, int], words: Int[np.ndarray, " token"], context: int
) -> Moved:
    """Compare two readings at every word; ``words`` is the word of each token, negative for none."""
    n_words = int(words.max()) + 1
    at, word, stretches = _once(words, context, n_words)
    start, parts = 0, []
    for name, n in n_codes.items():
        of_word, code, count, expected = _at_words(base.ids[name], tuned.ids[name], n, at, word)
        parts.append((of_word, code + start, count, expected))
        start += n
    of_word, row, count, expected = (np.concatenate(column) for column in zip(*parts, strict=True))
    more = count > expected
    surprise = np.where(more, count * np.log(count / expected) - (count - expected), 0.0)
    p = binom.sf(count - 1, stretches[of_word], np.minimum(expected / stretches[of_word], 1))
    q = false_discovery_control(p) if len(p) else p
    kept = surprise > SURPRISING
    surprises = np.bincount(of_word[kept], surprise[kept], n_words).astype(float)
    return Moved(of_word[kept], row[kept], count[kept], expected[kept], surprise[kept], q[kept], surprises, stretches)


def _once(
    words: Int[np.ndarray, " token"], context: int, n_words: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " word"]]:
    """The first token of every word in each stretch, its word, and how many stretches hold each word."""
    at = np.flatnonzero(words >= 0)
    _, first = np.unique(words[at].astype(np.int64) + at // context * n_words, return_index=True)
    at = at[first]
    return at, words[at], np.bincount(words[at], minlength=n_words)


def _at_words(
    before: Shaped[np.ndarray, "token k"],
    after: Shaped[np.ndarray, "token k"],
    n: int,
    at: Int[np.ndarray, " n"],
    word: Int[np.ndarray, " n"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Word, code, tokens and expected tokens of each pair that has enough; b is a token's strongest code."""
    n += 1  # a place for no code
    b = np.where(before[:, 0] == NO_CODE, n - 1, before[:, 0]).astype(np.int64)
    gained = only_in(after, before)
    token, slot = np.nonzero(gained)
    move = b[token] * n + after[token, slot]
    moves, n_moves = np.unique(move, return_counts=True)
    of_code, total = np.bincount(b, minlength=n), max(len(b), 1)
    share = np.bincount(after[token, slot], minlength=n) / total

    counted = np.full(len(b), -1, np.int64)  # the word of a token, where it counts
    counted[at] = word
    at_word = counted[token] >= 0
    triples, n_triples = np.unique(counted[token][at_word] * n * n + move[at_word], return_counts=True)
    pairs, which = np.unique(triples // (n * n) * n + triples % n, return_inverse=True)
    count = np.bincount(which, n_triples, len(pairs)).astype(np.int64)
    enough = count >= LEAST_TOKENS
    pairs, count = pairs[enough], count[enough]

    starts, n_starts = np.unique(word.astype(np.int64) * n + b[at], return_counts=True)
    begin, end = (np.searchsorted(starts // n, pairs // n, side) for side in ("left", "right"))
    size = end - begin
    pair = np.repeat(np.arange(len(pairs)), size)
    start = np.arange(len(pair)) - np.repeat(np.cumsum(size) - size, size) + begin[pair]
    code, became = starts[start] % n, pairs[pair] % n
    of_word = _values_of(triples, n_triples, pairs[pair] // n * n * n + code * n + became)
    elsewhere = _values_of(moves, n_moves, code * n + became) - of_word
    p = (elsewhere + share[became]) / (of_code[code] - n_starts[start] + 1)
    expected = np.bincount(pair, n_starts[start] * p, len(pairs))
    return pairs // n, pairs % n, count, np.maximum(expected, 1e-9)


def _values_of(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of some keys, sorted ones; 0 where there is no such key."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
