"""What the planted models have in common: hand-written heads, subspaces, ways of attending, and decoys.

The residual stream is a sum of orthogonal subspaces in a randomly rotated basis, so that nothing lines up
with a neuron. There is no norm, no MLP and no bias: every logit is exactly the sum of what the heads and the
embedding write (the setting of Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from interp.planted.tasks import NOUNS, VOCABULARY

D_MODEL, D_HEAD, N_HEADS, N_CTX = 256, 64, 6, 32
LOGIT_SCALE = 10.0  # logit of a word that is written to the output with weight 1, within 20 %
DECOY_LEAK = 5e-4  # what a decoy writes to the output, against the 2 that it writes where nothing reads
Rows = Float[Tensor, "_ d_model"]  # directions of the residual stream


@dataclass(frozen=True)
class Match:
    """A term of the attention score: ``weight`` times the dot product of what query and key carry there.

    ``query`` and ``key`` have one row per compared feature; row i of the one meets row i of the other.
    """

    query: Float[Tensor, "row d_model"]
    key: Float[Tensor, "row d_model"]
    weight: float


@dataclass(frozen=True)
class Move:
    """A term of the head's output: what the source carries in ``read`` is written along ``write``."""

    read: Float[Tensor, "row d_model"]
    write: Float[Tensor, "row d_model"]


@dataclass(frozen=True)
class Head:
    """Attention score = sum of the matches; output = sum of the moves."""

    matches: tuple[Match, ...]
    moves: tuple[Move, ...]


class Blueprint:
    """The subspaces that all planted models share, and the heads written so far."""

    def __init__(self, items: tuple[str, ...], n_layers: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.n_layers = n_layers
        self.heads: dict[tuple[int, int], Head] = {}
        self._unused = _rotation(D_MODEL, self.generator)
        self.tokens = self.take(len(VOCABULARY))
        self.places = self.take(N_CTX)
        self.one = self.take(1)  # a direction that every position carries, for scores that depend on the key alone
        self.junk = self.take(64)  # where decoys write; no head of a circuit and no logit reads it
        self.bos = self.words("<bos>")
        self.items = self.words(*items)  # the words that the circuit moves: names or nouns
        self.output = self.take(len(items))
        self.unembedding = torch.zeros(len(VOCABULARY), D_MODEL)
        # not all words alike, so that the metric varies from prompt to prompt
        scales = LOGIT_SCALE * (0.8 + 0.4 * torch.rand(len(items), 1, generator=self.generator))
        self.unembedding[[VOCABULARY.index(word) for word in items]] = scales * self.output

    def take(self, size: int) -> Rows:
        """The next orthonormal directions of a random rotation, each given out once."""
        rows, self._unused = self._unused.split([size, len(self._unused) - size])
        return rows

    def words(self, *words: str) -> Rows:
        return self.tokens[[VOCABULARY.index(word) for word in words]]

    def role(self) -> Rows:
        """A fresh subspace with one direction per item."""
        return self.take(len(self.items))

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
        """The model of the heads written so far; heads not given are zero.

        The channels inside each head are rotated too, so that z is no more axis-aligned than a trained head's.
        """
        model = TransformerBridge.boot_native(
            TransformerBridgeConfig(
                d_model=D_MODEL,
                d_head=D_HEAD,
                n_heads=N_HEADS,
                n_layers=self.n_layers,
                n_ctx=N_CTX,
                d_vocab=len(VOCABULARY),
                act_fn="relu",
                attn_only=True,
                normalization_type=None,
                positional_embedding_type="standard",
                tokenizer_prepends_bos=False,
                seed=0,
            )
        )
        state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
        state["embed.weight"] = self.tokens
        state["pos_embed.weight"] = self.places + self.one
        state["unembed.weight"] = self.unembedding
        for (layer, number), head in self.heads.items():
            rows = slice(number * D_HEAD, (number + 1) * D_HEAD)
            # the model divides scores by sqrt(d_head)
            scaled = [(match, math.sqrt(match.weight * math.sqrt(D_HEAD))) for match in head.matches]
            query = torch.cat([match.query * scale for match, scale in scaled])
            key = torch.cat([match.key * scale for match, scale in scaled])
            read, write = (torch.cat([getattr(move, end) for move in head.moves]) for end in ("read", "write"))
            q, k = _into_channels((query, key), self.generator)
            v, o = _into_channels((read, write), self.generator)
            attn = f"blocks.{layer}.attn"
            state[f"{attn}.q.weight"][rows] = q
            state[f"{attn}.k.weight"][rows] = k
            state[f"{attn}.v.weight"][rows] = v
            state[f"{attn}.o.weight"][:, rows] = o.T
        model.load_state_dict(state)
        model.eval()
        model.requires_grad_(False)
        return model


@dataclass(frozen=True)
class Planted:
    """How one planted model is written, and what is true of it."""

    write: Callable[[Blueprint], None]
    items: tuple[str, ...]
    n_layers: int
    heads: dict[str, str]  # site of every head of the circuit -> its role
    # ``(sender, receiver, into)``, ``into`` one of q, k, v: all direct paths between heads over which the circuit works
    edges: tuple[tuple[str, str, str], ...]
    outputs: tuple[str, ...]  # heads that write to the logits, the negative ones included
    # decoys that have an attribution, or effects on single prompts, and no part in the task
    distractors: tuple[str, ...] = ()

    @property
    def decoys(self) -> tuple[str, ...]:
        """All heads that are not of the circuit."""
        sites = (f"a{layer}.h{head}" for layer, head in product(range(self.n_layers), range(N_HEADS)))
        return tuple(site for site in sites if site not in self.heads)


def paths(senders: str, receivers: str, into: str) -> tuple[tuple[str, str, str], ...]:
    """Every edge from one to another of these heads, spaces between them, into each of these inputs."""
    return tuple(product(senders.split(), receivers.split(), into))


def _into_channels(pair: tuple[Rows, Rows], generator: torch.Generator) -> tuple[Rows, Rows]:
    """Spread the paired rows over a head's channels; the products of the pair do not change."""
    mix = _rotation(D_HEAD, generator)[:, : len(pair[0])]
    return mix @ pair[0], mix @ pair[1]


def _rotation(size: int, generator: torch.Generator) -> Float[Tensor, "size size"]:
    return torch.linalg.qr(torch.randn(size, size, generator=generator)).Q
