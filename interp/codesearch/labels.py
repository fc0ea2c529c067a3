"""A label for every code: the pattern that tells best at which tokens the code is on.

No language model is asked. A code of a head is looked at from three sides: what the head *looks at* where the code is
on, what it *stands at*, and what the code *writes*. For the first two there are patterns, in
:mod:`interp.codesearch.look_patterns` and :mod:`interp.codesearch.patterns`. The documents are split in two. On one
half the pattern with the best F1 is chosen, and of both sides the better is the name. Precision, recall and F1 are
measured on the other half. What a code writes is read off the weights, see :mod:`interp.codesearch.writes`.

A code of a head is often one of many that share a pattern out among them. Where no F1 is :data:`FITS` of the way from
that of a random code to 1, a pattern is chosen that most of the code's tokens have, at least :data:`MOSTLY` of them and
:data:`LIFT` times the share of all tokens: that with the largest share · log2 (share / share of all tokens). Its label
begins with *mostly*. What is chosen has to hold on the second half too:

* **rare**: the code is on at fewer than :data:`LEAST` tokens there, so that nothing can be measured.
* **mixed**: F1 is less than :data:`FITS` of that way, or for *mostly* the share or its lift too small.

Random codes are those of one book a site, each with its firings at other tokens, and go the same way. So do the coarse
codes of :mod:`interp.codesearch.coarse`, into which each book's own are merged: a level of few codes that people read.
"""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped

from interp.bottlenecks.edits import code_name
from interp.bottlenecks.store import PRETRAINED, Codebooks
from interp.codesearch.coarse import ALL, CoarseIndex, Groups, merge_codes, variance_kept
from interp.codesearch.index import CodeIndex
from interp.codesearch.layout import Book
from interp.codesearch.look_patterns import LookPatterns
from interp.codesearch.patterns import MOST_VALUES, SIMPLER, Boolean, Family, Patterns, TokenVariable
from interp.codesearch.writes import writes, written_vectors
from interp.errors import InputError
from interp.files import atomic_path, parse_json
from interp.models import Model
from interp.progress import Stage, silent

if TYPE_CHECKING:
    import pyarrow as pa

