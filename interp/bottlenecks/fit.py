"""Fitting codebooks at many sites of a model from text, by k-means alone: no gradient, no training loop.

Two ways, see :class:`FitConfig`:

* ``sequential``: each book is fitted to what its site carries once all earlier books stand in the model, so that it
  knows the errors that reach it. For books that will be attached together.
* independent: each book is fitted to what its site carries in the plain model. For books attached one at a time.

All texts go through block 0, then all through block 1, …, each block run once (and its attention once more, where a
book must be fitted in the middle of it). Nothing but the residual streams between two layers is ever stored; they lie
in shards of one batch, as safetensors in the model's own dtype, so that a killed run goes on with the same numbers and
loses one site's work at most.
"""

import contextlib
import os
import platform
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.bottlenecks import store
from interp.bottlenecks.attach import attach
from interp.bottlenecks.base import CONFIG_FILE, Bottleneck, bottleneck_class
from interp.bottlenecks.dictionary import Dictionary
from interp.bottlenecks.kinds.codebook import Codebook, CodebookConfig, Selection
from interp.bottlenecks.kinds.metric_codebook import MetricCodebook
from interp.errors import InputError, check_fields, parse_field
from interp.executor import SERIAL, Job, JobProgress, Shard, Workers, run
from interp.files import atomic_path, read_json, write_json
from interp.models import Model, OneModel, Site, expand_sites, hooked, model_device
from interp.models.hooks import check_model
from interp.models.partial_forward import starting_at
from interp.progress import Stage, silent
from interp.text import TextBlocks, load_text


class LayerStream:
    """The residual stream of many texts at the entrance of one ``layer``, carried on layer by layer in ``folder``, a
    shard a batch; those that an earlier process left are used, unless they have passed the layer ``at_most``."""

    def __init__(
        self, model: Model, tokens: Int[Tensor, "block pos"], folder: Path, *, batch_size: int, at_most: int
    ) -> None:
        self.model, self.folder = model, folder
        self.batches = tokens.split(batch_size)
        numbers = range(len(self.batches))
        layers = range(1, at_most + 1)
        reached = (layer for layer in layers if all(self._path(layer, i).exists() for i in numbers))
        self.layer = max(reached, default=0)

    @torch.no_grad()
    def collect(self, site: Site, books: Mapping[Site, Bottleneck], done: Callable[[int], None]) -> list[Tensor]:
        """What passes at a site of this layer, per batch in float32, with ``books`` in place before it."""
        seen = []
        with self._spliced(books):
            for i in range(len(self.batches)):
                seen.append(_at(site, self._run_until(site.hook, i)))
                done(1)
        return seen

    @torch.no_grad()
    def advance(
        self, books: Mapping[Site, Bottleneck], done: Callable[[int], None], seen_at: tuple[Site, ...] = ()
    ) -> dict[Site, list[Tensor]]:
        """Run this layer with ``books`` in place and keep what leaves it for :meth:`step`; returns what passed at the
        seen_at sites."""
        seen: dict[Site, list[Tensor]] = {site: [] for site in seen_at}

        def keep(hook: str, x: Tensor) -> None:
            for site in seen_at:
                if site.hook == hook:
                    seen[site].append(_at(site, x))

        hooks = {site.hook: partial(keep, site.hook) for site in seen_at}
        with hooked(self.model, hooks), self._spliced(books):
            for i in range(len(self.batches)):
                path = self._path(self.layer + 1, i)
                if seen_at or not path.exists():
                    resid = self._run_until(f"blocks.{self.layer}.hook_resid_post", i)
                    with atomic_path(path) as temporary:
                        save_file({"resid": resid.cpu().contiguous()}, temporary)
                done(1)
        return seen

    def step(self) -> None:
        """Go on to the next layer; what entered this one is deleted."""
        shutil.rmtree(self._path(self.layer, 0).parent, ignore_errors=True)
        self.layer += 1

    def _spliced(self, books: Mapping[Site, Bottleneck]) -> contextlib.AbstractContextManager:
        by_name = {str(site): book for site, book in books.items()}
        return attach(self.model, by_name, error_term=False) if books else contextlib.nullcontext()

    def _run_until(self, hook: str, i: int) -> Tensor:
        """What passes at a hook in a forward of one batch from this layer on, which is given up there."""
        passed = []

        def give_up(x: Tensor) -> None:
            passed.append(x.clone())
            raise _ReachedError

        start: contextlib.AbstractContextManager = contextlib.nullcontext()
        if self.layer > 0:
            path = self._path(self.layer, i)
            try:
                resid = load_file(path)["resid"].to(model_device(self.model))
            except (SafetensorError, KeyError, OSError) as error:
                raise InputError(f"{path} is damaged ({error}): delete {path.parent}") from None
            start = starting_at(self.model, self.layer, resid)
        with contextlib.suppress(_ReachedError), start, hooked(self.model, {hook: give_up}):
            self.model(self.batches[i].to(model_device(self.model)))
        if not passed:
            raise RuntimeError(f"nothing passed at {hook}: unsupported model")
        return passed[0]

    def _path(self, layer: int, i: int) -> Path:
        return self.folder / f"layer{layer:03}" / f"{i:05}.safetensors"


