"""Building an index: the corpus through the model once, codes to disk as they come; a killed build goes on.

Batches are written straight to their place in the file of ids. What is gathered over all of them (best contexts,
histograms) is saved every half minute together with how far it goes; a build that starts again repeats from there,
with the same result, bit for bit.

On workers the text is cut into parts, each of which is built in the same way in a folder of its own. Parts are whole
batches of the whole text, so that joined in their order they are the same index, bit for bit.
"""

import contextlib
import importlib.metadata
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from interp.bottlenecks import Dictionary
from interp.bottlenecks.attach import attach, groups_at
from interp.bottlenecks.base import NO_CODE
from interp.bottlenecks.store import (
    Codebooks,
    check_request,
    codebooks_fingerprint,
    describe_text,
    model_identity,
)
from interp.codesearch.corpus import read_corpus
from interp.codesearch.firing_stats import EVERY, FiringStatsWrapper, Gathered, pack_counts
from interp.codesearch.index import (
    CORPUS,
    FORMAT,
    IDS,
    MANIFEST,
    CodeIndex,
    NoIndexError,
    count_and_list,
    save_array,
    span_of,
)
from interp.codesearch.layout import Book, IdFile, Layout, names_of_groups, without_repeats
from interp.errors import InputError
from interp.executor import SERIAL, Job, Shard, Told, Workers, run
from interp.files import atomic_path, read_json, write_json
from interp.models import Model, OneModel, hooked, model_device, resolve_site
from interp.progress import Stage, counted, silent
from interp.text import TextBlocks
from interp.text.special import between, first_token

BATCH_SIZE = 32
SAVE_SECONDS = 30.0
WORK, STATE, LOCK = ".work", "state.safetensors", "lock"


def build_index(
    model: Model,
    books: Mapping[str, Dictionary],
    text: TextBlocks,
    folder: Path,
    *,
    error_term: bool = True,
    batch_size: int = BATCH_SIZE,
    save_seconds: float = SAVE_SECONDS,
    turn: Callable[[], AbstractContextManager] = contextlib.nullcontext,
    stage: Stage = silent,
) -> CodeIndex:
    """Index the codes of a text; at once done where the folder holds this very index.

    Args:
        books: by site. Of :class:`~interp.bottlenecks.store.Codebooks` the index notes the folder, so that it can show
            their vectors by itself.
        error_term: codes of the plain model's activations, as steering reads them; without it every book is spliced in
            and later ones see what the earlier ones leave.
        batch_size: blocks of text per forward pass.
        save_seconds: work that a killed build loses at most.
        turn: held during each forward pass; a lock, where others use the model meanwhile.

    Raises:
        InputError: no books, or a folder that holds another index or another one's beginnings, or that another
            process is building in.
    """
    folder, request = Path(folder), _request(model, books, text, error_term)
    if text.sources is not None:
        text = _by_source(text)
    at = getattr(books, "folder", None)
    where = None if at is None else str(at.absolute())
    if (folder / MANIFEST).exists():
        return _finished(folder, request, where)
    layout = Layout(tuple(_books(model, books)), text.n_tokens)
    work = folder / WORK
    with _alone(work):
        if (folder / MANIFEST).exists():  # by another process, meanwhile
            shutil.rmtree(work, ignore_errors=True)
            return _finished(folder, request, where)
        _note(work, folder, request)
        gathered = _joined(work, text, layout, batch_size)
        if gathered is None:
            _begin(work, folder, layout)
            options = (layout, work, error_term, batch_size, save_seconds, turn, stage)
            gathered = _run(model, books, text.tokens, *options)
        corpus = read_corpus(
            text.tokens.cpu().numpy(),
            model.tokenizer,
            model.cfg.d_vocab,
            first_token(model.tokenizer),
            between(model.tokenizer),
            None if text.sources is None else text.sources.numpy(),
        )
        ids = IdFile.open(work / IDS, layout)
        request["books"] = {**request["books"], "folder": where}
        return finish(folder, ids, corpus, gathered, request, stage)