LABELS = "labels.parquet"
FORMAT = 1
LEAST = 20
FITS = 0.25
MOSTLY, LIFT = 0.5, 2.0
SHARES = 0.5, 0.8  # values of F1 that it is told how many codes reach
RARE, MIXED = "rare", "mixed"
TEXTS = ("text", "stands", "looks", "writes")  # columns of words; those but the first may lack
_PERCENT = ("precision", "recall", "f1", "null", "stands_f1", "looks_f1")
_ROUNDS = 6
_DULL = re.compile(
    r"(mostly )?(looks at |looks behind |looks at the end of |after |before |end of |soon after )?“[^”]*”"
    r"( in any case|, .*| by .*| in code| in prose)?|.*(<\||first token|first \d+ tokens).*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Label:
    """What a code stands for, and how well that tells where it is on."""

    text: str  # the pattern in words, `MIXED` or `RARE`; what tokens say in it is not escaped
    # precision, recall, f1: on the second half: of the code's tokens those with the pattern, of the pattern's those
    # with the code, as a search of the index has it
    precision: float
    recall: float
    f1: float
    null: float  # mean F1 of random codes of the same frequency
    firings: int  # tokens of the second half at which it is on
    # stands, looks: the best pattern of each side, and its F1; empty where there is no such side
    stands: str = ""
    stands_f1: float = 0.0
    looks: str = ""
    looks_f1: float = 0.0
    writes: str = ""  # the tokens that it raises, or lowers, most; empty where no model was asked
    # how much more than other tokens of the text it raises those that come next on the second half, in standard
    # deviations; of random codes 0
    writes_gain: float = 0.0

    @property
    def named(self) -> bool:
        return self.text not in (RARE, MIXED)


class _Best:
    """The best pattern so far of each code of a book.

    Attributes:
        score: on the first half, what is chosen by: F1 less the pattern's margin, or what :func:`_bits` gives.
        hits, tokens, fired: of the second half, with code and pattern, with the pattern, and with the code.
        kind: number among the patterns; −1 for none.
        values: of a variable, by code.
    """

    def __init__(self, fired: Int[np.ndarray, " code"]) -> None:
        self.fired, self.score = fired, np.zeros(len(fired))
        self.hits, self.tokens = np.zeros((2, len(fired)), np.int64)
        self.kind, self.values = np.full(len(fired), -1), dict[int, list[int]]()

    @property
    def f1(self) -> Float[np.ndarray, " code"]:
        return 2 * self.hits / np.maximum(self.tokens + self.fired, 1)

    def merged(self, other: "_Best", n_kinds: int) -> "_Best":
        """Of each code the better; the other's kinds are numbered behind ``n_kinds``."""
        merged, better = _Best(self.fired), other.score > self.score
        for name in ("score", "hits", "tokens"):
            setattr(merged, name, np.where(better, getattr(other, name), getattr(self, name)))
        merged.kind = np.where(better, other.kind + n_kinds, self.kind)
        merged.values = {code: (other if better[code] else self).values.get(code, []) for code in range(len(better))}
        return merged

    def take(self, codes: np.ndarray, score: np.ndarray, hits: np.ndarray, tokens: Any, kind: int) -> np.ndarray:
        """Note what is better than what is known; which of the codes it was."""
        better = score > self.score[codes]
        codes = codes[better]
        self.score[codes], self.kind[codes], self.hits[codes] = score[better], kind, hits[better]
        self.tokens[codes] = np.broadcast_to(tokens, better.shape)[better]
        return better


def best_patterns(patterns: Family, ids: Shaped[np.ndarray, "token k"], n_codes: int) -> tuple[_Best, _Best]:
    """The best pattern of every code of one book, by F1 and by what most of its tokens have."""
    width = 2 * (n_codes + 1)
    small = np.uint16 if width < 2**16 else np.int32  # numbers of 16 bits are sorted by radix
    slots = [(slot.astype(np.int64) * 2 + patterns.half).astype(small) for slot in ids.T]

    def counted(tokens: Any) -> Int[np.ndarray, "code half"]:
        counts = np.sum([np.bincount(slot[tokens], minlength=width) for slot in slots], 0)
        return counts.reshape(-1, 2)[:n_codes]

    codes, fired = np.arange(n_codes), counted(slice(None))
    best, mostly = _Best(fired[:, 1]), _Best(fired[:, 1])
    for kind, pattern in enumerate(patterns.all):
        if isinstance(pattern, TokenVariable):
            _try_values(pattern, slots, fired, best, mostly, patterns.sizes[0], kind)
            continue
        hits = counted(pattern.tokens)
        score = 2 * hits[:, 0] / np.maximum(fired[:, 0] + pattern.count[0], 1)
        best.take(codes, score, hits[:, 1], pattern.count[1], kind)
        score = _bits(hits[:, 0] / np.maximum(fired[:, 0], 1), pattern.count[0] / max(patterns.sizes[0], 1))
        mostly.take(codes, score, hits[:, 1], pattern.count[1], kind)
    return best, mostly


def beyond_chance(f1: np.ndarray, chance: np.ndarray) -> Float[np.ndarray, " n"]:
    """How far from chance to 1."""
    return (f1 - chance) / np.maximum(1 - chance, 1e-9)


def _bits(share: np.ndarray, of_all: np.ndarray | float) -> Float[np.ndarray, " n"]:
    """share · log2 lift, where share and lift are large enough for *mostly*, else 0."""
    enough = (share >= MOSTLY) & (share >= LIFT * of_all)
    return np.where(enough, share * np.log2(np.where(enough, share / np.maximum(of_all, 1e-9), 1)), 0)


def _runs(values: Int[np.ndarray, " n"]) -> Int[np.ndarray, " run"]:
    return np.flatnonzero(np.diff(values, prepend=-1))


def _try_values(
    variable: TokenVariable,
    slots: Sequence[np.ndarray],
    fired: np.ndarray,
    best: _Best,
    mostly: _Best,
    n_first: int,
    kind: int,
) -> None:
    """One value, and the best few: those whose share with the code is above half the F1 that they reach together."""
    n_codes, n_values = len(fired), variable.counts.shape[1]
    row = np.concatenate([slot[variable.order] for slot in slots])
    values = np.concatenate([variable.values] * len(slots))
    inside = row < 2 * n_codes
    row, values = row[inside], values[inside]
    # by code, within it half and value
    order = np.argsort(row, kind="stable") if len(slots) == 1 else np.lexsort((values, row))
    key = row[order].astype(np.int64) * n_values + values[order]
    starts = _runs(key)
    key, hits = key[starts], np.diff(starts, append=len(key))
    row, value = np.divmod(key, n_values)
    first = np.flatnonzero((row % 2 == 0) & (hits > 1))  # once may be chance, and is most of them
    code, value, hit = row[first] // 2, value[first], hits[first]
    if not len(code):
        return
    total, size = fired[code, 0], variable.counts[0][value]

    def second(code: np.ndarray, value: np.ndarray) -> np.ndarray:
        wanted = (2 * code + 1) * n_values + value
        place = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        return np.where(key[place] == wanted, hits[place], 0)

    begins = _runs(code)
    sizes = np.diff(begins, append=len(code))
    alone = 2 * hit / (total + size)
    for leaders, score, margin in ((best, alone, variable.margin), (mostly, _bits(hit / total, size / n_first), 0.0)):
        top = np.flatnonzero(score == np.repeat(np.maximum.reduceat(score, begins), sizes))
        top = top[_runs(code[top])]
        hits_held, tokens_held = second(code[top], value[top]), variable.counts[1][value[top]]
        top = top[leaders.take(code[top], score[top] - margin, hits_held, tokens_held, kind)]
        leaders.values.update({c: [v] for c, v in zip(code[top].tolist(), value[top].tolist(), strict=True)})
    if not variable.several:
        return
    reached = np.zeros(n_codes)
    reached[code[begins]] = np.maximum.reduceat(alone, begins)
    likely = np.flatnonzero(2 * hit > reached[code] * size)
    code, value, hit, size = code[likely], value[likely], hit[likely], size[likely]
    for _ in range(_ROUNDS):
        gain = 2 * hit - reached[code] * size
        joined = np.flatnonzero(gain > 0)
        joined = joined[np.lexsort((-gain[joined], code[joined]))]
        begins = _runs(code[joined])
        rank = np.arange(len(joined)) - np.repeat(begins, np.diff(begins, append=len(joined)))
        joined = joined[rank < MOST_VALUES]
        together = np.bincount(code[joined], hit[joined], n_codes)
        f1 = 2 * together / np.maximum(np.bincount(code[joined], size[joined], n_codes) + fired[:, 0], 1)
        if (f1 <= reached + 1e-9).all():
            break
        reached = np.maximum(f1, reached)
    code, value, hit = code[joined], value[joined], hit[joined]
    hits_held = np.bincount(code, second(code, value), n_codes).astype(np.int64)
    tokens_held = np.bincount(code, variable.counts[1][value], n_codes).astype(np.int64)
    sets = np.flatnonzero(np.bincount(code, minlength=n_codes) > 1)
    score = reached[sets] - variable.margin - SIMPLER
    for taken in sets[best.take(sets, score, hits_held[sets], tokens_held[sets], kind)].tolist():
        members = np.flatnonzero(code == taken)
        best.values[taken] = value[members[np.argsort(-hit[members], kind="stable")]].tolist()


@dataclass(frozen=True)
class Labels:
    """Labels of every code of some codebooks, by book and id."""

    # `books` (fingerprint), `text`, `n_tokens`, the rules' numbers; `random_writes`: by site, the share of codes that
    # are said to write something where another code of the same head or MLP is on; `looks`: where each head looks, see
    # `measure`. Of coarse codes also `variance`, of each book the share of its codes' variance that the level keeps,
    # and `bits`, the entropy of its codes at both levels.
    about: dict[str, Any]
    starts: dict[str, tuple[int, int]]  # where each book's codes begin in the columns
    columns: dict[str, np.ndarray]
    # the labels of coarse codes; None in labels of before there were any, and in those themselves
    coarse: "Labels | None" = None

    @cached_property
    def groups(self) -> Groups:
        """Of each book's codes the coarse codes that they belong to; empty without that level."""
        if self.coarse is None:
            return {}
        return {book: self.columns["coarse"][begin : begin + n] for book, (begin, n) in self.starts.items()}

    def of(self, book: str, code: int) -> Label | None:
        """None where there is no such code."""
        begin, n = self.starts.get(book, (0, 0))
        if not 0 <= code < n:
            return None
        row = {name: column[begin + code] for name, column in self.columns.items() if name != "coarse"}
        return Label(**{name: value if name in TEXTS else value.item() for name, value in row.items()})

    def name(self, book: str, code: int) -> str:
        """``a20.h0=17``; ``a20.h0=3.17`` where 17 belongs to the coarse code 3, which is itself ``a20.h0=3.all``."""
        if "variance" in self.about:
            return f"{book}={code}.{ALL}"
        return f"{book}={self.groups[book][code]}.{code}" if book in self.groups else code_name(book, code)

    def coarse_of(self, book: str, code: int) -> Label | None:
        if self.coarse is None or book not in self.groups:
            return None
        return self.coarse.of(book, int(self.groups[book][code]))

    def text(self, book: str, code: int) -> str:
        """What stands beside the code's number; empty where there is no label."""
        label = self.of(book, code)
        return "" if label is None else label.text

    def both_texts(self, book: str, code: int) -> str:
        """The name of the coarse code that a code belongs to, then its own, as far as they have names."""
        coarse, text = self.coarse_of(book, code), self.text(book, code)
        if coarse is None or not coarse.named or coarse.text == text:
            return text
        return coarse.text if text in ("", RARE, MIXED) else f"{coarse.text} · {text}"

    @cached_property
    def _by_f1(self) -> list[tuple[str, int, str]]:
        names = [(name, code) for name, (_, n) in self.starts.items() for code in range(n)]
        rows = np.argsort(-self.columns["f1"], kind="stable").tolist()
        return [(*names[row], self.columns["text"][row]) for row in rows]

    def codes(self, text: str) -> list[tuple[str, int]]:
        """Books and codes that have a label, by falling F1."""
        return [(book, code) for book, code, label in self._by_f1 if label == text]

    def shares(self) -> dict[str, tuple[int, float, float, float, float, float]]:
        """By site: codes that are not rare; of them the shares with a name, with F1 of at least each of
        :data:`SHARES`, and the same of random codes.
        """
        measured = self.columns["firings"] >= LEAST
        sizes = [n for _, n in self.starts.values()]
        by_site = {}
        for site, random in self.about["random"].items():
            of_site = [site in (name, name.partition(".")[0]) for name in self.starts]
            rows = measured & np.repeat(of_site, sizes)
            n, f1 = int(rows.sum()), self.columns["f1"][rows]
            shares = (part.sum() / max(n, 1) for part in (self.named[rows], *(f1 >= b for b in SHARES)))
            by_site[site] = (n, *shares, *random)
        return by_site

    @property
    def named(self) -> Bool[np.ndarray, " code"]:
        return ~np.isin(self.columns["text"], (RARE, MIXED))

    def clearest(self, n: int, *, per_site: int = 2) -> list[tuple[str, int]]:
        """Codes with a name by falling F1: of each name the best, of each head one, of another site the best few. One
        token alone, and the first of the text, are names that nobody comes for: they are left out."""
        seen, books, clearest = {RARE, MIXED}, Counter[str](), list[tuple[str, int]]()
        for book, code, text in self._by_f1:
            most = 1 if ".h" in book else per_site
            if text not in seen and books[book] < most and not _DULL.fullmatch(text) and len(clearest) < n:
                seen.add(text)
                books[book] += 1
                clearest.append((book, code))
        return clearest

    def save(self, path: Path) -> None:
        """One parquet file, coarse codes behind the others; shares are kept to a percent."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        levels = [self] if self.coarse is None else [self, self.coarse]
        about = {"format": FORMAT, **self.about} | ({"coarse": self.coarse.about} if self.coarse else {})
        tables = [
            level._table().append_column("level", pa.array(np.full(len(level.columns["f1"]), i, np.uint8)))
            for i, level in enumerate(levels)
        ]
        table = pa.concat_tables(tables, promote_options="default").unify_dictionaries().combine_chunks()
        table = table.replace_schema_metadata({"labels": json.dumps(about)})
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    def _table(self) -> "pa.Table":
        import pyarrow as pa

        books = np.repeat(np.arange(len(self.starts)), [n for _, n in self.starts.values()])
        columns = {"book": pa.DictionaryArray.from_arrays(pa.array(books, pa.int32()), list(self.starts))}
        for name, column in self.columns.items():
            if name in TEXTS:
                columns[name] = pa.array(column, pa.string()).dictionary_encode()
            elif name in _PERCENT:
                columns[name] = pa.array(np.rint(100 * column), pa.uint8())
            elif name == "coarse":
                columns[name] = pa.array(column, pa.uint16())
            else:
                columns[name] = pa.array(column, pa.uint32() if name == "firings" else pa.float16())
        return pa.table(columns)

    @classmethod
    def open(cls, path: Path) -> "Labels":
        """What :meth:`save` wrote; :class:`InputError` for a file that is missing, damaged or of another format."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
            about = parse_json((table.schema.metadata or {})[b"labels"])
            if about.pop("format") != FORMAT:
                raise ValueError(f"not of format {FORMAT}, which this version reads")
            of_coarse, coarse = about.pop("coarse", None), None
            if of_coarse is not None:
                level = table["level"].to_numpy()
                coarse = cls._of(table.filter(level == 1).drop_columns("coarse"), of_coarse)
                table = table.filter(level == 0)
                groups, n = table["coarse"].to_numpy(), {book: n for book, (_, n) in coarse.starts.items()}
            labels = cls._of(table, about, coarse)
            if coarse is not None and any(
                book not in n or groups[begin : begin + size].max() >= n[book]
                for book, (begin, size) in labels.starts.items()
            ):
                raise ValueError("codes of it belong to coarse codes that it lacks")
            return labels
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"cannot read the labels {path}: {error}") from None

    @classmethod
    def _of(cls, table: "pa.Table", about: dict[str, Any], coarse: "Labels | None" = None) -> "Labels":
        import pyarrow as pa

        def words_of(name: str) -> "pa.DictionaryArray":
            """Numbered anew: in a part of a table some are not there."""
            return table[name].cast(pa.string()).combine_chunks().dictionary_encode()

        book = words_of("book")
        sizes = np.bincount(book.indices.to_numpy())
        if (np.diff(book.indices.to_numpy()) < 0).any():
            raise ValueError("its books are not one after the other")
        stored = table.column_names
        columns = {name: table[name].to_numpy() / 100 for name in _PERCENT if name in stored}
        columns["firings"] = table["firings"].to_numpy()
        for name, dtype in (("writes_gain", np.float32), ("coarse", np.int64)):
            if name in stored:
                columns[name] = table[name].to_numpy().astype(dtype)
        for name in (name for name in TEXTS if name == "text" or name in stored):
            text = words_of(name)
            columns[name] = np.array(text.dictionary.to_pylist(), object)[text.indices.to_numpy()]
        names = map(str, book.dictionary.to_pylist())
        return cls(about, starts_of(names, sizes), columns, coarse)


