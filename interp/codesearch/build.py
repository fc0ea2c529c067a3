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
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from jaxtyping import Int, UInt8, UInt32
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from interp.bottlenecks import Dictionary
from interp.bottlenecks.attach import attach, groups_at
from interp.bottlenecks.base import NO_CODE
from interp.bottlenecks.store import Codebooks, check_request, codebooks_fingerprint, describe_text, model_identity
from interp.codesearch.corpus import Corpus, read_corpus
from interp.codesearch.firing_stats import EVERY, FiringStatsWrapper, Gathered, pack_counts
from interp.codesearch.layout import (
    CORPUS,
    FORMAT,
    IDS,
    MANIFEST,
    Book,
    IdFile,
    Layout,
    names_of_groups,
    span_of,
    without_repeats,
)
from interp.codesearch.looks import LOOKS, LooksReader, looks_layout
from interp.errors import InputError
from interp.executor import SERIAL, Job, JobProgress, Shard, Workers, run
from interp.files import atomic_path, read_json, write_json
from interp.models import Model, OneModel, hooked, model_device, resolve_site
from interp.progress import Stage, counted, silent
from interp.text import TextBlocks

BATCH_SIZE = 32
SAVE_SECONDS = 30.0
WORK, STATE, LOCK = ".work", "state.safetensors", "lock"


def request_of(model: Model, books: Mapping[str, Dictionary], text: TextBlocks, error_term: bool) -> dict[str, Any]:
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


def folder_of(books: Mapping[str, Dictionary]) -> str | None:
    """Where codebooks lie, if they are not in memory alone."""
    folder = getattr(books, "folder", None)
    return None if folder is None else str(folder.absolute())


@dataclass(frozen=True)
class BuildOptions:
    """See :func:`~interp.codesearch.index.build_index`."""

    error_term: bool
    batch_size: int = BATCH_SIZE
    save_seconds: float = SAVE_SECONDS
    turn: Callable[[], AbstractContextManager] = contextlib.nullcontext
    stage: Stage = silent


def write_index(
    model: Model,
    books: Mapping[str, Dictionary],
    text: TextBlocks,
    folder: Path,
    request: Mapping[str, Any],
    options: BuildOptions,
) -> None:
    """Fill a folder, see :func:`~interp.codesearch.index.build_index`; nothing is done where another process did."""
    text = _by_source(text)
    layout, work = Layout(_books(model, books), text.n_tokens), folder / WORK
    with _alone(work):
        if (folder / MANIFEST).exists():  # by another process, meanwhile
            shutil.rmtree(work, ignore_errors=True)
            return
        _note(work, request)
        gathered = _joined(work, text, layout, options.batch_size)
        if gathered is None:
            for name in (IDS, LOOKS):
                if not (work / name).exists() and (work / STATE).exists() and (folder / name).exists():
                    (folder / name).replace(work / name)  # killed after it was put in place
            gathered = _run(model, books, text.tokens, layout, work, options)
        sources = None if text.sources is None else text.sources.numpy()
        corpus = read_corpus(text.tokens.cpu().numpy(), model.tokenizer, model.cfg.d_vocab, sources)
        made = {**request, "books": {**request["books"], "folder": folder_of(books)}}
        finish(folder, IdFile.open(work / IDS, layout), corpus, gathered, made, options.stage)


def _by_source(text: TextBlocks) -> TextBlocks:
    """Blocks of one source behind those of another, so that documents are whole."""
    if text.sources is None:
        return text
    order = torch.argsort(text.sources, stable=True)
    return replace(text, tokens=text.tokens[order], sources=text.sources[order])


def finish(
    folder: Path, ids: IdFile, corpus: Corpus, gathered: Gathered, request: Mapping[str, Any], stage: Stage = silent
) -> None:
    """Write everything beside the ids, move these into place, and write the manifest last. ``ids``: complete, at
    ``folder/.work``. ``request``: as of :func:`request_of`, and the folder of the books."""
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
        with atomic_path(folder / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    for name in (LOOKS, IDS):
        if (folder / WORK / name).exists():
            (folder / WORK / name).replace(folder / name)
    write_json(
        folder / MANIFEST,
        {
            "format": FORMAT,
            **request,
            "context": corpus.context,
            "n_tokens": layout.n_tokens,
            "span": span,
            "layout": [astuple(book) for book in layout.books],
            "bytes": {path.name: path.stat().st_size for path in sorted(folder.glob("*.npy"))},
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformer-lens")},
        },
    )
    shutil.rmtree(folder / WORK, ignore_errors=True)


def count_and_list(
    ids: IdFile, span: int, stage: Stage = silent
) -> tuple[UInt32[np.ndarray, " code"], UInt8[np.ndarray, "code byte"]]:
    """How many tokens carry each code, and the packed list of each code's spans."""
    counts, lists = [], []
    with stage("listing codes", len(ids.layout.books)) as done:
        for i, book in enumerate(ids.layout.books):
            view = ids.book(i)
            count, present = np.zeros(book.n_codes, np.uint32), []
            for begin in range(0, len(view), span):
                in_span = np.bincount(view[begin : begin + span].ravel(), minlength=book.n_codes + 1)[:-1]
                count += in_span.astype(np.uint32)
                present.append(in_span > 0)
            counts.append(count)
            lists.append(np.packbits(np.array(present).T, axis=1))
            done(1)
    return np.concatenate(counts), np.concatenate(lists)


def _books(model: Model, books: Mapping[str, Dictionary]) -> tuple[Book, ...]:
    entries = []
    for name, book in books.items():
        site, config = resolve_site(model, name), book.config
        for group, part in enumerate(names_of_groups(str(site), groups_at(model, site, book))):
            vectors = group if config.groups > 1 else 0
            entries.append(Book(part, str(site), group, vectors, config.n_codes, config.k))
    return tuple(entries)


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Two builds in one folder would write each other's files."""
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / LOCK, timeout=0):
            yield
    except Timeout:
        raise InputError(f"{work.parent} is being built by another process: wait for it") from None


