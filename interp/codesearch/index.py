"""What an index answers without a model; and how one is opened, or made."""

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt32
from pydantic import PositiveInt, Strict
from torch import Tensor

from interp.bottlenecks import Dictionary, store
from interp.bottlenecks.edits import code_name
from interp.codesearch.build import BATCH_SIZE, SAVE_SECONDS, WORK, BuildOptions, folder_of, request_of, write_index
from interp.codesearch.corpus import Corpus
from interp.codesearch.firing_stats import BINS, N_TOP, RANKS, unpack_counts
from interp.codesearch.layout import BLOCK, CORPUS, FORMAT, IDS, MANIFEST, Book, IdFile, Layout, span_of
from interp.codesearch.looks import LOOKS, looked_at, looks_layout
from interp.errors import InputError
from interp.files import read_json, write_json
from interp.models import Model
from interp.progress import Stage, silent
from interp.text import TextBlocks, load_text
from interp.text.blocks import Split

_AT_ONCE = 256  # blocks compared at once: 4 MiB at eight codes a token, which the cache holds


def positions(
    ids: IdFile, number: int, code: int, spans: UInt8[np.ndarray, " byte"], span: int
) -> Int[np.ndarray, " n"]:
    """The tokens that carry a code, in order; ``spans`` is its packed list, of ``span`` blocks each."""
    layout, view = ids.layout, ids.book(number)
    n_spans = -(-layout.n_blocks // span)
    listed = np.flatnonzero(np.unpackbits(spans)[:n_spans])
    blocks = (listed[:, None] * span + np.arange(span)).ravel()
    blocks = blocks[blocks < layout.n_blocks]
    places = [np.zeros(0, np.int64)]
    for begin in range(0, len(blocks), _AT_ONCE):
        batch = blocks[begin : begin + _AT_ONCE]
        # neighbouring blocks are compared where they lie
        neighbours = batch[-1] - batch[0] == len(batch) - 1
        part = view[batch[0] : batch[-1] + 1] if neighbours else view[batch]
        hit = np.flatnonzero(np.equal(part, code, order="C").reshape(-1)) // part.shape[-1]
        places.append(batch[hit // BLOCK] * BLOCK + hit % BLOCK)
    return np.concatenate(places)


MADE_WITH = ("architecture", "n_layers", "n_heads", "d_model", "d_vocab", "weights")
"""What must agree between the model that was indexed and the one that a prompt is read by."""
_TABLES = ("counts", "lists", "top_token", "top_similarity", "top_margin", "histogram")


class _Books(store.ManifestPart):
    fingerprint: str
    folder: str | None
    sites: list[str]
    configs: dict[str, dict]


class _Text(store.ManifestPart):
    spec: str
    split: str


class _Manifest(store.ManifestPart):
    model: store.ModelPart
    books: _Books
    text: _Text
    error_term: bool
    context: PositiveInt
    n_tokens: PositiveInt
    span: PositiveInt
    layout: list[Annotated[tuple[str, str, int, int, int, int], Strict(False)]]
    bytes: dict


@dataclass(frozen=True)
class Top:
    """The contexts in which a code was chosen most clearly, by falling margin or similarity."""

    tokens: Int[np.ndarray, " n"]
    similarity: Float[np.ndarray, " n"]
    margin: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Similarities:
    edges: Float[np.ndarray, " edge"]  # of the bins
    fired: Float[np.ndarray, " bin"]  # tokens per bin when the code fired, right to 5 %
    silent: Float[np.ndarray, " bin"]  # the same at a sample of the tokens at which it did not


class NoIndexError(InputError):
    """A folder that holds something else, or nothing."""


@dataclass(eq=False, repr=False)
class CodeIndex:
    """The codes of a corpus on disk. :meth:`open` maps the files; they are read where they are asked for.

    >>> index = CodeIndex.build(model, codebooks, "stdlib", "runs/index", n_tokens=640)
    >>> CodeIndex.open("runs/index").n_tokens
    640

    Attributes:
        manifest: ``model``, ``books``, ``text``, ``error_term``, ``context``, ``versions`` …
        layout: the books, see :class:`~interp.codesearch.layout.Layout`.
        counts: how many tokens carry each code, of all books behind each other.
    """

    folder: Path
    manifest: Mapping[str, Any]
    layout: Layout
    ids: IdFile
    tables: Mapping[str, np.ndarray]
    _books: Mapping[str, Dictionary] | None = None
    _books_within: Sequence[Path] | None = None
    _looks: IdFile | None = None

    def __post_init__(self) -> None:
        self.books, self.n_tokens = self.layout.books, self.layout.n_tokens
        self.counts: UInt32[np.ndarray, " code"] = self.tables["counts"]

    @classmethod
    def open(
        cls,
        folder: Path | str,
        books: Mapping[str, Dictionary] | None = None,
        *,
        books_within: Sequence[Path] | None = None,
    ) -> "CodeIndex":
        """Map the files of an index. :class:`InputError`: no finished index there, a file missing or damaged, or other
        codebooks.

        Args:
            books: the codebooks it was made with, if they are loaded already.
            books_within: if not, the folders below which the one that the manifest names may be read; any if None.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        try:
            layout = Layout(tuple(Book(*entry) for entry in manifest["layout"]), manifest["n_tokens"])
            files = {IDS, *(f"{table}.npy" for table in (*CORPUS, *_TABLES))}
            for name in files | ({LOOKS} & manifest["bytes"].keys()):
                size, wanted = (folder / name).stat().st_size, manifest["bytes"][name]
                if size != wanted:
                    raise _damaged(folder / name, f"{size} bytes, not {wanted}")
            tables = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in (*CORPUS, *_TABLES)}
            _check(folder, layout, tables, manifest)
            ids = IdFile.open(folder / IDS, layout)
            looked = looks_layout(layout, manifest["context"])
            looks = IdFile.open(folder / LOOKS, looked) if looked and LOOKS in manifest["bytes"] else None
        except InputError:
            raise
        except Exception as error:  # NumPy reads a header as Python: a damaged one may end in anything
            why = f"no {error} there" if isinstance(error, KeyError) else error
            raise InputError(f"the index {folder} is damaged: {why}; build it again") from None
        index = cls(folder, manifest, layout, ids, tables, books, books_within, looks)
        if books is not None:
            index.check_books(books)
        return index

    @classmethod
    def build(
        cls,
        model: Model,
        codebooks: Mapping[str, Dictionary],
        text: str | TextBlocks = "stdlib",
        folder: Path | str = "runs/index",
        *,
        n_tokens: int = 50_000,
        context: int = 128,
        split: Split = "train",
        seed: int = 0,
        stage: Stage = silent,
        **options: Any,
    ) -> "CodeIndex":
        """:func:`build_index` of a text by its name. ``text``: blocks, or a spec of :mod:`interp.text.sources`:
        ``n_tokens`` in blocks of ``context``. ``options``: as of :func:`build_index`."""
        context = min(context, model.cfg.n_ctx)
        blocks = load_text(text, model, n_tokens=n_tokens, context=context, split=split, seed=seed, stage=stage)
        return build_index(model, codebooks, blocks, Path(folder), stage=stage, **options)

    @property
    def n_bytes(self) -> int:
        """Size on disk."""
        return sum(self.manifest["bytes"].values())

    @cached_property
    def corpus(self) -> Corpus:
        parts = {name: np.asarray(self.tables[name]) for name in CORPUS}
        return Corpus(context=int(self.manifest["context"]), **parts)

    def named(self, name: str) -> tuple[str, int]:
        """Book and id of a code's name; :class:`InputError` if there is none of this name."""
        return self.layout.named(name)

    def name(self, book: str, code: int) -> str:
        """What :meth:`named` reads."""
        return code_name(book, code)

    def count(self, book: str, code: int) -> int:
        """How many tokens carry a code."""
        return int(self.counts[self.layout.code(book, code)])

    def counts_of(self, book: str) -> UInt32[np.ndarray, " code"]:
        """:meth:`count` of every code of a book."""
        begin = self.layout.code(book, 0)
        return self.counts[begin : begin + self.books[self.layout.number(book)].n_codes]

    def positions(self, book: str, code: int) -> Int[np.ndarray, " n"]:
        """The tokens that carry a code, in order of the corpus."""
        spans = self.tables["lists"][self.layout.code(book, code)]
        return positions(self.ids, self.layout.number(book), code, spans, int(self.manifest["span"]))

    def looked_at(self, head: str) -> tuple[Int[np.ndarray, "token place"], Float[np.ndarray, "token place"]] | None:
        """Where a head looks, see :func:`~interp.codesearch.looks.looked_at`; None for what is no head, and for
        older indexes."""
        if self._looks is None or head not in self._looks.layout.numbers:
            return None
        return looked_at(self._looks, self._looks.layout.numbers[head], self.corpus.context)

    def top(self, book: str, code: int, by: str = "margin") -> Top:
        """At most ``N_TOP`` contexts, by one of ``RANKS``, see :mod:`~interp.codesearch.firing_stats`."""
        row = self.layout.code(book, code), RANKS.index(by)
        token, similarity, margin = (self.tables[f"top_{name}"][row] for name in ("token", "similarity", "margin"))
        filled = margin > -np.inf
        strengths = (part[filled].astype(np.float32) for part in (similarity, margin))
        return Top(token[filled].astype(np.int64), *strengths)

    def similarities(self, book: str, code: int) -> Similarities:
        fired, silent = unpack_counts(self.tables["histogram"][self.layout.code(book, code)])
        return Similarities(BINS, fired, silent)

    def codebooks(self) -> Mapping[str, Dictionary]:
        """The codebooks by site: those given to :meth:`open`, or of the folder that the manifest names, if these are
        there and the same."""
        if self._books is None:
            folder = self.manifest["books"]["folder"]
            if folder is None:
                raise InputError("this index does not say where its codebooks are: open it with them")
            if self._books_within is not None:
                _check_within(Path(folder), self._books_within)
            books, k = store.Codebooks.from_pretrained(folder), {book.site: book.k for book in self.books}
            # with as many codes a vector as were indexed
            kept = {site: book.with_k(k[site]) for site, book in books.items() if site in k}
            self.check_books(kept)
            self._books = kept
        return self._books

    def vectors(self, book: str) -> Float[Tensor, "code d"]:
        """What the codes of a book stand for, in the activations that it reads."""
        place = self.books[self.layout.number(book)]
        return self.codebooks()[place.site].codes[place.vectors].detach().float()

    def check_books(self, books: Mapping[str, Dictionary]) -> None:
        """Raise :class:`InputError` unless these are, among others, the codebooks it was made with."""
        made, other = self.manifest["books"], ""
        indexed = {site: books[site] for site in made["sites"] if site in books}
        of_index, of_books = made["fingerprint"], store.codebooks_fingerprint(indexed)
        if of_index != of_books:
            other = f"other codebooks ({of_index}, not {of_books})"
        for site, config in made["configs"].items() if not other else ():
            given = {key: value for key, value in asdict(indexed[site].config).items() if key in config}
            if given != config:
                other = f"another {store.difference(site, config, given)}"
                break
        if other:
            raise InputError(f"{self.folder} was made with {other}: build it again")

    def check_comparable(self, other: "CodeIndex") -> None:
        """Raise :class:`InputError` unless both have the codes of one model by the same codebooks."""
        books, other_books = (index.manifest["books"] | {"folder": None} for index in (self, other))
        if books != other_books:
            raise InputError(f"{self.folder} has other codebooks than {other.folder}: build it with the same")

    def check_request(self, request: Mapping[str, Any]) -> None:
        """Raise :class:`InputError`, naming the first difference, unless it is what is asked to be built."""
        books = {key: value for key, value in self.manifest["books"].items() if key != "folder"}
        store.check_request(self.folder, {**self.manifest, "books": books}, request, made="an index")

    def check_model(self, model: Model) -> None:
        """Raise :class:`InputError` unless it was made with this model."""
        store.check_made_with(self.manifest["model"], model, MADE_WITH, f"{self.folder} is an index")


def _check_within(codebooks: Path, folders: Sequence[Path]) -> None:
    """Neither the codebooks nor anything in their folder may lie elsewhere, as what links lead to would.

    Files of the package may be links: an installer makes them.
    """
    allowed = [folder.resolve() for folder in folders]
    inside = () if codebooks.resolve().is_relative_to(store.PRETRAINED.resolve()) else codebooks.rglob("*")
    try:
        # one after the other: where the folder itself is outside nothing in it is looked at
        for path in itertools.chain([codebooks], inside):
            if not any(map(path.resolve().is_relative_to, allowed)):
                why = f"are at {path}, which is not among the folders that are read"
                raise InputError(f"the codebooks of this index {why}")
    except (OSError, RuntimeError) as error:  # a link to itself
        raise InputError(f"the codebooks of this index at {codebooks} cannot be read ({error})") from None


def _damaged(path: Path, why: object) -> InputError:
    return InputError(f"{path} is damaged: {why}; build the index again")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        unfinished = (folder / WORK).is_dir()
        why = "it is not finished; the same build command goes on" if unfinished else f"no {MANIFEST} there"
        raise NoIndexError(f"{folder} is no code index: {why}")
    try:
        manifest = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if not isinstance(manifest, dict) or not {"span", "layout"} & set(manifest):
        raise NoIndexError(f"{folder} is no code index: its {MANIFEST} is of another kind of folder")
    if manifest.get("format") != FORMAT:
        raise InputError(f"{path} is not of format {FORMAT}, which this version reads: build the index again")
    if (wrong := store.manifest_fault(_Manifest, manifest)) is not None:
        raise _damaged(path, wrong)
    if not set(configs := manifest["books"]["configs"]) <= set(manifest["books"]["sites"]):
        raise _damaged(path, f"configs of its books are {configs!r}")
    return manifest


def _check(folder: Path, layout: Layout, tables: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Raise :class:`InputError` for files that are cut or changed, or a manifest that does not fit them."""
    n, span, begins = layout.n_codes, span_of(layout), tables["documents"]
    top = n, len(RANKS), N_TOP
    shapes = {
        "tokens": (layout.n_tokens,),
        "counts": (n,),
        "lists": (n, -(-layout.n_blocks // (8 * span))),
        **dict.fromkeys(("top_token", "top_similarity", "top_margin"), top),
        "histogram": (n, 2, len(BINS) - 1),
        "vocabulary_ends": tables["special"].shape,
    }
    for name, table in tables.items():
        if table.shape != (shape := shapes.get(name, table.shape)):
            raise _damaged(folder / f"{name}.npy", f"{table.shape}, not {shape}")
    if manifest["span"] != span:
        raise _damaged(folder / MANIFEST, f"a span of {manifest['span']}, not {span}")
    if layout.n_tokens % manifest["context"]:
        why = f"{layout.n_tokens} tokens are no whole blocks of {manifest['context']}"
        raise _damaged(folder / MANIFEST, why)
    if not (len(begins) and begins[0] == 0 and (np.diff(begins) > 0).all() and begins[-1] < layout.n_tokens):
        raise _damaged(folder / "documents.npy", "it does not rise from 0")


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
    """Index the codes of a text; at once done where the folder holds this very index. :class:`InputError`: no books, or
    a folder that holds another index or another one's beginnings, or that another process is building in.

    Args:
        books: by site. Of :class:`~interp.bottlenecks.store.Codebooks` the index notes the folder, so that it can show
            their vectors by itself.
        error_term: codes of the plain model's activations, as steering reads them; without it every book is spliced in
            and later ones see what the earlier ones leave.
        batch_size: blocks of text per forward pass.
        save_seconds: work that a killed build loses at most.
        turn: held during each forward pass; a lock, where others use the model meanwhile.
    """
    folder, request = Path(folder), request_of(model, books, text, error_term)
    if not (folder / MANIFEST).exists():
        options = BuildOptions(error_term, batch_size, save_seconds, turn, stage)
        write_index(model, books, text, folder, request, options)
    try:
        done = CodeIndex.open(folder)
    except NoIndexError as error:
        raise InputError(f"{error}: choose another folder") from None
    except InputError as error:
        raise InputError(f"{error} (delete the folder {folder} to build it anew)") from None
    done.check_request(request)
    made, now_at = done.manifest["books"], folder_of(books)
    if now_at is not None and made["folder"] != now_at:  # they were moved
        write_json(folder / MANIFEST, {**done.manifest, "books": {**made, "folder": now_at}})
        done = CodeIndex.open(folder)
    return done


def ready_index(folder: Path, books_within: Sequence[Path]) -> CodeIndex:
    """Open an index for many questions: what the first would wait for, text and codebooks, is read at once. No file of
    it may be a link to another place."""
    import polars  # noqa: F401 - the engine of regular expressions

    for path in folder.iterdir():
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{path} is a link to another place, which is not followed")
    index = CodeIndex.open(folder, books_within=books_within)
    index.corpus.document_bytes  # noqa: B018 - kept by the corpus
    with contextlib.suppress(InputError):  # whoever asks for them is told why
        index.codebooks()
    return index
