"""Texts through a model: their codes and means at every site, and what the model expects."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.bottlenecks.base import NO_CODE, Bottleneck
from interp.errors import InputError
from interp.models import Model, hooked, model_device, resolve_site
from interp.models.limits import check_fits, check_texts, estimate_memory
from interp.models.sites import Site
from interp.progress import Stage, silent
from interp.text.special import first_token, opened

BATCH_SIZE = 32


@dataclass(frozen=True)
class TokenizedTexts:
    tokens: Int[Tensor, "text pos"]  # BOS, a text, and padding on the right, which no earlier position sees
    counted: Bool[Tensor, "text pos"]  # where a token of the text stands: not BOS, not padding

    def at(self, rows: Bool[np.ndarray, " text"]) -> "TokenizedTexts":
        """Some of them."""
        chosen = torch.from_numpy(rows)
        return TokenizedTexts(self.tokens[chosen], self.counted[chosen])


def tokenize(model: Model, texts: Sequence[str]) -> TokenizedTexts:
    """Texts as one padded tensor.

    :class:`InputError` for a text that is empty, longer than the model's context, or too long for the memory.
    """
    if model.tokenizer is None:
        raise InputError("this model has no tokenizer: it cannot read text")
    begin = first_token(model.tokenizer)
    rows = [opened(model.tokenizer, text) for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if len(row) < 2:
            raise InputError(f"text {text!r} is empty: each text needs a token to read")
        if len(row) > model.cfg.n_ctx:
            raise InputError(f"a text of {len(row)} tokens ({text[:30]!r} …): the model reads {model.cfg.n_ctx}")
    check_texts(model, texts, rows)
    longest = max(map(len, rows))
    memory = estimate_memory(model, min(BATCH_SIZE, len(rows)), longest)
    check_fits(memory, model_device(model), "shorter texts")
    tokens = torch.tensor([row + [begin or 0] * (longest - len(row)) for row in rows])
    place, lengths = torch.arange(longest), torch.tensor([len(row) for row in rows])
    return TokenizedTexts(tokens, (place >= (begin is not None)) & (place < lengths[:, None]))


@dataclass(frozen=True)
class Readings:
    ids: Mapping[str, Int[Tensor, "text pos group k"]]  # codes at every site; one group where the site has no groups
    # what passes each site, added up over the tokens of each kind of text
    sums: Mapping[str, Float[Tensor, "kind group d_in"]]
    # how often the model would write each token there, the probabilities of what comes next added up
    expected: Float[Tensor, "kind vocab"]
    n_tokens: Int[Tensor, " kind"]  # of each kind

    def mean(self, name: str, kinds: Sequence[int]) -> Float[Tensor, "group d_in"]:
        """Of what passes a site over the tokens of some kinds of texts."""
        return self.sums[name][[*kinds]].sum(0) / self.n_tokens[[*kinds]].sum()

    def expectation(self, kinds: Sequence[int]) -> Float[Tensor, " vocab"]:
        """Mean probabilities of what comes next over the tokens of some kinds of texts."""
        return self.expected[[*kinds]].sum(0) / self.n_tokens[[*kinds]].sum()


@torch.no_grad()
def read_texts(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    texts: TokenizedTexts,
    kinds: Int[np.ndarray, " text"],
    *,
    stage: Stage = silent,
) -> Readings:
    """Everything that is read of texts, in one forward pass; ``kinds`` are numbers from 0 on."""
    places = {name: resolve_site(model, name) for name in codebooks}
    device, width, n_kinds = model_device(model), texts.tokens.shape[1], int(kinds.max()) + 1
    ids: dict[str, list[Tensor]] = {name: [] for name in codebooks}
    sums: dict[str, Tensor] = {}
    expected = torch.zeros(n_kinds, model.cfg.d_vocab_out)
    of_text = torch.from_numpy(kinds).split(BATCH_SIZE)
    with stage("reading texts", len(texts.tokens)) as advance:
        for (tokens, counted), kind in zip(batches(texts), of_text, strict=True):
            with watched(model, places) as seen:
                p = model(tokens.to(device))[counted.to(device)].float().softmax(-1)
            of_token = kind[:, None].expand_as(counted)[counted]
            expected.index_add_(0, of_token, p.cpu())
            for name, book in codebooks.items():
                rows = grouped(seen[places[name].hook], places[name].head, book)
                # codes of a single group come without the axis
                codes = book.encode(rows if rows.shape[2] > 1 else rows[:, :, 0])
                # features that are not active fill the slots of a SAE
                fired = codes.ids.masked_fill(codes.values == 0, NO_CODE)
                fired = (fired if rows.shape[2] > 1 else fired[:, :, None]).cpu()
                ids[name].append(torch.nn.functional.pad(fired, (0, 0, 0, 0, 0, width - counted.shape[1])))
                values = rows.float().cpu()[counted]
                so_far = sums.get(name, values.new_zeros(n_kinds, *values.shape[1:]))
                sums[name] = so_far.index_add_(0, of_token, values)
            advance(len(tokens))
    n_tokens = torch.bincount(torch.from_numpy(kinds), texts.counted.sum(1), n_kinds).long()
    return Readings({name: torch.cat(parts) for name, parts in ids.items()}, sums, expected, n_tokens)


def batches(texts: TokenizedTexts) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and what counts, as wide as the longest text of the batch."""
    for tokens, counted in zip(texts.tokens.split(BATCH_SIZE), texts.counted.split(BATCH_SIZE), strict=True):
        width = int(counted.any(0).nonzero().max()) + 1
        yield tokens[:, :width], counted[:, :width]


@contextmanager
def watched(
    model: Model, places: Mapping[str, Site], begin: Mapping[str, Callable] | None = None
) -> Iterator[dict[str, Tensor]]:
    """What passes each place, by its hook; ``begin`` are hooks that act before it is seen."""
    seen: dict[str, Tensor] = {}

    def keep(hook: str, x: Tensor) -> Tensor:
        seen[hook] = x
        return x

    with hooked(model, dict(begin or {}) | {p.hook: partial(keep, p.hook) for p in places.values()}):
        yield seen


def grouped(x: Tensor, head: int | None, book: Bottleneck) -> Float[Tensor, "text pos group d_in"]:
    """What passes a site, or one head of it, with an axis of groups."""
    x = x if head is None else x[:, :, head]
    return x.reshape(*x.shape[:2], -1, book.config.d_in)