class _ReachedError(Exception):
    """The rest of the forward pass, final norm and unembedding included, is not needed."""


def _at(site: Site, x: Tensor) -> Tensor:
    """What passes at a site of a hook, apart, in float32 on the processor."""
    return (x if site.head is None else x[:, :, site.head]).float().cpu().clone()


IN_MEMORY = 2 * 2**30
"""Bytes of one site's vectors up to which k-means sees all of them at once; above, batch after batch."""
BATCH_SIZE = 32  # blocks per forward pass: 2048 tokens at a context of 64
FIT_TOKENS, CONTEXT = 22_000, 64  # what the codebooks of the package were begun with
TOKENS_PER_CODE = 20  # at least so many every fit had whose cost is told in benchmarks/TABLES.md
STEERED_CODES = 512  # a codebook, of those with which steering was measured; they were fitted on :data:`FIT_TOKENS`


def few_tokens(n_tokens: int, n_codes: int) -> str | None:
    """For which uses a fit is smaller than any that was measured, in one line; ``None`` for none."""
    uses = []
    if n_tokens < TOKENS_PER_CODE * n_codes:
        uses.append(f"reading codes ({TOKENS_PER_CODE} tokens a code, {TOKENS_PER_CODE * n_codes})")
    if n_tokens < 0.95 * FIT_TOKENS or n_codes < STEERED_CODES:  # blocks are whole: a few are always missing
        uses.append(f"steering ({FIT_TOKENS} tokens, {STEERED_CODES} codes)")
    measured = " and for ".join(uses)
    return f"{n_tokens} tokens and {n_codes} codes are less than was measured to do for {measured}" if uses else None


@dataclass(frozen=True)
class FitConfig:
    n_codes: int = 512  # codes per book, and per head where the site is a layer's heads
    k: int = 8  # codes per vector
    # see :class:`~interp.bottlenecks.kinds.codebook.CodebookConfig`, as ``magnitude``
    selection: Selection = "matching_pursuit"
    magnitude: Literal["unit", "scaled"] = "unit"
    sequential: bool = True  # see the module's docstring
    by_output: bool = True  # compare and fit a head's vectors by what W_O makes of them
    seed: int = 0  # of k-means
    # ``codebook``, or another of :data:`~interp.bottlenecks.base.SHIPPED`, or ``path/to/file.py:Class``. Of others than
    # codebooks, ``bits`` and ``options`` say what n_codes, k, selection and magnitude do not
    kind: str = "codebook"
    bits: int | None = None  # of a vector, about; None for what the kind has by itself
    options: Mapping[str, Any] = field(default_factory=dict)  # fields of the kind's config, by name

    def __post_init__(self) -> None:
        check_fields(self)
        if self.kind == "codebook" and (self.bits is not None or self.options):
            raise InputError("bits and options are for other kinds than codebook, which has n_codes and k")
        for name in ("n_codes", "k", "selection", "magnitude"):
            if self.kind != "codebook" and getattr(self, name) != getattr(FitConfig, name):
                raise InputError(
                    f"{name} {getattr(self, name)}: it is of codebooks; of a {self.kind} give bits or options"
                )
        cls = bottleneck_class(self.kind)
        if not issubclass(cls, Dictionary):
            parent = "interp.bottlenecks.product_codebook.ProductCodebook"
            raise InputError(f"a {cls.kind} cannot be fitted at sites: derive it from {parent}")


