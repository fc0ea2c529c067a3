"""The same text read by several models at once: the codes of each, and how far its next token is from the first's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from interp.bottlenecks import Bottleneck
from interp.bottlenecks.attach import attach, groups_at
from interp.bottlenecks.base import NO_CODE
from interp.codesearch.layout import names_of_groups
from interp.errors import InputError
from interp.models import Model, describe_model, hooked, model_device, resolve_site
from interp.progress import Stage, silent

TOKENS_AT_ONCE = 1024
"""Logits of so many tokens are held, twice."""


def book_sites(model: Model, books: Mapping[str, Bottleneck]) -> dict[str, tuple[str, int | None, int]]:
    """Of every book, ``a5.h3`` or ``m2``, the key of its codebook, its group there, and its number of codes."""
    found = {}
    for key, book in books.items():
        site = str(resolve_site(model, key))
        groups = groups_at(model, resolve_site(model, key), book)
        for group, name in enumerate(names_of_groups(site, groups)):
            found[name] = site, None if groups is None else group, book.config.n_codes
    return found


@dataclass
class Reading:
    """What one model did with the text.

    Attributes:
        ids: of every book, the codes of every token, :data:`NO_CODE` where there is none.
        kl: KL(this model ‖ base) of the token that follows each, in nats.
        says: the token that it likes best there.
        means: of every site that was read, the mean output, heads apart.
    """

    ids: dict[str, Shaped[np.ndarray, "token k"]] = field(default_factory=dict)
    kl: Float[np.ndarray, " token"] = field(default_factory=lambda: np.zeros(0, np.float32))
    says: Int[np.ndarray, " token"] = field(default_factory=lambda: np.zeros(0, np.int64))
    means: dict[str, Float[Tensor, "*any d"]] = field(default_factory=dict)


@dataclass
class BatchReading:
    """A batch of tokens: log probabilities of what follows, codes, and sums of outputs."""

    log_p: Float[Tensor, "token d_vocab"]
    ids: dict[str, Shaped[np.ndarray, "token k"]]
    sums: dict[str, Float[Tensor, "*any d"]]


@torch.no_grad()
def read_batch(
    model: Model, books: Mapping[str, Bottleneck], tokens: Int[Tensor, "block pos"]
) -> BatchReading:
    """One forward of a model with the codes that its outputs have."""
    sums: dict[str, Tensor] = {}

    def summed(key: str, x: Tensor) -> None:
        sums[key] = x.double().sum((0, 1))

    hooks = {
        (site := resolve_site(model, key)).hook: lambda x, key=str(site): summed(key, x) for key in books
    }
    with hooked(model, hooks), attach(model, books) as attached:
        logits = model(tokens.to(model_device(model)))
        codes = attached.codes
    found = {}
    for name, (key, group, _) in book_sites(model, books).items():
        # features that are not active fill the slots of a SAE
        ids = torch.where(codes[key].values != 0, codes[key].ids, NO_CODE)
        ids = ids if group is None else ids[:, :, group]
        found[name] = ids.reshape(tokens.numel(), -1).to(torch.int32).cpu().numpy()
    return BatchReading(logits.flatten(0, 1).float().log_softmax(-1), found, sums)


class Reader:
    """Joins the batches of one model."""

    def __init__(self) -> None:
        self._batches: list[BatchReading] = []
        self._kl: list[np.ndarray] = []
        self._says: list[np.ndarray] = []
        self._sums: dict[str, Tensor] = {}

    def add(self, batch: BatchReading, base: BatchReading) -> None:
        kl = (batch.log_p.exp() * (batch.log_p - base.log_p)).sum(-1)
        self._kl.append(kl.clamp(min=0).cpu().numpy())
        self._says.append(batch.log_p.argmax(-1).cpu().numpy())
        self._batches.append(BatchReading(batch.log_p[:0], batch.ids, {}))
        for key, total in batch.sums.items():
            self._sums[key] = total + self._sums[key] if key in self._sums else total

    def reading(self) -> Reading:
        kl = np.concatenate(self._kl)
        names = self._batches[0].ids
        ids = {name: np.concatenate([batch.ids[name] for batch in self._batches]) for name in names}
        means = {key: (total / len(kl)).float() for key, total in self._sums.items()}
        return Reading(ids, kl, np.concatenate(self._says), means)


def batches(tokens: Int[Tensor, "block pos"]) -> Iterator[Int[Tensor, "block pos"]]:
    yield from tokens.split(max(1, TOKENS_AT_ONCE // tokens.shape[1]))


def read_all(
    models: Sequence[Model],
    books: Mapping[str, Bottleneck],
    tokens: Int[Tensor, "block pos"],
    stage: Stage = silent,
) -> list[Reading]:
    """What every model did, the first of which is the base."""
    readers = [Reader() for _ in models]
    with stage("reading", tokens.numel()) as done:
        for part in batches(tokens):
            base: BatchReading | None = None
            for model, reader in zip(models, readers, strict=True):
                batch = read_batch(model, books, part)
                if not batch.log_p.isfinite().all():
                    raise InputError(
                        f"the model {describe_model(model)['spec']} computes no numbers (NaN): its weights are damaged"
                    )
                base = base or batch
                reader.add(batch, base)
            done(part.numel())
    return [reader.reading() for reader in readers]
