"""The same text read by several models at once: the codes of each, and how far its next token is from the first's."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from interp.bottlenecks import Bottleneck
from interp.bottlenecks.attach import attach, groups_at
from interp.bottlenecks.base import NO_CODE, Codes
from interp.codesearch.layout import names_of_groups
from interp.errors import InputError
from interp.executor import SERIAL, Job, JobProgress, Work, Workers, checked, run_work
from interp.models import HookFunction, Model, OneModel, describe_model, hooked, model_device, resolve_site
from interp.models.partial_forward import starting_at
from interp.progress import Stage, silent

PART = 4096  # tokens of a job
TOKENS_AT_ONCE = 256
"""Logits of so many tokens are held, twice: those of four times as many cost as much in fresh memory as the forward."""


def book_sites(model: Model, books: Mapping[str, Bottleneck]) -> dict[str, tuple[str, int | None, int]]:
    """Of every book, ``a5.h3`` or ``m2``, the key of its codebook, its group there, and its number of codes."""
    sites = {}
    for key, book in books.items():
        site = resolve_site(model, key)
        groups = groups_at(model, site, book)
        for group, name in enumerate(names_of_groups(str(site), groups)):
            sites[name] = str(site), None if groups is None else group, book.config.n_codes
    return sites


@dataclass
class Reading:
    """What one model did with the text."""

    # of every book, the codes of every token, `NO_CODE` where there is none
    ids: dict[str, Shaped[np.ndarray, "token k"]] = field(default_factory=dict)
    # KL(this model ‖ base) of the token that follows each, in nats
    kl: Float[np.ndarray, " token"] = field(default_factory=lambda: np.zeros(0, np.float32))
    # the token that it likes best there
    says: Int[np.ndarray, " token"] = field(default_factory=lambda: np.zeros(0, np.int64))
    # of every site that was read, the mean output, heads apart
    means: dict[str, Float[Tensor, "*any d"]] = field(default_factory=dict)


@dataclass
class BatchReading:
    """A batch of tokens: log probabilities of what follows, codes, and sums of outputs."""

    log_p: Float[Tensor, "token d_vocab"]
    ids: dict[str, Shaped[np.ndarray, "token k"]]
    sums: dict[str, Float[Tensor, "*any d"]]
    # what each layer that another model begins at has read
    resid: dict[int, Float[Tensor, "block pos d_model"]] = field(default_factory=dict)


def first_difference(base: Model, tuned: Model) -> int | None:
    """The first layer whose weights differ; 0 if something before the layers does, ``None`` if nothing does."""
    weights, tuned_weights = (dict(model.original_model.named_parameters()) for model in (base, tuned))
    layers = {id(p): layer for layer, block in enumerate(base.blocks) for p in block.parameters()}
    embedded = {p.data_ptr() for p in base.embed.parameters()}
    for part in (base.unembed, getattr(base, "ln_final", None)):
        # where the unembedding is tied to the embedding it acts before the layers
        free = [p for p in part.parameters() if p.data_ptr() not in embedded] if part else []
        layers |= {id(p): base.cfg.n_layers for p in free}
    changed = (weight for name, weight in weights.items() if not torch.equal(weight, tuned_weights[name]))
    return min((layers.get(id(weight), 0) for weight in changed), default=None)


@torch.no_grad()
def read_batch(
    model: Model,
    books: Mapping[str, Bottleneck],
    tokens: Int[Tensor, "block pos"],
    *,
    keep: Collection[int] = (),
    below: tuple[int, BatchReading] | None = None,
) -> BatchReading:
    """One forward of a model with the codes that its outputs have. ``keep``: layers whose input is kept. ``below``: a
    layer below which the model is the base, and what that did: the forward begins there."""
    sums: dict[str, Tensor] = {}
    resid: dict[int, Tensor] = {}
    first, base = below or (0, None)
    sites = {str(site): site for site in (resolve_site(model, key) for key in books) if site.layer >= first}
    live = {key: book for key, book in books.items() if str(resolve_site(model, key)) in sites}

    def add_up(key: str, x: Tensor) -> None:
        sums[key] = x.sum((0, 1)).double()

    def copy(layer: int, x: Tensor) -> None:
        resid[layer] = x.clone()

    hooks: dict[str, HookFunction] = {site.hook: partial(add_up, key) for key, site in sites.items()}
    hooks |= {f"blocks.{layer}.hook_resid_pre": partial(copy, layer) for layer in keep}
    with contextlib.ExitStack() as stack:
        if base is not None and first:
            stack.enter_context(starting_at(model, first, base.resid[first]))
        stack.enter_context(hooked(model, hooks))
        attached = stack.enter_context(attach(model, live)) if live else None
        logits = model(tokens.to(model_device(model)))
        codes: dict[str, Codes] = {} if attached is None else attached.codes
    read = {} if base is None else dict(base.ids)
    if base is not None:
        sums = {**base.sums, **sums}
    for name, (key, group, _) in book_sites(model, live).items():
        # features that are not active fill the slots of a SAE
        ids = torch.where(codes[key].values != 0, codes[key].ids, NO_CODE)
        ids = ids if group is None else ids[:, :, group]
        read[name] = ids.reshape(tokens.numel(), -1).to(torch.int32).cpu().numpy()
    return BatchReading(logits.flatten(0, 1).float().log_softmax(-1), read, sums, resid)


CHUNK = 64  # tokens whose distributions are compared at once


class Reader:
    """Joins the batches of one model."""

    def __init__(self) -> None:
        self._ids: list[dict[str, np.ndarray]] = []
        self._kl: list[np.ndarray] = []
        self._says: list[np.ndarray] = []
        self._sums: dict[str, Tensor] = {}

    def add(self, batch: BatchReading, base: BatchReading | None = None) -> None:
        """Take in a batch, and the base's of the same tokens, if this is not the base."""
        kl = [torch.zeros(len(batch.log_p))]
        if base is not None:
            chunks = zip(batch.log_p.split(CHUNK), base.log_p.split(CHUNK), strict=True)
            kl = [torch.einsum("tv,tv->t", p.exp(), p - q) for p, q in chunks]
        self._kl.append(torch.cat(kl).clamp(min=0).cpu().numpy())
        self._says.append(batch.log_p.argmax(-1).cpu().numpy())
        self._ids.append(batch.ids)
        self._take(batch.sums)

    @classmethod
    def joined(cls, parts: "Sequence[Reader]") -> "Reader":
        whole = cls()
        for part in parts:
            whole._kl += part._kl
            whole._says += part._says
            whole._ids += part._ids
            whole._take(part._sums)
        return whole

    def _take(self, sums: Mapping[str, Tensor]) -> None:
        for key, total in sums.items():
            self._sums[key] = total + self._sums[key] if key in self._sums else total

    def reading(self) -> Reading:
        kl = np.concatenate(self._kl)
        ids = {name: np.concatenate([batch[name] for batch in self._ids]) for name in self._ids[0]}
        means = {key: (total / len(kl)).float() for key, total in self._sums.items()}
        return Reading(ids, kl, np.concatenate(self._says), means)


