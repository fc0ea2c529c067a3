"""Fitting codebooks at many sites of a model from text, by k-means alone: no gradient, no training loop.

Two ways, see :class:`FitConfig`:

* ``sequential``: each book is fitted to what its site carries once all earlier books stand in the model, so that it
  knows the errors that reach it. For books that will be attached together.
* independent: each book is fitted to what its site carries in the plain model. For books attached one at a time.

The texts go through the model layer by layer (:mod:`interp.bottlenecks.layer_stream`): nothing of the size of all
sites' activations ever exists, and a killed run loses one site's work at most.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from interp.bottlenecks.base import load_bottleneck
from interp.bottlenecks.book_folder import (
    REQUEST_FILE,
    WORK,
    BookFolder,
    begin_request,
    check_request,
    describe_text,
    model_identity,
)
from interp.bottlenecks.codebook import Codebook, CodebookConfig
from interp.bottlenecks.codebook_config import Selection
from interp.bottlenecks.layer_stream import LayerStream
from interp.bottlenecks.metric_codebook import MetricCodebook
from interp.files import read_json, write_json
from interp.models import Model, Site, expand_sites, model_device
from interp.progress import Stage, silent
from interp.tasks.errors import InputError, check_fields
from interp.text import TextBlocks

IN_MEMORY = 2 * 2**30
"""Bytes of one site's vectors up to which k-means sees all of them at once; above, batch after batch."""
BATCH_SIZE = 32
"""Blocks per forward pass: 2048 tokens at a context of 64."""


@dataclass(frozen=True)
class FitConfig:
    """
    Attributes:
        n_codes: codes per book, and per head where the site is a layer's heads.
        k: codes per vector.
        selection: see :class:`~interp.bottlenecks.codebook.CodebookConfig`, as ``magnitude``.
        sequential: see the module's docstring.
        by_output: compare and fit a head's vectors by what W_O makes of them.
        seed: of k-means.
    """

    n_codes: int = 512
    k: int = 8
    selection: Selection = "residual"
    magnitude: Literal["dropped", "kept"] = "dropped"
    sequential: bool = True
    by_output: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)


def fit_codebooks(
    model: Model,
    text: TextBlocks,
    sites: Sequence[str],
    folder: Path,
    config: FitConfig | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    stage: Stage = silent,
) -> BookFolder:
    """Fit one codebook per site and write them to ``folder``; goes on where a killed run of the same request stopped.

    Args:
        sites: patterns of :func:`interp.models.expand_sites`: ``heads``, ``mlps``, ``a*``, ``r4``, …
        batch_size: blocks per forward pass.

    Raises:
        InputError: no such site; fewer vectors than codes; a folder that holds other books, or that another process is
            filling.
    """
    config = config or FitConfig()
    folder = Path(folder)
    books = new_books(model, sites, config)
    if text.n_tokens < config.n_codes:
        raise InputError(
            f"{text.n_tokens} tokens for {config.n_codes} codes: give at least one token per code"
        )
    request = _request(model, text, list(books), config, batch_size)
    if BookFolder.exists(folder):
        found = BookFolder.open(folder)
        for part, kind in (("storage", "packed"), ("training", "trained")):
            if part in found.manifest:
                raise InputError(f"{folder} holds {kind} codebooks: write the fitted ones to another folder")
        check_request(folder, found.manifest, _in_batches_of(found.manifest, request))
        shutil.rmtree(folder / WORK, ignore_errors=True)  # of a run that was killed while it cleared up
        return found
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / WORK / "lock", timeout=0):
            _begin(folder, request)
            _fit(model, text, books, config, folder, batch_size, stage)
            return BookFolder.finish(folder, request, leftovers=folder / WORK)
    except Timeout:
        raise InputError(f"{folder}: another process is fitting codebooks there") from None