def fit_codebooks(
    model: Model,
    sites: str | Sequence[str] = "heads",
    text: str | TextBlocks = "stdlib+self",
    folder: Path | str | None = None,
    config: FitConfig | None = None,
    *,
    n_tokens: int = FIT_TOKENS,
    context: int = CONTEXT,
    batch_size: int = BATCH_SIZE,
    stage: Stage = silent,
    **options: Any,
) -> store.Codebooks:
    """Fit one codebook per site; goes on where a killed run of the same request stopped.

    >>> few = fit_codebooks(model, ["a21.h6", "a27.h2"], "stdlib", n_tokens=640, n_codes=64, k=1)
    >>> list(few)
    ['a21.h6', 'a27.h2']

    Args:
        sites: patterns of :func:`interp.models.expand_sites`: ``heads``, ``mlps``, ``a*``, ``r4``, …
        text: blocks, or a spec of :mod:`interp.text.sources`, of which ``n_tokens`` are read, ``context`` at a time.
        folder: where they are written; None keeps them in memory.
        batch_size: blocks per forward pass.
        options: fields of :class:`FitConfig`, over those of ``config``.
    """
    check_model(model)
    config = replace(config or FitConfig(), **options)
    context = min(context, model.cfg.n_ctx)
    text = load_text(text, model, n_tokens=n_tokens, context=context, seed=config.seed, stage=stage)
    if folder is None:
        with TemporaryDirectory(prefix="codebooks-") as temporary:
            stored = fit_codebooks(model, sites, text, temporary, config, batch_size=batch_size, stage=stage)
            return stored.in_memory()
    folder, sites = Path(folder), [sites] if isinstance(sites, str) else sites
    books = new_books(model, sites, config)
    if text.n_tokens < config.n_codes:
        raise InputError(f"{text.n_tokens} tokens for {config.n_codes} codes: give at least one token a code")
    request = _request(model, text, books, config, batch_size)
    if store.is_store(folder):
        stored = store.Codebooks.from_pretrained(folder)
        for part, kind in (("storage", "packed"), ("training", "trained")):
            if part in stored.manifest:
                raise InputError(f"{folder} holds {kind} codebooks: write the fitted ones to another folder")
        store.check_request(folder, stored.manifest, _in_batches_of(stored.manifest, request))
        shutil.rmtree(folder / store.WORK, ignore_errors=True)  # of a run that was killed while it cleared up
        return stored
    with store.being_filled(folder, "fitting"):
        _begin(folder, request)
        _fit(model, text, books, config, folder, batch_size, stage)
        return store.Codebooks.finish(folder, request)


