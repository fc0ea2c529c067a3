"""Patterns of what a head looks at from each token, which may tell where its codes are on:

* the token that it looks at most: alone, in any case, with its share of attention · |value|, with the token before it,
  with the one that it looks at next, or what stands before it;
* its class, and how it stands to the token that looks, see :data:`RELATIONS`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from interp.codesearch.patterns import SIMPLER, Boolean, Family, Patterns, TokenVariable, listed, quoted

RELATIONS = (
    "the first token",
    "itself",
    "the token before",
    "the same token earlier",
    "what followed the same token",
    "the last punctuation mark",
    "one of the four before",
    "one further back",
)
"""How a token that is looked at stands to the one that looks; the first that holds."""
BOUNDS = (0.35, 0.6, 0.85)
SHARE_NAMES = "less than 35 %", "35 to 60 %", "60 to 85 %", "85 % or more"
"""Shares of attention · |value| that names tell apart."""


class LookPatterns:
    """What all heads need of a corpus, worked out once. ``standing``: of the same corpus; its halves are those of every
    family."""

    def __init__(self, standing: Patterns) -> None:
        self.standing, words, tokens = standing, standing.words, standing.tokens
        self.classes, self.class_names = words.partition()
        self._classes = list(words.classes())
        mark = words.where(lambda text: text.strip() and not any(map(str.isalnum, text)))
        mark |= words.where(lambda text: "\n" in text)
        marks = np.where(mark[tokens], np.arange(len(tokens)), -1)
        self._last_mark = np.roll(np.maximum.accumulate(marks), 1)

    def relations(self, place: Int[np.ndarray, " token"]) -> Int[np.ndarray, " token"]:
        """Of a head that looks at these places, the number among :data:`RELATIONS`; −1 where it looks at none."""
        tokens, context = self.standing.tokens, self.standing.context
        at = np.maximum(place, 0)
        back = np.arange(len(tokens)) - at
        holds = [
            (at % context == 0) & (back > 0),
            back == 0,
            back == 1,
            tokens[at] == tokens,
            (at % context > 0) & (tokens[at - 1] == tokens),
            at == self._last_mark,
            back <= 4,
        ]
        return np.where(place >= 0, np.select(holds, list(range(len(holds))), len(holds)), -1)

    def family(self, places: Int[np.ndarray, "token place"], shares: Float[np.ndarray, "token place"]) -> Family:
        """Of a head that looks from each token at two places, −1 for none, with these shares."""
        standing, words, place = self.standing, self.standing.words, places[:, 0]
        tokens, looks, at = standing.tokens, place >= 0, np.maximum(place, 0)
        text, n_vocab, n_classes = words.texts, len(words.texts), len(self.class_names)
        token = np.where(looks, tokens[at], -1)
        word = np.where(looks & ~words.blank[token], words.word[token], -1)
        before = np.where(looks & (at % standing.context > 0), tokens[at - 1], -1)
        second = np.where(places[:, 1] >= 0, tokens[np.maximum(places[:, 1], 0)], -1)
        relation = self.relations(place)
        by_class = np.where(looks, relation * n_classes + self.classes[token], -1)
        by_token = np.where(looks, relation * n_vocab + token, -1)
        by_share = np.where(looks, token * len(SHARE_NAMES) + np.digitize(shares[:, 0], BOUNDS), -1)
        # numbered anew: the first is −1, for none
        ends, end = np.unique(np.where(before >= 0, before * n_vocab + token, -1), return_inverse=True)
        pairs, pair = np.unique(np.where(second >= 0, token * n_vocab + second, -1), return_inverse=True)

        def shown(name: Callable[[int], str]) -> Callable[[Sequence[int]], str]:
            """Values in words, few of them: their names are long."""
            return lambda values: "looks at " + listed([name(value) for value in values], "; ", 2)

        def tokens_of(values: Sequence[int]) -> str:
            return quoted([text[value] for value in values])

        def ends_of(values: Sequence[int]) -> str:
            tokens_in_row = (divmod(int(ends[value]), n_vocab) for value in values)
            return "looks at the end of " + quoted([text[i] + text[j] for i, j in tokens_in_row])

        def pair_of(value: int) -> str:
            return " and ".join(f"“{text[token]}”" for token in divmod(int(pairs[value]), n_vocab))

        half, n_shares = SIMPLER / 2, len(SHARE_NAMES)
        variables: list[tuple[np.ndarray, float, Callable]] = [
            (token, 0.0, lambda values: f"looks at {tokens_of(values)}"),
            (word, half, lambda v: f"looks at {quoted([words.words[i] for i in v])} in any case"),
            (before, 0.0, lambda values: f"looks behind {tokens_of(values)}"),
            (relation, 0.0, lambda values: "looks at " + " or ".join(RELATIONS[value] for value in values)),
            (by_class, half, shown(lambda v: f"{self.class_names[v % n_classes]}, {RELATIONS[v // n_classes]}")),
            (by_token, half, shown(lambda v: f"“{text[v % n_vocab]}”, {RELATIONS[v // n_vocab]}")),
            (by_share, half, shown(lambda v: f"“{text[v // n_shares]}” by {SHARE_NAMES[v % n_shares]}")),
            (np.where(before >= 0, end, -1), half, ends_of),
            (np.where(second >= 0, pair, -1), half, shown(pair_of)),
        ]
        numbers, first = np.arange(len(tokens)), f"“{text[tokens[0]]}”"

        def first_named(show: Callable) -> Callable:
            """What every block begins with is called by its place: nobody knows such tokens."""
            return lambda values: show(values).replace(first, "the first token")

        patterns: list[TokenVariable | Boolean] = [
            standing.variable(numbers, values, margin, first_named(show)) for values, margin, show in variables
        ]
        patterns += [standing.boolean(f"looks at {name}", looks & members[token]) for name, members in self._classes]
        return Family(standing.half, standing.sizes, patterns)

    def measure(
        self, places: Int[np.ndarray, "token place"], shares: Float[np.ndarray, "token place"]
    ) -> dict[str, list[float]]:
        """How often a head looks at each of :data:`RELATIONS`, on the second half: ``tokens``, at how many tokens most
        of all; ``weight``, with how much of attention · |value|, as far as the places that are kept tell it."""
        n, held = len(RELATIONS), self.standing.half == 1
        looks = held & (places[:, 0] >= 0)
        total, weight = max(int(looks.sum()), 1), np.zeros(n)
        relations = [self.relations(place) for place in places.T]
        for relation, share in zip(relations, shares.T, strict=True):
            known = held & (relation >= 0)
            weight += np.bincount(relation[known], share[known], n)
        tokens = np.bincount(relations[0][looks], minlength=n)
        return {"tokens": (tokens / total).round(3).tolist(), "weight": (weight / total).round(3).tolist()}