def batches(tokens: Int[Tensor, "block pos"]) -> Iterator[Int[Tensor, "block pos"]]:
    yield from tokens.split(max(1, TOKENS_AT_ONCE // tokens.shape[1]))


@dataclass
class _ReadingWorker:
    models: Sequence[OneModel]
    books: Mapping[str, Bottleneck]
    firsts: Sequence[int | None]


def read_all(
    models: Sequence[Model],
    books: Mapping[str, Bottleneck],
    tokens: Int[Tensor, "block pos"],
    stage: Stage = silent,
    *,
    workers: Workers = SERIAL,
) -> list[Reading]:
    """What every model did, the first of which is the base. A part of the text is a job. :class:`InputError`: a model
    that computes NaN, or that workers cannot load by its name."""
    specs = [describe_model(model)["spec"] for model in models]
    if None in specs and not workers.serial:
        raise InputError("a model that was not loaded by load_model has no name by which workers find it")
    held = [OneModel(model, device=str(model_device(model))) for model in models]
    worker = _ReadingWorker(held, books, [first_difference(models[0], other) for other in models[1:]])
    parts = tokens.split(max(1, PART // tokens.shape[1]))
    jobs = [
        Job(f"part {i}", _read_part, (specs, part), tuple(map(str, specs)), part.numel())
        for i, part in enumerate(parts)
    ]
    done = checked(run_work(worker, Work.all(jobs), stage("reading", tokens.numel()), workers=workers))
    return [Reader.joined(readers).reading() for readers in zip(*done, strict=True)]


def _read_part(
    worker: _ReadingWorker, specs: Sequence[str], tokens: Int[Tensor, "block pos"], progress: JobProgress
) -> list[Reader]:
    base_model, *others = (model(spec) for model, spec in zip(worker.models, specs, strict=True))
    books, firsts = worker.books, worker.firsts
    keep = {first for first in firsts if first and first < base_model.cfg.n_layers}
    readers, n_read = [Reader() for _ in specs], 0
    for part in batches(tokens):
        base = _checked(base_model, read_batch(base_model, books, part, keep=keep))
        readers[0].add(base)
        for model, reader, first in zip(others, readers[1:], firsts, strict=True):
            if first is None:
                reader.add(base)
                continue
            below = (first, base) if first in keep else None
            reader.add(_checked(model, read_batch(model, books, part, below=below)), base)
        n_read += part.numel()
        progress.share(n_read / tokens.numel())
    return readers


def _checked(model: Model, batch: BatchReading) -> BatchReading:
    if not batch.log_p[-1].isfinite().all():
        raise InputError(f"{describe_model(model)['spec']} computes NaN: its weights are damaged")
    return batch