def _in_batches_of(begun: Mapping[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """The request with the batch size that was begun with: no part of what is asked for."""
    return request | {"fit": request["fit"] | {"batch_size": begun["fit"].get("batch_size")}}


def _begin(folder: Path, request: dict[str, Any]) -> None:
    """Note or check the request; after another batch size, as where memory was short, the streams are made again."""
    path = folder / WORK / REQUEST_FILE
    try:
        begun = read_json(path)
        other = begun["fit"]["batch_size"] != request["fit"]["batch_size"]
    except (OSError, ValueError, KeyError, TypeError):
        # nothing was begun, or what follows tells what is wrong
        other = False
    if other:
        check_request(folder, begun, _in_batches_of(begun, request))
        for shards in (folder / WORK).glob("layer*"):
            shutil.rmtree(shards)
        write_json(path, request)
    begin_request(folder, request)


def new_books(model: Model, sites: Sequence[str], config: FitConfig) -> dict[Site, Codebook]:
    """Codebooks that have seen nothing yet, one a site.

    Raises:
        InputError: no such site, or a config that cannot be.
    """
    places = expand_sites(model, sites)
    if not places:
        raise InputError("no site: name some, such as heads, mlps, a*, m5")
    return {place: _new_book(model, place, config) for place in places}


def _fit(
    model: Model,
    text: TextBlocks,
    books: dict[Site, Codebook],
    config: FitConfig,
    folder: Path,
    batch_size: int,
    stage: Stage,
) -> None:
    device = model_device(model)
    todo = [site for site in books if not BookFolder.has_book(folder, site)]
    if not todo:
        return
    last = max(site.layer for site in todo)
    stream = LayerStream(
        model, text.tokens, folder / WORK, batch_size=batch_size, at_most=min(site.layer for site in todo)
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
            placed: dict[Site, Codebook] = {}
            for site in here:
                if site in todo:
                    found = stream.collect(site, placed, done) if config.sequential else seen.pop(site)
                    try:
                        _learn(books[site], found, device)
                    except InputError as error:
                        raise InputError(f"{site}: {error}") from None
                    books[site].save(BookFolder.book(folder, site))
                    done(n_batches)
                else:
                    books[site] = load_bottleneck(BookFolder.book(folder, site))
                placed[site] = books[site].to(device)
            if config.sequential and layer < last:
                stream.advance(placed, done)
            stream.step()


def _learn(book: Codebook, batches: list[Tensor], device: torch.device) -> None:
    """k-means on the vectors; then count on them how often each code is used."""
    size = sum(batch.numel() for batch in batches) * 4
    if size <= IN_MEMORY:
        book.to(device).fit(torch.cat(batches).to(device))
    else:
        for shard in _shards(batches, book.config.n_codes * book.config.d_in * book.config.groups):
            book.to(device).partial_fit(shard.to(device))
    for batch in batches:
        book.count_text(book.encode(batch.to(device)).ids)


def _shards(batches: list[Tensor], least: int) -> Iterator[Tensor]:
    """The batches, as many joined as hold so many numbers: the first step of k-means needs a vector for every code."""
    waiting: list[Tensor] = []
    for batch in batches:
        waiting.append(batch)
        if sum(batch.numel() for batch in waiting) >= least:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)


def _new_book(model: Model, site: Site, config: FitConfig) -> Codebook:
    cfg = model.cfg
    per_head = site.kind == "attn"
    book_config = CodebookConfig(
        d_in=cfg.d_head if per_head else cfg.d_model,
        n_codes=config.n_codes,
        k=config.k,
        groups=cfg.n_heads if per_head and site.head is None else 1,
        selection=config.selection,
        magnitude=config.magnitude,
        seed=config.seed,
    )
    if not (per_head and config.by_output):
        return Codebook(book_config)
    weights = model.blocks[site.layer].attn.W_O.detach().float().cpu()
    return MetricCodebook(book_config).compare_by(weights if site.head is None else weights[site.head, None])


def _request(
    model: Model, text: TextBlocks, places: list[Site], config: FitConfig, batch_size: int
) -> dict[str, Any]:
    """What the books depend on, as JSON values."""
    return {
        "model": model_identity(model),
        "sites": [str(place) for place in places],
        "fit": {**asdict(config), "batch_size": batch_size},
        "text": describe_text(text),
    }