def starts_of(names: Iterable[str], sizes: Sequence[int] | np.ndarray) -> dict[str, tuple[int, int]]:
    """Where each book's codes begin, and how many they are."""
    begins = (np.cumsum(sizes) - sizes).tolist()
    return dict(zip(names, zip(begins, np.asarray(sizes).tolist(), strict=True), strict=True))


def labels_of(source: CodeIndex | Codebooks) -> Labels | None:
    """The labels that lie with an index, else with its codebooks; of codebooks, those that lie with them.

    None where there are none, or where they are of other codebooks. Read once a process.
    """
    if isinstance(source, CoarseIndex):
        labels = labels_of(source.fine)
        return None if labels is None else labels.coarse
    if isinstance(source, CodeIndex):
        made = source.manifest["books"]
        beside = _read(source.folder, made["fingerprint"])
        if beside is not None or made["folder"] is None:
            return beside
        try:
            source.codebooks()
        except InputError:  # they are away, or elsewhere than may be read
            return None
        return _read(Path(made["folder"]), made["fingerprint"])
    if source.folder is None or not (source.folder / LABELS).is_file():
        return None
    return _read(source.folder, source.fingerprint)


def keep(index: CodeIndex, labels: Labels) -> list[Path]:
    """Write labels beside their index, and to its codebooks, where these are there, not the package's, and indexed as
    they were fitted."""
    paths, made = [index.folder / LABELS], index.manifest["books"]
    folder = made["folder"]
    if folder is not None and not Path(folder).resolve().is_relative_to(PRETRAINED.resolve()):
        with contextlib.suppress(InputError):  # they are away, or others
            index.codebooks()
            whole = Codebooks.from_pretrained(Path(folder))
            if index.manifest["error_term"] and all(whole[b.site].config.k == b.k for b in index.books):
                paths.append(Path(folder) / LABELS)
    for path in paths:
        labels.save(path)
    return paths


