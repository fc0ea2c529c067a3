"""Building an index: the corpus through the model once, codes to disk as they come; a killed build goes on.

Batches are written straight to their place in the file of ids. What is gathered over all of them (best contexts,
histograms) is saved every half minute together with how far it goes; a build that starts again repeats from there,
with the same result, bit for bit.
"""

import contextlib
import importlib.metadata
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from interp.bottlenecks import Codebook
from interp.bottlenecks.attach import attach, groups_at
from interp.bottlenecks.base import NO_CODE
from interp.bottlenecks.store import (
    check_request,
    codebooks_fingerprint,
    describe_text,
    model_identity,
)
from interp.codesearch.corpus import read_corpus
from interp.codesearch.firing_stats import EVERY, FiringStatsWrapper, Gathered, pack_counts
from interp.codesearch.index import (
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
from interp.files import atomic_path, read_json, write_json
from interp.models import Model, hooked, model_device, resolve_site
from interp.progress import Stage, silent
from interp.text import TextBlocks
from interp.text.special import between, first_token

BATCH_SIZE = 32
SAVE_SECONDS = 30.0
WORK, STATE, LOCK = ".work", "state.safetensors", "lock"


def build_index(
    model: Model,
    books: Mapping[str, Codebook],
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
    if not books:
        raise InputError("no codebooks to index")
    folder = Path(folder)
    request: dict[str, Any] = {
        "model": model_identity(model),
        "books": {
            "fingerprint": codebooks_fingerprint(books),
            "sites": list(books),
            "configs": {site: asdict(book.config) for site, book in books.items()},
        },
        "text": describe_text(text),
        "error_term": error_term,
    }
    if text.sources is not None:
        text = _by_source(text)
    where = getattr(books, "folder", None)
    where = None if where is None else str(where.absolute())
    if (folder / MANIFEST).exists():
        return _finished(folder, request, where)
    layout = Layout(tuple(_books(model, books)), text.n_tokens)
    work = folder / WORK
    with _alone(work):
        if (folder / MANIFEST).exists():  # by another process, meanwhile
            shutil.rmtree(work, ignore_errors=True)
            return _finished(folder, request, where)
        _begin(work, folder, request, layout)
        gathered = _run(model, books, text, layout, work, error_term, batch_size, save_seconds, turn, stage)
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
        "tokens": corpus.tokens,
        "documents": corpus.documents,
        "vocabulary": corpus.vocabulary,
        "vocabulary_ends": corpus.vocabulary_ends,
        "special": corpus.special,
        "text": corpus.text,
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


def _books(model: Model, books: Mapping[str, Codebook]) -> list[Book]:
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


def _begin(work: Path, folder: Path, request: Mapping[str, Any], layout: Layout) -> None:
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
    if not (work / IDS).exists() and (work / STATE).exists() and (folder / IDS).exists():
        (folder / IDS).replace(work / IDS)  # killed after the ids were put in place and before the manifest
    if not (work / IDS).exists():
        (work / STATE).unlink(missing_ok=True)
        IdFile.create(work / f"{IDS}.new", layout)
        (work / f"{IDS}.new").replace(work / IDS)
    write_json(path, request)


def _run(
    model: Model,
    books: Mapping[str, Codebook],
    text: TextBlocks,
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
    context = text.tokens.shape[1]
    saved = time.monotonic()
    device = model_device(model)
    with torch.no_grad(), stage("reading codes", len(text.tokens)) as progress:
        progress(done)
        while done < len(text.tokens):
            batch = text.tokens[done : done + batch_size]
            # nobody reads the logits
            with (
                turn(),
                hooked(model, {"unembed.hook_in": lambda x: x[:1, -1:]}),
                attach(model, wrappers, error_term=error_term),
            ):
                model(batch.to(device))
            _store(wrappers, layout, ids, gathered, done * context)
            done += len(batch)
            if time.monotonic() - saved >= save_seconds or done == len(text.tokens):
                ids.flush()
                _save(work / STATE, gathered, done)
                saved = time.monotonic()
            progress(len(batch))
    return gathered


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


def _save(path: Path, gathered: Gathered, done: int) -> None:
    with atomic_path(path) as temporary:
        save_file({**gathered.state(), "done": np.array([done])}, temporary)


def _restored(path: Path, n_codes: int) -> tuple[Gathered, int]:
    """What was gathered, and the blocks that are done."""
    gathered = Gathered(n_codes)
    if path.exists():
        try:
            state = load_file(path)
            done = int(state.pop("done")[0])
            gathered.restore(state)
            return gathered, done
        except (SafetensorError, KeyError, ValueError, OSError):
            gathered = Gathered(n_codes)  # from the start
    return gathered, 0
