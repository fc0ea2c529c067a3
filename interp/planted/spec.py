"""What the planted models have in common: subspaces, ways of attending, and decoy heads."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from transformer_lens.model_bridge import TransformerBridge

from interp.planted.tasks import NOUNS, VOCABULARY
from interp.planted.weights import Head, Match, Move, Rows, Subspaces, build_model

D_MODEL, D_HEAD, N_HEADS, N_CTX = 256, 64, 6, 32
LOGIT_SCALE = 10.0
"""Logit of a word that is written to the output with weight 1, within 20 %."""
DECOY_LEAK = 5e-4
"""What a decoy writes to the output, against the 2 that it writes where nothing reads."""


class Blueprint:
    """The subspaces that all planted models share, and the heads written so far."""

    def __init__(self, items: tuple[str, ...], n_layers: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.n_layers = n_layers
        self.heads: dict[tuple[int, int], Head] = {}
        self.subspaces = Subspaces(D_MODEL, self.generator)
        self.tokens = self.subspaces.take(len(VOCABULARY))
        self.places = self.subspaces.take(N_CTX)
        self.one = self.subspaces.take(1)
        """A direction that every position carries, for scores that depend on the key alone."""
        self.junk = self.subspaces.take(64)
        """Where decoys write; no head of a circuit and no logit reads it."""
        self.bos = self.words("<bos>")
        self.items = self.words(*items)
        """The words that the circuit moves: names or nouns."""
        self.output = self.subspaces.take(len(items))
        self.unembedding = torch.zeros(len(VOCABULARY), D_MODEL)
        # not all words alike, so that the metric varies from prompt to prompt
        scales = LOGIT_SCALE * (0.8 + 0.4 * torch.rand(len(items), 1, generator=self.generator))
        self.unembedding[[VOCABULARY.index(word) for word in items]] = scales * self.output

    def words(self, *words: str) -> Rows:
        return self.tokens[[VOCABULARY.index(word) for word in words]]

    def role(self) -> Rows:
        """A fresh subspace with one direction per item."""
        return self.subspaces.take(len(self.items))

    def any_of(self, features: Rows, weight: float) -> Match:
        """Attend to tokens that carry any of these features."""
        return Match(self.one, features.sum(0, keepdim=True), weight)

    def resting(self, weight: float) -> Match:
        """Attend to BOS, which carries nothing to move, unless something scores higher than ``weight``."""
        return Match(self.one, self.bos, weight)

    def back(self, steps: int) -> Match:
        """Attend to the token so many places before."""
        return Match(self.places[steps:], self.places[: N_CTX - steps], 20.0)

    def earlier_same(self) -> tuple[Match, ...]:
        """Attend to an earlier occurrence of the same item, else to BOS."""
        itself = Match(-self.places, self.places, 20.0)
        return Match(self.items, self.items, 9.0), itself, self.resting(4.5)

    def to_junk(self, features: Rows) -> tuple[Move, ...]:
        """Write features along random directions of the junk subspace, and next to nothing to the output."""
        junk = self._random(len(features), self.junk) * 2
        return (Move(features, junk + self._random(len(features), self.output) * DECOY_LEAK),)

    def bystander(self, deviation: float) -> Head:
        """Attend to names, some more than others, and write a random mixture of names for each to the output. Its
        effect deviates over prompts by about ``deviation`` of what a mover of weight 1 writes."""
        size = len(self.items)
        mixture = torch.randn(size, size, generator=self.generator)
        # no name speaks for itself, nor all names for all others: so the mean effect over prompts is zero
        mixture.fill_diagonal_(0)
        mixture -= mixture.sum() / (size * (size - 1)) * (1 - torch.eye(size))
        liked = torch.rand(size, 1, generator=self.generator) * 2 + 11
        move = Move(self.items, deviation * mixture @ self.output)
        return Head((self.any_of(liked * self.items, 1.0),), (move,))

    def fill_with_decoys(self) -> None:
        """Write a decoy, the kinds in turn, into every head that is still free."""
        kinds: tuple[Callable[[], Head], ...] = (
            lambda: Head(self.earlier_same(), self.to_junk(self.items)),
            lambda: Head((self.back(1),), self.to_junk(self.items)),
            self._noise,
            lambda: Head((self.any_of(self.items, 8.0),), self.to_junk(self.items)),
            lambda: Head((self.back(3),), self.to_junk(self.items)),
            lambda: Head((self.any_of(self.words(*NOUNS), 8.0),), self.to_junk(self.words(*NOUNS))),
            lambda: Head((self.back(0),), self.to_junk(self.places)),
        )
        free = [site for site in product(range(self.n_layers), range(N_HEADS)) if site not in self.heads]
        for i, site in enumerate(free):
            self.heads[site] = kinds[i % len(kinds)]()

    def _noise(self) -> Head:
        """Attend by random features of token, place and junk, and move random mixtures of tokens and junk."""
        everything = torch.cat([self.tokens, self.places, self.junk])
        match = Match(self._random(16, everything), self._random(16, everything), 8.0)
        return Head((match,), self.to_junk(self._random(32, torch.cat([self.tokens, self.junk]))))

    def _random(self, size: int, rows: Rows) -> Rows:
        """``size`` random directions of the span of ``rows``, of length about 1."""
        mix = torch.randn(size, len(rows), generator=self.generator) / len(rows) ** 0.5
        return mix @ rows

    def build(self) -> TransformerBridge:
        return build_model(
            heads=self.heads,
            embedding=self.tokens,
            positions=self.places + self.one,
            unembedding=self.unembedding,
            n_layers=self.n_layers,
            n_heads=N_HEADS,
            d_head=D_HEAD,
            generator=self.generator,
        )


@dataclass(frozen=True)
class Planted:
    """How one planted model is written, and what is true of it.

    Attributes:
        heads: site of every head of the circuit -> its role.
        edges: ``(sender, receiver, into)``, ``into`` one of q, k, v: all direct paths between heads over
            which the circuit works.
        outputs: heads that write to the logits, the negative ones included.
        distractors: decoys that have an attribution, or effects on single prompts, and no part in the task.
    """

    write: Callable[[Blueprint], None]
    items: tuple[str, ...]
    n_layers: int
    heads: dict[str, str]
    edges: tuple[tuple[str, str, str], ...]
    outputs: tuple[str, ...]
    distractors: tuple[str, ...] = ()

    @property
    def decoys(self) -> tuple[str, ...]:
        """All heads that are not of the circuit."""
        sites = (f"a{layer}.h{head}" for layer, head in product(range(self.n_layers), range(N_HEADS)))
        return tuple(site for site in sites if site not in self.heads)


def paths(senders: str, receivers: str, into: str) -> tuple[tuple[str, str, str], ...]:
    """Every edge from one to another of these heads, spaces between them, into each of these inputs."""
    return tuple(product(senders.split(), receivers.split(), into))