def _read(folder: Path, books: str) -> Labels | None:
    path = folder / LABELS
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return None
    labels = _opened(path, changed)
    return labels if labels.about["books"] == books else None


@lru_cache(maxsize=8)
def _opened(path: Path, changed: int) -> Labels:  # noqa: ARG001 - a key of the cache
    return Labels.open(path)


def label_index(index: CodeIndex, *, model: Model | None = None, seed: int = 0, stage: Stage = silent) -> Labels:
    """Label every code of an index, and every coarse one; :class:`InputError` for a corpus of one document. ``model``:
    the index's own, that tells what codes write; codebooks must be at hand then."""
    from scipy.stats import entropy  # half a second

    looking = LookPatterns(Patterns(index.corpus, seed=seed))
    with stage("merging codes", len(index.books)) as done:
        groups, variance = dict[str, np.ndarray](), dict[str, float]()
        for number, book in enumerate(index.books):
            looked = index.looked_at(book.name)
            places = None if looked is None else looked[0][:, 0]
            vectors = torch.zeros(book.n_codes, 1)  # all alike where no codebooks are
            if model is not None:
                vectors = written_vectors(index, model, book.name)
            else:
                with contextlib.suppress(InputError):
                    vectors = index.vectors(book.name)
            groups[book.name] = merge_codes(vectors, index.ids.tokens(number), looking, places, seed=seed)
            kept = variance_kept(vectors, groups[book.name], index.counts_of(book.name))
            variance[book.name] = round(kept, 3)
            done(1)
    level = CoarseIndex(index, groups)
    coarse = _label(level, looking, model, seed, stage)
    coarse.about.update(variance=variance, bits={})
    for name in groups:
        counts = (at_level.counts_of(name) for at_level in (index, level))
        coarse.about["bits"][name] = [round(float(entropy(count, base=2)), 2) for count in counts]
    labels = _label(index, looking, model, seed, stage)
    columns = {**labels.columns, "coarse": np.concatenate(list(groups.values()))}
    return Labels(labels.about, labels.starts, columns, coarse)


