"""Sources of text by their spec; several are joined with ``+``.

=================================== ================================================================
spec                                documents
=================================== ================================================================
``stdlib``                          docstrings of Python's standard library
``self``                            the model's own samples
a file or folder                    ``.txt`` (split at blank lines into documents), ``.jsonl``
``probes:NAME``                     news, reviews, stories, code …: see :class:`ProbeText`
``datasets:NAME[:CONFIG[:SPLIT[:COLUMN]]]``  a dataset of the Hugging Face hub, or a local folder of one
=================================== ================================================================

A new source is one class with ``documents`` and one line in :data:`SOURCES`.
"""

import ast
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from filelock import FileLock
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.errors import InputError
from interp.files import atomic_path, parse_json, readable
from interp.models import Model, describe_model, model_device, weights_digest
from interp.models.embedded import Packaged, Wheel, cache_folder, fetch_wheels
from interp.models.generate import generate
from interp.models.hooks import as_it_is, forwards_watched
from interp.progress import Stage, silent, status
from interp.text.special import check_unicode, ends, first_token, until_end

LEAST_WORDS, LEAST_LETTERS = 20, 0.8
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_SKIPPED = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "idlelib", "lib2to3"}


class StdlibText:
    """Docstrings of Python's standard library: text by people that lies on every machine.

    Files are parsed, never imported. Of all docstrings those that read like prose are kept. About 260 000 tokens with
    Python 3.11; other versions have other texts, which their fingerprint tells.
    """

    endless = False

    def __init__(self, _options: str = "") -> None:
        self.spec = "stdlib"

    def documents(self, model: Model | None, *, seed: int, stage: Stage = silent) -> Iterator[str]:  # noqa: ARG002
        if not stdlib_docstrings():
            raise InputError("text stdlib: this Python has no source files of its standard library")
        return iter(stdlib_docstrings())


@cache
def stdlib_docstrings() -> tuple[str, ...]:
    """Every prose-like docstring once, in the order of the files' names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(p for p in root.rglob("*.py") if not _SKIPPED & set(p.relative_to(root).parts))
    return tuple(dict.fromkeys(filter(is_prose, itertools.chain.from_iterable(map(_docstrings, paths)))))


def is_prose(text: str) -> bool:
    """At least 20 words, four fifths letters and spaces, no doctest."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return len(text.split()) >= LEAST_WORDS and letters >= LEAST_LETTERS * len(text) and ">>>" not in text


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # a distribution may ship files for other versions
        return
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
            yield text


SHIPPED = Path(__file__).parent / "data"
BATCH, LENGTH = 128, 128
"""Samples a batch, and their length in tokens without BOS. Batches of 128 are twice as fast as of 32 on two cores."""
_FORMAT = 1


class ModelSamples:
    """The model's own samples: text that it finds likely, for any model and without any data.

    Sampled at temperature 1 from BOS, ``batch`` at once, of at most ``length`` tokens. Batches are generated one after
    the other, each from a seed of its own, and kept in the cache folder by model and parameters: the same ones serve
    every later call. The default model's first batches of seed 0 come with the package.
    """

    endless = True
    spec = "self"

    def __init__(self, _options: str = "", *, batch: int = BATCH, length: int = LENGTH) -> None:
        self.batch, self.length = batch, length

    def documents(self, model: Model, *, seed: int, stage: Stage = silent) -> Iterator[tuple[int, ...]]:
        """Endless: as many batches as are asked for are generated, up to each sample's end-of-text."""
        length, stops = min(self.length, model.cfg.n_ctx - 1), ends(model)
        for number in itertools.count():
            for row in self._batch(model, number, seed, length, stage).tolist():
                yield tuple(until_end(row, stops))

    def _batch(self, model: Model, number: int, seed: int, length: int, stage: Stage) -> Int[Tensor, "sample pos"]:
        """Samples without BOS, from the cache or new."""
        path = self.folder(model, seed, length) / f"{number:05}.safetensors"
        shipped = SHIPPED / path.parent.name / path.name
        if shipped.is_file():
            return load_file(shipped)["tokens"].long()
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # two processes need not sample the same
            with contextlib.suppress(SafetensorError, KeyError, OSError):  # damaged, or not there
                return load_file(path)["tokens"].long()
            tokens = self._sample(model, number, seed, length, stage)
            with atomic_path(path) as temporary:
                save_file({"tokens": tokens.int()}, temporary)
        return tokens

    def _sample(self, model: Model, number: int, seed: int, length: int, stage: Stage) -> Int[Tensor, "sample pos"]:
        begin = first_token(model.tokenizer)
        if begin is None:
            raise InputError("text 'self': the model's tokenizer has neither BOS nor EOS to start a sample from")
        start = torch.full((self.batch, 1), begin, device=model_device(model))
        batch_seed = int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")
        with (
            as_it_is(model, "text of the source 'self'"),
            stage(f"sampling text, batch {number + 1}", length) as done,
            forwards_watched(model, lambda *_: done(1)),
        ):
            tokens = generate(model, start, length, temperature=1.0, seed=batch_seed)[:, 1:].cpu()
        missing = length - tokens.shape[1]  # where every sample ended early
        return torch.nn.functional.pad(tokens, (0, missing), value=model.tokenizer.eos_token_id)

    def folder(self, model: Model, seed: int, length: int) -> Path:
        """Where this model's samples lie: its revision, weights and shape, and the parameters name the folder, not the
        device and dtype, so that a model is measured on the same text wherever it runs."""
        known = {key: value for key, value in describe_model(model).items() if key not in ("device", "dtype")}
        digest = weights_digest(model)
        identity = json.dumps([_FORMAT, known, digest, self.batch, length, seed], sort_keys=True)
        name = str(known["spec"] or "model").rpartition("/")[2]
        return cache_folder() / "samples" / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


