"""What setting a head's code does to a task: the metric on some pairs with it, without it, and with a random code.

The head's output x becomes x + decode(code) − decode(its own code) at one role's token, or at all, and everything
after it is recomputed. A code carries what the head does there if setting the corrupt prompt's code on clean prompts
moves the metric towards the corrupt one, and a random code of the same codebook does not.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from interp.activations.means import shared_roles
from interp.activations.metric import task_metric
from interp.activations.stream import BATCH_SIZE, Progress, end_logits, equal_length_batches
from interp.bottlenecks.attach import attach, home_of
from interp.bottlenecks.base import Bottleneck, alternatives
from interp.bottlenecks.edits import SetCode
from interp.errors import InputError
from interp.models import Model, model_device
from interp.prompts.pairs import SIDES, PromptPair, PromptPairs, Side
from interp.stats import mean_interval

END = "END"


@dataclass(frozen=True)
class PairCodes:
    """What :func:`read_pairs` found."""

    pairs: PromptPairs
    metric: Float[np.ndarray, "side pair"]  # on every prompt
    # of each pair, ids by site as ``attach`` gives them, side first: [side, pos, (head,) k]
    codes: tuple[Mapping[str, np.ndarray], ...]

    def of_head(self, site: str, side: Side, pair: int) -> Int[np.ndarray, "pos k"]:
        """A head's codes at every token of a prompt, strongest first."""
        row, codes = SIDES.index(side), self.codes[pair]
        if site in codes:
            return codes[site][row]
        layer, _, head = site.partition(".h")
        # without an axis of heads the codebook is of all heads' outputs together
        if layer not in codes or codes[layer].ndim != 4:
            raise InputError(f"no codebook at {site}: there are some at {', '.join(codes) or 'no head'}")
        return codes[layer][row, :, int(head)]

    def strongest(self, site: str, role: str, side: Side) -> list[int]:
        """The head's strongest code at the role on each prompt of a side."""
        return [int(self.of_head(site, side, i)[position(pair, role), 0]) for i, pair in enumerate(self.pairs)]

    def shares(self, site: str, role: str | None, side: Side) -> dict[int, float]:
        """Share of a side's prompts with each code at the role, or of all their tokens, most used first."""
        if role is None:
            ids = [self.of_head(site, side, pair)[:, 0] for pair in range(len(self.pairs))]
            counts = Counter(np.concatenate(ids).tolist())
        else:
            counts = Counter(self.strongest(site, role, side))
        return {code: count / counts.total() for code, count in counts.most_common()}


@dataclass(frozen=True)
class CodeEffect:
    """The metric on every pair."""

    site: str
    side: Side  # the prompts on which codes were set
    role: str | None  # the token at which they were; ``None`` for all tokens
    # codes, random_codes: of each pair
    codes: tuple[int, ...]
    random_codes: tuple[int, ...]
    before: Float[np.ndarray, " pair"]  # without any
    with_codes: Float[np.ndarray, " pair"]
    with_random: Float[np.ndarray, " pair"]

    def change(self, *, random: bool = False) -> tuple[float, float, float]:
        """Mean change of the metric, and its 95 % bootstrap interval over pairs."""
        return mean_with_interval((self.with_random if random else self.with_codes) - self.before)

    def beyond(self) -> tuple[float, float, float]:
        """The same of the metric with the code less that with a random code."""
        return mean_with_interval(self.with_codes - self.with_random)


def mean_with_interval(values: Float[np.ndarray, " pair"]) -> tuple[float, float, float]:
    """A mean and its 95 % bootstrap interval over pairs; without one for a single pair, NaN."""
    if len(values) < 2:
        return float(values.mean()), float("nan"), float("nan")
    low, high = mean_interval(values[:, None], 0)
    return float(values.mean()), float(low[0]), float(high[0])


def roles_of(pairs: Sequence[PromptPair]) -> tuple[str, ...]:
    """The roles that every pair has, END first."""
    return (END, *(role for role in shared_roles(pairs) if role != END))