def _label(index: CodeIndex, looking: LookPatterns, model: Model | None, seed: int, stage: Stage) -> Labels:
    half, rng = looking.standing.half, np.random.default_rng(seed)
    firsts = {book.site: number for number, book in reversed(list(enumerate(index.books)))}
    random: dict[str, _Best] = {}
    random_writes: dict[str, float] = {}
    looks: dict[str, dict[str, list[float]]] = {}
    parts: list[dict[str, Any]] = []

    def written(book: Book, ids: np.ndarray) -> tuple[list[str], np.ndarray]:
        if model is None:
            return [""] * book.n_codes, np.zeros(book.n_codes)
        return writes(index, model, book.name, ids, half)

    with stage("labelling codes", len(index.books) + len(firsts)) as done:
        for site, number in firsts.items():
            book, ids = index.books[number], index.ids.tokens(number)
            _, (random[site], _) = best_sides(index, looking, book, rng.permutation(ids))["text"]
            # firings stay together, but are those of another code
            other = np.append(rng.permutation(book.n_codes), book.n_codes)
            random_writes[site] = round(float(np.mean([bool(t) for t in written(book, other[ids])[0]])), 4)
            done(1)
        drawn = [(best.fired, best.f1) for best in random.values()]
        null = null_f1(*map(np.concatenate, zip(*drawn, strict=True)))
        for number, book in enumerate(index.books):
            ids = index.ids.tokens(number)
            sides = best_sides(index, looking, book, ids)
            best = {name: _columns(*side, null) for name, side in sides.items()}
            columns = best["text"]
            best.setdefault("looks", {"text": [""] * book.n_codes, "f1": np.zeros(book.n_codes)})
            for side in ("stands", "looks"):
                columns |= {side: best[side]["text"], f"{side}_f1": best[side]["f1"]}
            columns["writes"], columns["writes_gain"] = written(book, ids)
            parts.append(columns)
            if (looked := index.looked_at(book.name)) is not None:
                looks[book.name] = looking.measure(*looked)
            done(1)
    whole = {
        name: np.concatenate([np.asarray(part[name], object if name in TEXTS else None) for part in parts])
        for name in parts[0]
    }
    about = {
        "books": index.manifest["books"]["fingerprint"],
        "text": index.manifest["text"],
        "n_tokens": index.n_tokens,
        "seed": seed,
        "rules": {"least": LEAST, "fits": FITS, "mostly": MOSTLY, "lift": LIFT}
        | {"simpler": SIMPLER, "most_values": MOST_VALUES},
        "random": {
            site: [round(float((best.f1[best.fired >= LEAST] >= bound).mean()), 4) for bound in SHARES]
            for site, best in random.items()
        },
        "random_writes": random_writes,
        "looks": looks,
    }
    names, sizes = zip(*((book.name, book.n_codes) for book in index.books), strict=True)
    return Labels(about, starts_of(names, sizes), whole)