def _request(
    model: Model, books: Mapping[str, Dictionary], text: TextBlocks, error_term: bool
) -> dict[str, Any]:
    """What an index depends on, as JSON values."""
    if not books:
        raise InputError("no codebooks to index")
    return {
        "model": model_identity(model),
        "books": {
            "fingerprint": codebooks_fingerprint(books),
            "sites": list(books),
            "configs": {site: asdict(book.config) for site, book in books.items()},
        },
        "text": describe_text(text),
        "error_term": error_term,
    }


def _by_source(text: TextBlocks) -> TextBlocks:
    """Blocks of one source behind those of another, so that documents are whole."""
    assert text.sources is not None
    order = torch.argsort(text.sources, stable=True)
    return replace(text, tokens=text.tokens[order], sources=text.sources[order])


def _finished(folder: Path, request: Mapping[str, Any], where: str | None) -> CodeIndex:
    """The index that is there, if it is what is asked for; where its codebooks have moved to is noted."""
    try:
        done = CodeIndex.open(folder)
    except NoIndexError as error:
        raise InputError(f"{error}: choose another folder") from None
    except InputError as error:
        raise InputError(f"{error} (delete the folder {folder} to build it anew)") from None
    done.check_request(request)
    known = done.manifest["books"]
    if where is not None and known.get("folder") != where:
        write_json(folder / MANIFEST, {**done.manifest, "books": {**known, "folder": where}})
        done = CodeIndex.open(folder)
    return done


def finish(
    folder: Path,
    ids: IdFile,
    corpus: Any,
    gathered: Gathered,
    request: Mapping[str, Any],
    stage: Stage = silent,
) -> CodeIndex:
    """Write everything beside the ids, move these into place, and the manifest last.

    Args:
        ids: complete, at ``folder/.work``.
        request: ``model``, ``books``, ``text``, ``error_term``.
    """
    layout = ids.layout
    span = span_of(layout)
    counts, lists = count_and_list(ids, span, stage)
    arrays = {
        **{name: getattr(corpus, name) for name in CORPUS},
        "counts": counts,
        "lists": lists,
        "top_token": gathered.token,
        "top_similarity": gathered.similarity.astype(np.float16),
        "top_margin": gathered.margin.astype(np.float16),
        "histogram": pack_counts(gathered.histogram),
    }
    for name, array in arrays.items():
        save_array(folder / f"{name}.npy", array)
    (folder / WORK / IDS).replace(folder / IDS)
    write_json(
        folder / MANIFEST,
        {
            "format": FORMAT,
            **request,
            "context": corpus.context,
            "n_tokens": layout.n_tokens,
            "span": span,
            "layout": [[b.name, b.site, b.group, b.vectors, b.n_codes, b.k] for b in layout.books],
            "bytes": {path.name: path.stat().st_size for path in sorted(folder.glob("*.npy"))},
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformer-lens")},
        },
    )
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return CodeIndex.open(folder)


def _books(model: Model, books: Mapping[str, Dictionary]) -> list[Book]:
    found = []
    for name, book in books.items():
        site, config = resolve_site(model, name), book.config
        for group, part in enumerate(names_of_groups(str(site), groups_at(model, site, book))):
            vectors = group if config.groups > 1 else 0
            found.append(Book(part, str(site), group, vectors, config.n_codes, config.k))
    return found


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Two builds in one folder would write each other's files."""
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / LOCK, timeout=0):
            yield
    except Timeout:
        raise InputError(f"{work.parent} is being built by another process: wait for it") from None


def _note(work: Path, folder: Path, request: Mapping[str, Any]) -> None:
    """Say in the folder what is built there, unless it is something else."""
    path = work / "request.json"
    if path.exists():
        try:
            stored = read_json(path)
            begun = {key: stored[key] for key in request}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"{path} is damaged, or of another command: delete the folder {folder} to start again"
            ) from None
        check_request(folder, begun, request, made="an index")
    write_json(path, request)


def _begin(work: Path, folder: Path, layout: Layout) -> None:
    if not (work / IDS).exists() and (work / STATE).exists() and (folder / IDS).exists():
        (folder / IDS).replace(work / IDS)  # killed after the ids were put in place and before the manifest
    if not (work / IDS).exists():
        (work / STATE).unlink(missing_ok=True)
        IdFile.create(work / f"{IDS}.new", layout)
        (work / f"{IDS}.new").replace(work / IDS)