def _note(work: Path, request: Mapping[str, Any]) -> None:
    """Say in the folder what is built there, unless it is something else."""
    path = work / "request.json"
    if path.exists():
        try:
            stored = read_json(path)
            begun = {key: stored[key] for key in request}
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                f"{path} is damaged, or of another command: delete the folder {work.parent} to start again"
            ) from None
        check_request(work.parent, begun, request, made="an index")
    write_json(path, request)


MOST_PART, PARTS = 2**17, 8  # tokens of a part at most, and parts of a smaller text


def _parts(work: Path, text: TextBlocks, batch_size: int) -> dict[Path, range]:
    """The blocks of each part, whole batches, by its folder."""
    n_blocks, context = text.tokens.shape
    wanted = min(-(-n_blocks // PARTS), max(1, MOST_PART // context))
    size = -(-wanted // batch_size) * batch_size
    parts = (range(begin, min(begin + size, n_blocks)) for begin in range(0, n_blocks, size))
    return {work / f"part-{part.start}-{part.stop}": part for part in parts}


@dataclass(frozen=True)
class _Source:
    """What a worker reads codes by: the model's spec, and codebooks by folder, fingerprint and k."""

    spec: str
    folder: str
    fingerprint: str
    k: int | None


class _IndexWorker:
    """A model and its codebooks, loaded once a process."""

    def __init__(self, models: OneModel) -> None:
        self.models = models
        self._books: dict[_Source, Codebooks] = {}

    def books(self, source: _Source) -> Codebooks:
        if source not in self._books:
            books = Codebooks.from_pretrained(source.folder, self.models(source.spec), k=source.k)
            if codebooks_fingerprint(books) != source.fingerprint:
                raise InputError(f"{source.folder}: the codebooks there are not those of the index")
            self._books = {source: books}
        return self._books[source]


def _run(
    model: Model,
    books: Mapping[str, Dictionary],
    tokens: Int[Tensor, "block pos"],
    layout: Layout,
    work: Path,
    options: BuildOptions,
) -> Gathered:
    """All batches that an earlier process has not done."""
    context = tokens.shape[1]
    files = {IDS: layout} | ({LOOKS: looked} if (looked := looks_layout(layout, context)) else {})
    if not all((work / name).exists() for name in files):
        (work / STATE).unlink(missing_ok=True)
        for name, part in files.items():
            IdFile.create(work / f"{name}.new", part)
            (work / f"{name}.new").replace(work / name)
    ids = IdFile.open(work / IDS, layout, write=True)
    looks = IdFile.open(work / LOOKS, looked, write=True) if looked else None
    reader = LooksReader(looked) if looked else None
    gathered, done = _restored(work / STATE, layout.n_codes)
    wrappers = {site: FiringStatsWrapper(book) for site, book in books.items()}
    saved = time.monotonic()
    with torch.no_grad(), options.stage("reading codes", len(tokens)) as progress:
        progress(done)
        while done < len(tokens):
            batch = tokens[done : done + options.batch_size]
            # nobody reads the logits
            with (
                options.turn(),
                hooked(model, {"unembed.hook_in": lambda x: x[:1, -1:], **(reader.hooks if reader else {})}),
                attach(model, wrappers, error_term=options.error_term),
            ):
                model(batch.to(model_device(model)))
            _store(wrappers, ids, gathered, done * context)
            if reader and looks:
                reader.store(looks, done * context)
            done += len(batch)
            if time.monotonic() - saved >= options.save_seconds or done == len(tokens):
                ids.flush()
                if looks:
                    looks.flush()
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
    """Build the parts of an index, of a shard its own; :func:`~interp.codesearch.index.build_index` of the same joins
    them. Workers load the model anew by its spec, and the books from their folder."""
    request, work = request_of(model, books, text, error_term), folder / WORK
    spec, fingerprint = request["model"]["spec"], request["books"]["fingerprint"]
    if spec is None or (books_folder := folder_of(books)) is None:
        raise InputError("codebooks or a model in memory alone cannot be sent to workers: save them first")
    if (folder / MANIFEST).exists():
        return
    _note(work, request)
    text = _by_source(text)
    ks = {book.config.k for book in books.values()}
    source = _Source(spec, books_folder, fingerprint, ks.pop() if len(ks) == 1 else None)
    layout, jobs = _books(model, books), deque[Job]()
    options = BuildOptions(error_term, batch_size)
    for i, (place, part) in enumerate(_parts(work, text, batch_size).items()):
        if shard is None or shard.takes(i):
            tokens = text.tokens[part.start : part.stop].clone()  # a view would be sent with all behind it
            args = (source, layout, tokens, place, options)
            jobs.append(Job(f"blocks {part.start} to {part.stop}", _build_part, args, (spec,), len(part)))
    log = folder / ("log.jsonl" if shard is None else f"log-{shard.number}-of-{shard.of}.jsonl")
    with stage("reading codes", sum(job.steps for job in jobs)) as advance:
        worker = _IndexWorker(OneModel(model))
        for _, outcome in run(worker, jobs, workers=workers, advance=advance, log=log):
            if isinstance(outcome, InputError):
                raise outcome


def _build_part(
    worker: _IndexWorker,
    source: _Source,
    books: tuple[Book, ...],
    tokens: Int[Tensor, "block pos"],
    folder: Path,
    options: BuildOptions,
    progress: JobProgress,
) -> None:
    """The ids, and what is gathered, of some blocks, in a folder of their own; goes on where it stopped."""

    @contextlib.contextmanager
    def stage(_name: str, total: int) -> Iterator[Callable[..., None]]:
        yield counted(progress.share, total)

    layout, model = Layout(books, tokens.numel()), worker.models(source.spec)
    _run(model, worker.books(source), tokens, layout, folder, replace(options, stage=stage))


def _joined(work: Path, text: TextBlocks, layout: Layout, batch_size: int) -> Gathered | None:
    """What all parts gathered, their ids behind each other at ``work``; ``None`` if some is not finished."""
    context, parts = text.tokens.shape[1], _parts(work, text, batch_size)
    if not all((place / STATE).is_file() for place in parts):
        return None
    states = {place: _restored(place / STATE, layout.n_codes) for place in parts}
    if any(states[place][1] < len(part) for place, part in parts.items()):
        return None
    (work / STATE).unlink(missing_ok=True)  # of a build that was begun in another way
    whole = Gathered(layout.n_codes)
    for name, file in {IDS: layout, LOOKS: looks_layout(layout, context)}.items():
        if file is None:
            continue
        joined = IdFile.create(work / name, file)
        for place, part in parts.items():
            n_tokens, start = len(part) * context, part.start * context
            of_part = IdFile.open(place / name, Layout(file.books, n_tokens))
            for i in range(len(file.books)):
                joined.write(i, start, of_part.rows(i, np.arange(n_tokens)).astype(np.int64))
        joined.flush()
    for place, part in parts.items():
        whole.merge(states[place][0], part.start * context)
    return whole


def _store(wrappers: Mapping[str, FiringStatsWrapper], ids: IdFile, gathered: Gathered, start: int) -> None:
    """Write what one batch chose; ``start`` is its first token."""
    books = ids.layout.books
    for i, book in enumerate(books):
        wrapper = wrappers[book.site]
        # where heads share a dictionary they lie among the rows
        n_groups = sum(other.site == book.site for other in books)
        shared = wrapper.config.groups == 1
        of_book = (slice(book.group, None, n_groups), 0) if shared else (slice(None), book.group)
        chosen, *strengths, sampled = (part[of_book].cpu().numpy() for part in wrapper.seen)
        ids.write(i, start, chosen)
        token, slot = np.nonzero(without_repeats(chosen, NO_CODE) >= 0)
        begin = int(ids.layout.codes[i])
        gathered.add(begin + chosen[token, slot], start + token, *(part[token, slot] for part in strengths))
        gathered.add_silent(begin, sampled, chosen[::EVERY])


def _restored(path: Path, n_codes: int) -> tuple[Gathered, int]:
    """What was gathered, and the blocks that are done; nothing of a damaged file, or where there is none."""
    gathered = Gathered(n_codes)
    try:
        state = load_file(path)
        done = int(state.pop("done")[0])
        gathered.restore(state)
    except (SafetensorError, KeyError, ValueError, OSError):
        return Gathered(n_codes), 0
    return gathered, done