def best_sides(
    index: CodeIndex, looking: LookPatterns, book: Book, ids: Shaped[np.ndarray, "token k"]
) -> dict[str, tuple[Family, tuple["_Best", "_Best"]]]:
    """The patterns, and the best of each code, of what it *stands* at and what its head *looks* at; ``text`` is of both
    together."""
    standing = looking.standing
    stands = best_patterns(standing, ids, book.n_codes)
    sides: dict[str, tuple[Family, tuple[_Best, _Best]]] = {"stands": (standing, stands), "text": (standing, stands)}
    if (looked := index.looked_at(book.name)) is not None:
        family = looking.family(*looked)
        looks, n_kinds = best_patterns(family, ids, book.n_codes), len(standing.all)
        together = Family(family.half, family.sizes, standing.all + family.all)
        merged = stands[0].merged(looks[0], n_kinds), stands[1].merged(looks[1], n_kinds)
        sides |= {"looks": (family, looks), "text": (together, merged)}
    return sides


NullF1 = Callable[[Int[np.ndarray, " code"]], Float[np.ndarray, " code"]]


def null_f1(fired: np.ndarray, f1: np.ndarray) -> NullF1:
    """Mean F1 of random codes by how often they are on, at every quarter of an octave and between them."""
    octave = np.log2(fired + 1.0)
    _, bins, sizes = np.unique(np.rint(4 * octave), return_inverse=True, return_counts=True)
    at, mean = (np.bincount(bins, values) / sizes for values in (octave, f1))
    return lambda fired: np.interp(np.log2(fired + 1.0), at, mean)