MOST_PART, PARTS = 2**17, 8
"""Tokens of a part at most, and parts of a smaller text."""


def _parts(text: TextBlocks, batch_size: int) -> list[range]:
    """The blocks of each part, whole batches."""
    n_blocks, context = text.tokens.shape
    wanted = min(-(-n_blocks // PARTS), max(1, MOST_PART // context))
    size = -(-wanted // batch_size) * batch_size
    return [range(begin, min(begin + size, n_blocks)) for begin in range(0, n_blocks, size)]


def _folder_of(work: Path, part: range) -> Path:
    return work / f"part-{part.start}-{part.stop}"


class _Desk:
    """A model and its codebooks."""

    def __init__(self, models: OneModel) -> None:
        self.models, self._known = models, ("", "")
        self._books: Codebooks | None = None

    def books(self, spec: str, folder: str, fingerprint: str, k: int | None) -> Mapping[str, Dictionary]:
        if self._known != (folder, fingerprint):
            books = Codebooks.from_pretrained(folder, self.models(spec), k=k)
            if codebooks_fingerprint(books) != fingerprint:
                raise InputError(f"{folder}: the codebooks there are not those of the index")
            self._known, self._books = (folder, fingerprint), books
        assert self._books is not None
        return self._books


def _run(
    model: Model,
    books: Mapping[str, Dictionary],
    tokens: Int[Tensor, "block pos"],
    layout: Layout,
    work: Path,
    error_term: bool,
    batch_size: int,
    save_seconds: float,
    turn: Callable[[], AbstractContextManager],
    stage: Stage,
) -> Gathered:
    """All batches that an earlier process has not done."""
    ids = IdFile.open(work / IDS, layout, write=True)
    gathered, done = _restored(work / STATE, layout.n_codes)
    wrappers = {site: FiringStatsWrapper(book) for site, book in books.items()}
    context = tokens.shape[1]
    saved = time.monotonic()
    device = model_device(model)
    with torch.no_grad(), stage("reading codes", len(tokens)) as progress:
        progress(done)
        while done < len(tokens):
            batch = tokens[done : done + batch_size]
            # nobody reads the logits
            with (
                turn(),
                hooked(model, {"unembed.hook_in": lambda x: x[:1, -1:]}),
                attach(model, wrappers, error_term=error_term),
            ):
                model(batch.to(device))
            _store(wrappers, layout, ids, gathered, done * context)
            done += len(batch)
            if time.monotonic() - saved >= save_seconds or done == len(tokens):
                ids.flush()
                with atomic_path(work / STATE) as temporary:
                    save_file({**gathered.state(), "done": np.array([done])}, temporary)
                saved = time.monotonic()
            progress(len(batch))
    return gathered


def build_parts(
    model: Model,
    books: Codebooks,
    text: TextBlocks,
    folder: Path,
    *,
    error_term: bool = True,
    batch_size: int = BATCH_SIZE,
    workers: Workers = SERIAL,
    shard: Shard | None = None,
    stage: Stage = silent,
) -> None:
    """Build the parts of an index, of a shard its own; :func:`build_index` of the same joins them.

    Args:
        model: loaded by its spec, as workers load it anew; ``books`` from their folder.

    Raises:
        InputError: as of :func:`build_index`; a model or books in memory alone.
    """
    request = _request(model, books, text, error_term)
    spec = request["model"]["spec"]
    if spec is None or books.folder is None:
        raise InputError("codebooks or a model in memory alone cannot be sent to workers: save them first")
    if (folder / MANIFEST).exists():
        return
    _note(folder / WORK, folder, request)
    if text.sources is not None:
        text = _by_source(text)
    ks = {book.config.k for book in books.values()}
    wanted = (
        str(books.folder.absolute()),
        request["books"]["fingerprint"],
        ks.pop() if len(ks) == 1 else None,
    )
    layout, jobs = tuple(_books(model, books)), deque[Job]()
    for i, part in enumerate(_parts(text, batch_size)):
        if shard is None or shard.takes(i):
            tokens = text.tokens[part.start : part.stop].clone()  # a view would be sent with all behind it
            args = (spec, *wanted, layout, error_term, tokens, _folder_of(folder / WORK, part), batch_size)
            jobs.append(Job(f"blocks {part.start} to {part.stop}", build_part, args, (spec,), len(part)))
    log = folder / ("log.jsonl" if shard is None else f"log-{shard.number}-of-{shard.of}.jsonl")
    desk = _Desk(OneModel(model, dtype=str(model.cfg.dtype).removeprefix("torch.")))
    with stage("reading codes", sum(job.steps for job in jobs)) as advance:
        for _, found in run(desk, jobs, workers=workers, advance=advance, log=log):
            if isinstance(found, InputError):
                raise found


def build_part(
    desk: _Desk,
    spec: str,
    where: str,
    fingerprint: str,
    k: int | None,
    books: tuple[Book, ...],
    error_term: bool,
    tokens: Int[Tensor, "block pos"],
    folder: Path,
    batch_size: int,
    told: Told,
) -> None:
    """The ids, and what is gathered, of some blocks, in a folder of their own; goes on where it stopped."""
    layout, model = Layout(books, tokens.numel()), desk.models(spec)
    _begin(folder, folder / WORK, layout)

    @contextlib.contextmanager
    def stage(_name: str, total: int) -> Iterator[Callable[..., None]]:
        yield counted(told.share, total)

    found = desk.books(spec, where, fingerprint, k)
    options = (layout, folder, error_term, batch_size, SAVE_SECONDS, contextlib.nullcontext, stage)
    _run(model, found, tokens, *options)


def _joined(work: Path, text: TextBlocks, layout: Layout, batch_size: int) -> Gathered | None:
    """What all parts gathered, their ids behind each other at ``work``; ``None`` if some is not finished."""
    context, parts = text.tokens.shape[1], _parts(text, batch_size)
    states = {part: _folder_of(work, part) / STATE for part in parts}
    if not all(path.is_file() for path in states.values()):
        return None
    found = {part: _restored(path, layout.n_codes) for part, path in states.items()}
    if any(done < len(part) for part, (_, done) in found.items()):
        return None
    (work / STATE).unlink(missing_ok=True)  # of a build that was begun in another way
    ids, whole = IdFile.create(work / IDS, layout), Gathered(layout.n_codes)
    for part, (gathered, _) in found.items():
        own = Layout(layout.books, len(part) * context)
        its = IdFile.open(_folder_of(work, part) / IDS, own)
        for i in range(len(layout.books)):
            ids.write(i, part.start * context, its.rows(i, np.arange(own.n_tokens)).astype(np.int64))
        whole.merge(gathered, part.start * context)
    ids.flush()
    return whole


def _store(
    wrappers: Mapping[str, FiringStatsWrapper], layout: Layout, ids: IdFile, gathered: Gathered, start: int
) -> None:
    """Write what one batch chose; ``start`` is its first token."""
    for i, book in enumerate(layout.books):
        found, similarity, margin, whole, sampled = wrappers[book.site].seen
        config = wrappers[book.site].config
        n_groups = sum(other.site == book.site for other in layout.books)
        # where heads share a dictionary they lie among the rows
        own = (slice(None), book.group) if config.groups > 1 else (slice(book.group, None, n_groups), 0)
        chosen, near, ahead, direct, others = (
            part[own].cpu().numpy() for part in (found, similarity, margin, whole, sampled)
        )
        ids.write(i, start, chosen)
        token, slot = np.nonzero(without_repeats(chosen, NO_CODE) >= 0)
        begin = int(layout.codes[i])
        every = (part[token, slot] for part in (near, ahead, direct))
        gathered.add(begin + chosen[token, slot], start + token, *every)
        gathered.add_silent(begin, others, chosen[::EVERY])


def _restored(path: Path, n_codes: int) -> tuple[Gathered, int]:
    """What was gathered, and the blocks that are done."""
    gathered = Gathered(n_codes)
    try:
        state = load_file(path)
        done = int(state.pop("done")[0])
        gathered.restore(state)
    except (SafetensorError, KeyError, ValueError, OSError):  # damaged, or not there
        return Gathered(n_codes), 0
    return gathered, done