def _in_batches_of(begun: Mapping[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """The request with the batch size that was begun with: no part of what is asked for."""
    return request | {"fit": request["fit"] | {"batch_size": begun["fit"].get("batch_size")}}


def _begin(folder: Path, request: dict[str, Any]) -> None:
    """Note or check the request; after another batch size, as where memory was short, the streams are made again."""
    path = folder / store.WORK / store.REQUEST_FILE
    try:
        begun = read_json(path)
        other = begun["fit"]["batch_size"] != request["fit"]["batch_size"]
    except (OSError, ValueError, KeyError, TypeError):
        # nothing was begun, or what follows tells what is wrong
        other = False
    if other:
        store.check_request(folder, begun, _in_batches_of(begun, request))
        for shards in (folder / store.WORK).glob("layer[0-9]*"):
            shutil.rmtree(shards)
        write_json(path, request)
    store.begin_request(folder, request)


def new_books(model: Model, sites: Sequence[str], config: FitConfig) -> dict[Site, Dictionary]:
    """Codebooks that have seen nothing yet, one a site."""
    places = expand_sites(model, sites)
    if not places:
        raise InputError("no site: name some, such as heads, mlps, a*, m5")
    return {place: _new_book(model, place, config) for place in places}


def _fit(
    model: Model,
    text: TextBlocks,
    books: dict[Site, Dictionary],
    config: FitConfig,
    folder: Path,
    batch_size: int,
    stage: Stage,
) -> None:
    device = model_device(model)
    todo = [site for site in books if not (folder / str(site) / CONFIG_FILE).is_file()]
    if not todo:
        return
    last = max(site.layer for site in todo)
    stream = LayerStream(
        model, text.tokens, folder / store.WORK, batch_size=batch_size, at_most=min(site.layer for site in todo)
    )
    n_batches = len(stream.batches)
    layers = last - stream.layer + (not config.sequential)
    steps = n_batches * (layers + len(todo) * (2 if config.sequential else 1))
    with stage(f"fitting {len(books)} sites", steps) as done:
        for layer in range(stream.layer, last + 1):
            here = [site for site in books if site.layer == layer]
            seen: dict[Site, list[Tensor]] = {}
            if not config.sequential:
                seen = stream.advance({}, done, tuple(site for site in here if site in todo))
            placed: dict[Site, Dictionary] = {}
            for site in here:
                if site in todo:
                    batches = stream.collect(site, placed, done) if config.sequential else seen.pop(site)
                    _learn(books[site], site, batches, folder, device)
                    done(n_batches)
                else:
                    books[site] = Dictionary.from_pretrained(folder / str(site))
                placed[site] = books[site].to(device)
            if config.sequential and layer < last:
                stream.advance(placed, done)
            stream.step()


class _LayerFitter:
    """A model, and texts that go through it as it is, layer by layer."""

    def __init__(
        self, models: OneModel, spec: str, tokens: Int[Tensor, "block pos"], folder: Path, batch_size: int
    ) -> None:
        self.models, self.spec, self.tokens, self.folder = models, spec, tokens, folder
        self.batch_size = batch_size
        self.stream: LayerStream | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"stream": None}

    def fit(self, layer: int, sites: tuple[str, ...], config: FitConfig, report: JobProgress) -> None:
        """The books of one layer that an earlier process has not fitted."""
        books = new_books(self.models(self.spec), sites, config)
        todo = tuple(site for site in books if not (self.folder / str(site) / CONFIG_FILE).is_file())
        if not todo:
            return
        model, stream = self.models(self.spec), self.stream
        if stream is None or stream.layer > layer:
            shards = self.folder / store.WORK / f"layers-{platform.node()}-{os.getpid()}"  # of this process alone
            stream = LayerStream(model, self.tokens, shards, batch_size=self.batch_size, at_most=0)
            self.stream = stream
        while stream.layer < layer:
            stream.advance({}, lambda _: None)
            stream.step()
        seen = stream.advance({}, lambda _: None, todo)
        stream.step()
        for i, site in enumerate(todo, 1):
            _learn(books[site], site, seen.pop(site), self.folder, model_device(model))
            report.share(i / len(todo))


def fit_parts(
    model: Model,
    sites: Sequence[str],
    text: TextBlocks,
    folder: Path,
    config: FitConfig,
    *,
    batch_size: int = BATCH_SIZE,
    workers: Workers = SERIAL,
    shard: Shard | None = None,
    stage: Stage = silent,
) -> None:
    """Fit independent books layer by layer, a shard its own layers; :func:`fit_codebooks` of the same gathers them.

    Each worker or shard runs the texts through all layers before its last, once: what is shared out is the learning.
    """
    if config.sequential:
        raise InputError("sequential: such books wait for earlier ones; give --independent, or no workers nor shards")
    books = new_books(model, sites, config)
    request = _request(model, text, books, config, batch_size)
    spec = request["model"]["spec"]
    if spec is None:
        raise InputError("a model in memory alone cannot be sent to workers: save it first")
    if store.is_store(folder):
        return
    (folder / store.WORK).mkdir(parents=True, exist_ok=True)
    _begin(folder, request)
    layers: dict[int, list[str]] = {}
    for site in books:
        layers.setdefault(site.layer, []).append(str(site))
    jobs = deque(
        Job(f"layer {layer}", _LayerFitter.fit, (layer, tuple(sites_here), config), (spec,), len(sites_here))
        for i, (layer, sites_here) in enumerate(sorted(layers.items()))
        if shard is None or shard.takes(i)
    )
    models = OneModel(model)
    fitter = _LayerFitter(models, spec, text.tokens, folder, batch_size)
    log = folder / ("log.jsonl" if shard is None else f"log-{shard.number}-of-{shard.of}.jsonl")
    with stage(f"fitting {len(books)} sites", sum(job.steps for job in jobs)) as advance:
        for _, outcome in run(fitter, jobs, workers=workers, advance=advance, log=log):
            if isinstance(outcome, InputError):
                raise outcome


def _learn(book: Dictionary, site: Site, batches: list[Tensor], folder: Path, device: torch.device) -> None:
    """Fit to the vectors, count on them how often each code is used, and write the book."""
    try:
        _fit_to(book, batches, device)
    except InputError as error:
        raise InputError(f"{site}: {error}") from None
    for batch in batches:
        book.count_text(book.encode(batch.to(device)).ids)
    book._save_pretrained(folder / str(site))


def _fit_to(book: Dictionary, batches: list[Tensor], device: torch.device) -> None:
    size = sum(batch.numel() for batch in batches) * 4
    book.to(device)
    if size <= IN_MEMORY:
        book.fit(torch.cat(batches).to(device))
        return
    if (partial_fit := getattr(book, "partial_fit", None)) is None:
        most = f"a {book.kind} sees all at once, at most {IN_MEMORY / 2**30:.0f} GiB"
        raise InputError(f"{size / 2**30:.1f} GiB of vectors: {most}; give fewer tokens")
    # the first step of k-means needs a vector for every code
    least, waiting = book.codes.numel(), list[Tensor]()
    for i, batch in enumerate(batches, 1):
        waiting.append(batch)
        if i == len(batches) or sum(part.numel() for part in waiting) >= least:
            partial_fit(torch.cat(waiting).to(device))
            waiting = []


def _new_book(model: Model, site: Site, config: FitConfig) -> Dictionary:
    cfg = model.cfg
    per_head = site.kind == "attn"
    by_output = per_head and config.by_output
    cls: Any = bottleneck_class(config.kind)
    size: dict[str, Any] = {
        "d_in": cfg.d_head if per_head else cfg.d_model,
        "groups": cfg.n_heads if per_head and site.head is None else 1,
        "seed": config.seed,
    }
    if config.kind == "codebook":
        cls = MetricCodebook if by_output else Codebook
        values = {name: getattr(config, name) for name in ("n_codes", "k", "selection", "magnitude")}
        book = cls(CodebookConfig(**size, **values))
    else:
        book = cls(new_config(cls, size, config.bits, config.options))
    compare_by = getattr(book, "compare_by", None)
    if not by_output or compare_by is None:
        return book
    weights = model.blocks[site.layer].attn.W_O.detach().float().cpu()
    return compare_by(weights if site.head is None else weights[site.head, None])


def new_config(
    cls: type[Dictionary], size: Mapping[str, int], bits: int | None = None, options: Mapping[str, Any] | None = None
) -> Any:
    """A kind's config of about so many bits a vector, or with its own default size; ``size`` is d_in, groups, seed."""
    options = options or {}
    known = {part.name: part for part in fields(cls.config_class) if part.name not in size}
    for name in options:
        if name not in known:
            raise InputError(f"option {name!r}: a {cls.kind} has {', '.join(known)}")
    values = {name: parse_field(name, str(value), known[name]) for name, value in options.items()}
    if bits is None:
        return cls.config_class(**size, **values)
    if not hasattr(cls.config_class, "at"):
        raise InputError(f"{bits} bits: a {cls.kind} has no size by bits; set its options instead")
    return cls.config_class.at(bits, **size, **values)


def _request(
    model: Model, text: TextBlocks, books: Mapping[Site, Dictionary], config: FitConfig, batch_size: int
) -> dict[str, Any]:
    """What the books depend on, as JSON values."""
    fit = {**asdict(config), "batch_size": batch_size}
    if config.kind == "codebook":  # as it was before there were others
        fit = {name: value for name, value in fit.items() if name not in ("kind", "bits", "options")}
    else:
        book_config = next(iter(books.values())).config
        fit |= {"k": book_config.k, "n_codes": book_config.n_codes}
        fit |= {"selection": config.kind, "magnitude": "unit"}
    return {
        "model": store.model_identity(model),
        "sites": [str(place) for place in books],
        "fit": fit,
        "text": store.describe_text(text),
    }