_MOST_EMPTY = 1000  # rows without a text, one after another, after which a column is taken for one that has none
_FORM = "datasets:NAME[:CONFIG[:SPLIT[:COLUMN]]]"


class HubText:
    """One text column of a dataset, streamed in the dataset's own order, so that a large one is not fetched whole.

    Without a config the dataset's default is taken, without a split ``train``, without a column ``text``.
    """

    endless = True

    def __init__(self, options: str) -> None:
        self.spec = f"datasets:{options}"
        name, *rest = options.split(":")
        if not name or len(rest) > 3:
            raise InputError(f"text {self.spec!r}: write {_FORM}")
        self.name = name
        config, split, column = (*rest, "", "", "")[:3]
        self.config, self.split, self.column = config or None, split or "train", column or "text"

    def documents(self, model: Model | None, *, seed: int, stage: Stage = silent) -> Iterator[str]:  # noqa: ARG002
        from datasets import load_dataset

        local = Path(os.path.expanduser(self.name))
        name = str(local) if local.is_dir() else self.name

        def rows() -> Iterator[dict]:
            try:
                yield from load_dataset(name, self.config, split=self.split, streaming=True)
            except Exception as error:  # the library raises whatever its readers raise, at any row
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
                raise InputError(f"cannot load the dataset {self.spec!r}: {reason}") from None

        empty = 0
        for row in rows():
            if row.get(self.column, "") is None and empty < _MOST_EMPTY:  # a column may have gaps
                empty += 1
                continue
            if not isinstance(row.get(self.column), str):
                texts = [name for name, value in row.items() if isinstance(value, str)]
                has = f"it has {', '.join(texts) or 'none'} ({_FORM})"
                raise InputError(f"the dataset {self.spec!r} has no text column {self.column!r}: {has}")
            empty = 0
            if row[self.column]:
                yield row[self.column]


_PROBES = Packaged(
    title="the texts of sae-probes",
    wheels=(Wheel("sae-probes", "0.4.2", "245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03", ""),),
    source="wheel of sae-probes 0.4.2",
    revision="245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03",
    size=45_000_000,
    needed=100_000_000,
    variable="INTERP_PROBES_WHEEL",
)
_PROBE_TEXTS: dict[str, tuple[str, ...]] = {
    "news": ("161_agnews_0", "162_agnews_1", "163_agnews_2"),
    "articles": ("100_news_fake",),
    "reviews": ("112_amzn_rev", "113_movie_sent"),
    "answers": ("45_context_ans",),
    "stories": ("48_cm_correct", "49_cm_isshort"),
    "medicine": ("98_cancer_cat",),
    "wiki": ("90_glue_qnli", "57_wikidatais_alive"),
    "c": ("158_code_C",),
    "python": ("159_code_Python",),
    "html": ("160_code_HTML",),
}
_OF_CLASS = ("news", "c", "python", "html")
"""Of these tables only the rows of the class: the others are what it is told from."""


class ProbeText:
    """Texts of everyday kinds, from tables of the wheel ``sae-probes``, which is fetched on request and not passed on.

    Kantamneni et al. 2025, "Are Sparse Autoencoders Useful? A Case Study in Sparse Probing", arXiv 2502.16681.
    """

    endless = False

    def __init__(self, name: str) -> None:
        if name not in _PROBE_TEXTS:
            raise InputError(f"text 'probes:{name}': choose {', '.join(f'probes:{known}' for known in _PROBE_TEXTS)}")
        self.name, self.spec = name, f"probes:{name}"

    def documents(self, model: Model | None, *, seed: int, stage: Stage = silent) -> Iterator[str]:  # noqa: ARG002
        for table in _PROBE_TEXTS[self.name]:
            for text, target in probe_table(table):
                if text and (self.name not in _OF_CLASS or target == "1"):
                    yield text