def position(pair: PromptPair, role: str) -> int:
    """Where a role stands; END is the last token also where a task names no roles."""
    return pair.positions[role] if role in pair.positions else len(pair.clean_tokens) - 1


@torch.no_grad()
def read_pairs(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    pairs: PromptPairs,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> PairCodes:
    """The metric and the heads' codes on all prompts of some pairs, each run once; progress counts two a pair."""
    books = {site: book for site, book in codebooks.items() if site[0] == "a"}
    if not books:
        raise InputError("no codebook at a head: nothing to read here")
    metric = np.zeros((2, len(pairs)))
    codes: list[Mapping[str, np.ndarray]] = [{}] * len(pairs)
    with attach(model, books) as attached:
        for indices in equal_length_batches(pairs, batch_size):
            by_side = []
            for row, side in enumerate(SIDES):
                metric[row, list(indices)] = _metric(model, pairs, indices, side, progress)
                by_side.append({site: ids.cpu().numpy().astype(np.int32) for site, ids in attached.ids.items()})
            for row, index in enumerate(indices):
                codes[index] = {site: np.stack([ids[site][row] for ids in by_side]) for site in books}
    return PairCodes(pairs, metric, tuple(codes))


@torch.no_grad()
def set_code(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    read: PairCodes,
    site: str,
    codes: int | Sequence[int],
    *,
    role: str | None = END,
    side: Side = "clean",
    seed: int = 0,
    progress: Progress | None = None,
) -> CodeEffect:
    """Set a head's strongest code on the prompts of one side, then a random one of its codebook, once each.

    Args:
        codes: one for all pairs, or one for each.
        role: at which token; ``None`` for all tokens, BOS included.
        seed: of the random codes, one a pair, each another than the code set there.
        progress: told of forwards, two a pair.
    """
    pairs = read.pairs
    if role is not None and role not in roles_of(pairs):
        raise InputError(f"role {role!r}: choose {', '.join(roles_of(pairs))}")
    codes = [codes] * len(pairs) if isinstance(codes, int) else [int(code) for code in codes]
    attached = attach(model, codebooks, read=False)
    attached.edit(*(SetCode(site, code, rows=[i]) for i, code in enumerate(codes)))
    book = codebooks[home_of(model, codebooks, site)[0]]
    if book.config.n_codes < 2:
        raise InputError(f"the codebook at {site} has one code: there is nothing to compare it with")
    rng, drawn = np.random.default_rng(seed), []
    for excluded in codes:
        possible = alternatives(book.config, excluded)
        other = possible[int(rng.integers(len(possible) - 1))]
        drawn.append(other + (other >= excluded))
    values = np.zeros((2, len(pairs)))
    for number, chosen in enumerate((codes, drawn)):
        for indices, column in _batches(pairs, role):
            edits = [SetCode(site, chosen[i], rows=[row]) for row, i in enumerate(indices)]
            attached.clear()
            with attached.edit(*edits, positions=column):
                values[number, indices] = _metric(model, pairs, indices, side, progress)
    before = read.metric[SIDES.index(side)]
    return CodeEffect(site, side, role, tuple(codes), tuple(drawn), before, *values)


def _batches(pairs: PromptPairs, role: str | None) -> Iterator[tuple[list[int], int | Literal["all"]]]:
    """Pairs of one length whose role stands at one column, and that column."""
    for indices in equal_length_batches(pairs, BATCH_SIZE):
        columns: list[int | Literal["all"]] = ["all" if role is None else position(pairs[i], role) for i in indices]
        for column in dict.fromkeys(columns):
            yield [i for i, at in zip(indices, columns, strict=True) if at == column], column


def _metric(
    model: Model, pairs: PromptPairs, indices: Sequence[int], side: Side, progress: Progress | None
) -> Float[np.ndarray, " batch"]:
    """The metric on one side of pairs of one length."""
    rows = [pairs[i] for i in indices]
    tokens = [row.clean_tokens if side == "clean" else row.corrupt_tokens for row in rows]
    logits = end_logits(model, torch.tensor(tokens, device=model_device(model)))
    if progress is not None:
        progress(len(rows))
    return task_metric(logits, rows, pairs.metric).cpu().double().numpy()
