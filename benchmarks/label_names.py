"""Whether names of codes tell where the codes are on in new documents: a table of benchmarks/TABLES.md.

    python -m benchmarks.label_names          # reads 98,304 tokens of the split heldout, half an hour on a core
    python -m benchmarks.label_names --show

A name is taken as it is printed and nothing else of the label: a set of values whose name ends in “+3” has those that
are named. The tokens where it holds are matched against those where the code is on. *Another* is the mean over all
other names of the same head or MLP; *better than* the share of these that match the code less well, ties half. Codes
that are on at fewer than 20 of the tokens are left out; a name that holds nowhere has 0. Intervals are 95 % bootstraps
over heads, or MLPs.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import RESULTS, arguments, interval, print_table
from benchmarks.labels import NAMES, TEXT, books
from interp import load_model
from interp.bottlenecks.store import PRETRAINED
from interp.codesearch import CodeIndex, Labels
from interp.codesearch.labels import LABELS, LEAST, MIXED, RARE
from interp.codesearch.look_patterns import LookPatterns
from interp.codesearch.patterns import Boolean, Family, Patterns
from interp.files import read_json, write_json
from interp.progress import bar
from interp.stats import mean_interval

RESULT = RESULTS / "label_names.json"
MOSTLY = "mostly "
_MORE = re.compile(r" \+\d+(?= in any case$| in code| in prose|$)")
_SEVERAL = re.compile(r"(.*?)(“[^”]*”(?: “[^”]*”)+)(.*)", re.DOTALL)


def values_named(name: str) -> Iterator[str]:
    """The names of single patterns that together are the one of this name."""
    name = _MORE.sub("", name.removeprefix(MOSTLY))
    prefix = "looks at " if name.startswith("looks at ") and not name.startswith("looks at the end") else ""
    for part in re.split("; | or (?=the |itself|one )", name):
        part = prefix + part.removeprefix(prefix)
        several = _SEVERAL.fullmatch(part)
        if several is None:
            yield part
        else:
            before, quoted, after = several.groups()
            yield from (f"{before}“{text}”{after}" for text in re.findall("“([^”]*)”", quoted))


def tokens_by_name(family: Family) -> dict[str, np.ndarray]:
    """Where every single pattern holds."""
    tokens: dict[str, np.ndarray] = {}
    for pattern in family.all:
        if isinstance(pattern, Boolean):
            tokens.setdefault(pattern.text, pattern.tokens)
            continue
        begins = np.flatnonzero(np.diff(pattern.values, prepend=-1))
        for at in np.split(np.arange(len(pattern.values)), begins[1:]) if len(begins) else ():
            tokens.setdefault(pattern.show([int(pattern.values[at[0]])]), pattern.order[at])
    return tokens


def measure(folder: Path, n_tokens: int) -> list[dict]:
    """A row a head or MLP: of every code that is named and on often enough, its F1 by its name and by the others."""
    codebooks = books()
    index = CodeIndex.build(load_model(), codebooks, TEXT, folder, n_tokens=n_tokens, split="heldout", stage=bar)
    labels = [Labels.open(PRETRAINED / name / LABELS) for name in NAMES]
    standing = Patterns(index.corpus)
    looking, of_standing = LookPatterns(standing), tokens_by_name(standing)
    rows = []
    with bar("matching names", len(index.books)) as advance:
        for number, book in enumerate(index.books):
            of_book = next(part for part in labels if book.name in part.starts)
            names = {code: of_book.of(book.name, code) for code in range(book.n_codes)}
            names = {code: label for code, label in names.items() if label.text not in (RARE, MIXED)}
            tokens, looked = of_standing, index.looked_at(book.name)
            if looked is not None:
                tokens = tokens_by_name(looking.family(*looked)) | of_standing
            ids = index.ids.book(number).reshape(-1)[: index.n_tokens].astype(np.int64)
            rows.append({"book": book.name, **_match(names, tokens, ids, book.n_codes)})
            advance(1)
    return rows


def _match(names: dict, tokens: dict[str, np.ndarray], ids: np.ndarray, n_codes: int) -> dict[str, list]:
    fired = np.bincount(ids, minlength=n_codes + 1)[:n_codes]
    texts = list(dict.fromkeys(label.text for label in names.values()))
    hits, sizes = np.zeros((len(texts), n_codes)), np.zeros(len(texts))
    for row, text in enumerate(texts):
        where = [tokens[value] for value in values_named(text) if value in tokens]
        at = np.unique(np.concatenate(where)) if where else np.empty(0, int)
        hits[row], sizes[row] = np.bincount(ids[at], minlength=n_codes + 1)[:n_codes], len(at)
    f1 = 2 * hits / np.maximum(sizes[:, None] + fired, 1)
    of_name = np.array([texts.index(label.text) for label in names.values()])
    out: dict[str, list] = {key: [] for key in ("code", "mostly", "f1", "another", "better", "always", "label_f1")}
    for place, (code, label) in enumerate(names.items()):
        if fired[code] < LEAST or len(names) < 2:
            continue
        by_name = f1[of_name, code]
        others = np.delete(by_name, place)
        share = fired[code] / len(ids)
        row = (code, label.text.startswith(MOSTLY), by_name[place], others.mean())
        better = (others < by_name[place]).mean() + (others == by_name[place]).mean() / 2
        row += (better, 2 * share / (1 + share), label.f1)
        for key, value in zip(out, row, strict=True):
            out[key].append(round(float(value), 4) if isinstance(value, float) else int(value))
    return out


def show(rows: list[dict]) -> None:
    table = []
    for kind, of_kind in (("heads", "a"), ("MLPs", "m")):
        chosen = [row for row in rows if row["book"].startswith(of_kind)]
        for name, mostly in ((f"codes of {kind}", 0), (f"codes of {kind}, *mostly*", 1)):
            at = [np.array(row["mostly"]) == mostly for row in chosen]
            means = {
                key: np.array([np.array(row[key])[k].mean() for row, k in zip(chosen, at, strict=True) if k.any()])
                for key in ("f1", "another", "better", "always", "label_f1")
            }
            cells = [_mean(means[key]) for key in ("f1", "another")]
            cells += [_mean(means["f1"] - means["another"], "+.3f"), _mean(means["better"], ".2f")]
            table.append(
                (
                    name,
                    f"{sum(map(np.sum, at)):,}",
                    *cells,
                    f"{means['always'].mean():.3f}",
                    f"{means['label_f1'].mean():.3f}",
                )
            )
    columns = ("names", "number", "F1", "another name", "difference", "better than", "always", "F1 of the label")
    print_table(columns, table, "names of codes on new documents")


def _mean(values: np.ndarray, spec: str = ".3f") -> str:
    (low,), (high,) = mean_interval(values[:, None], 0)
    return interval(float(values.mean()), float(low), float(high), spec)


def main() -> None:
    args = arguments(__doc__, folder=Path("runs/label_names"), tokens=98_304, show=False)
    if not args.show:
        write_json(RESULT, measure(args.folder, args.tokens))
    show(read_json(RESULT))


if __name__ == "__main__":
    main()