def probe_table(name: str) -> list[tuple[str, str]]:
    """Text and class of every row of one table of ``sae-probes``."""
    import polars

    with zipfile.ZipFile(_probes_wheel()) as wheel:
        packed = wheel.read(f"sae_probes/data/cleaned_data/{name}.csv.zst")
    return polars.read_csv(packed, infer_schema_length=0).select("prompt", "target").rows()


def _probes_wheel() -> Path:
    """The wheel in the cache, fetched first if it is not there."""
    path = cache_folder() / "text" / _PROBES.wheels[0].file
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            with (
                tempfile.TemporaryDirectory(dir=path.parent) as work,
                status(f"fetching {_PROBES.title} ({_PROBES.size / 1e6:.0f} MB, once)"),
                atomic_path(path) as temporary,
            ):
                shutil.copyfile(fetch_wheels(_PROBES, Path(work))[0], temporary)
    return path


KINDS = (".txt", ".jsonl")


class FileText:
    """A file, or every ``.txt`` and ``.jsonl`` file below a folder.

    Each line of a ``.jsonl`` file is a string, or an object whose ``text`` is one.
    """

    endless = False

    def __init__(self, path: Path) -> None:
        self.path, self.spec = path, str(path)
        if path.is_file() and path.suffix.lower() not in KINDS:
            raise InputError(f"text {path}: a text file ends in {' or '.join(KINDS)}")

    def documents(self, model: Model | None, *, seed: int, stage: Stage = silent) -> Iterator[str]:  # noqa: ARG002
        paths = [self.path]
        if self.path.is_dir():
            paths = sorted(p for p in self.path.rglob("*") if p.suffix.lower() in KINDS and p.is_file())
            if not paths:
                raise InputError(f"text {self.path}: there is no {' or '.join(KINDS)} file in this folder")
        for path in paths:
            yield from _json_lines(path) if path.suffix.lower() == ".jsonl" else _paragraphs(path)


def _paragraphs(path: Path) -> Iterator[str]:
    for blank, lines in itertools.groupby((line for _, line in _lines(path)), lambda line: not line.strip()):
        if not blank:
            yield "\n".join(lines)


def _json_lines(path: Path) -> Iterator[str]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            why = getattr(error, "msg", None) or error
            raise InputError(f"{path}, line {number} is not JSON: {why}") from None
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise InputError(f'{path}, line {number}: expected a string, or an object with a string "text"')
        check_unicode(text, f"{path}, line {number}")
        yield text


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with readable(path).open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the text file {path}: {error}") from None


Document = str | tuple[int, ...]  # a text, or token ids without special tokens at either end


@runtime_checkable
class TextSource(Protocol):
    """``endless`` says whether ``documents`` never stops; else all are drawn, in an order that depends on the seed."""

    spec: str
    endless: bool

    def documents(self, model: Model, *, seed: int, stage: Stage = silent) -> Iterator[Document]:
        """Documents of both splits, the same for the same seed."""
        ...


SOURCES: dict[str, Callable[[str], TextSource]] = {
    "stdlib": StdlibText,
    "self": ModelSamples,
    "probes": ProbeText,
    "datasets": HubText,
}
"""Constructors, which take the part of the spec after the colon."""


def open_sources(spec: str) -> list[TextSource]:
    """The sources that a spec names; nothing is read yet."""
    return [_open(part.strip()) for part in _split(spec)]


def _split(spec: str) -> Iterator[str]:
    """The parts between plus signs; the most of them that are the name of a file together are one."""
    parts = spec.split("+")
    while parts:
        names = ("+".join(parts[:n]).strip() for n in range(len(parts), 1, -1))
        name = next((n for n in names if Path(os.path.expanduser(n.removeprefix("datasets:"))).exists()), parts[0])
        yield name
        parts = parts[name.count("+") + 1 :]


def _open(part: str) -> TextSource:
    name, _, rest = part.partition(":")
    if name in SOURCES and (not rest or name in ("datasets", "probes")):
        return SOURCES[name](rest)
    path = Path(os.path.expanduser(part))  # Path.expanduser fails for a user that there is not
    if part and path.exists():
        return FileText(path)
    raise InputError(
        f"text {part!r} is neither a source nor a file that exists: choose stdlib, self, probes:NAME, "
        "a .txt or .jsonl file, a folder of them, or datasets:NAME (several joined with +)"
    )