def _columns(patterns: Family, best_mostly: tuple[_Best, _Best], null: NullF1) -> dict[str, Any]:
    best, mostly = best_mostly
    fired, random = best.fired, null(best.fired)
    held = _bits(mostly.hits / np.maximum(fired, 1), mostly.tokens / max(patterns.sizes[1], 1))
    by_share = (beyond_chance(best.score, random) < FITS) & (mostly.score > 0)
    fits = np.where(by_share, held > 0, beyond_chance(best.f1, random) >= FITS)
    chosen = by_share & fits
    hits, tokens = (np.where(chosen, getattr(mostly, n), getattr(best, n)) for n in ("hits", "tokens"))

    def words(code: int) -> str:
        source = mostly if chosen[code] else best
        kind = int(source.kind[code])
        if fired[code] < LEAST or kind < 0:
            return RARE
        if not fits[code]:
            return MIXED
        pattern = patterns.all[kind]
        text = pattern.text if isinstance(pattern, Boolean) else pattern.show(source.values[code])
        return f"mostly {text}" if chosen[code] else text

    return {
        "text": [words(code) for code in range(len(fired))],
        "precision": hits / np.maximum(fired, 1),
        "recall": hits / np.maximum(tokens, 1),
        "f1": 2 * hits / np.maximum(tokens + fired, 1),
        "null": random,
        "firings": fired,
    }
