"""Labels of the codebooks that come with the package, made from half a million tokens of everyday text, docs and code.

    python -m benchmarks.labels encode     # goes on where it stopped
    python -m benchmarks.labels label      # writes interp/bottlenecks/data/*/labels.parquet
    python -m benchmarks.labels control    # names by what another head looks at; writes results/labels.json
    python -m benchmarks.labels merged     # coarse codes against random merges; writes results/labels_merged.json
    python -m benchmarks.labels show       # prints the tables; -n codes of each, drawn with --seed

Both codebooks are read in one pass: bfloat16, codes by products whose factors are rounded to bfloat16. An index that
``interp index build`` makes in float32 has the same codes at 95 % of tokens.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.common import RESULTS, arguments, interval, print_table
from interp import DEFAULT_MODEL, load_model
from interp.bottlenecks import Codebook
from interp.bottlenecks.edits import code_name
from interp.bottlenecks.store import PRETRAINED, Codebooks, codebooks_fingerprint, describe_text
from interp.codesearch import Book, CodeIndex, Labels, label_index
from interp.codesearch.build import WORK, finish
from interp.codesearch.corpus import Corpus, read_corpus
from interp.codesearch.firing_stats import Gathered
from interp.codesearch.index import IDS
from interp.codesearch.labels import LABELS, LEAST, SHARES, best_patterns, best_sides, beyond_chance, starts_of
from interp.codesearch.layout import IdFile, Layout, names_of_groups
from interp.codesearch.look_patterns import LookPatterns
from interp.codesearch.looks import LOOKS, MOST, PARTS, largest_looks, looks_layout
from interp.codesearch.patterns import Patterns
from interp.files import read_json, write_json, write_text
from interp.models.embedded import packaged_folder
from interp.progress import bar
from interp.report import wording
from interp.stats import mean_interval
from interp.text import load_text

NAMES = ("smollm2-135m-instruct-k1", "smollm2-135m-instruct-mlps-k1")
KINDS = ("news", "articles", "reviews", "answers", "stories", "medicine", "wiki", "c", "python", "html")
TEXT = "+".join(["stdlib", *(f"probes:{kind}" for kind in KINDS)])
TOKENS, CONTEXT, BLOCKS = 524_288, 128, 4
FOLDER = Path("runs/labels")
RESULT, MERGED = RESULTS / "labels.json", RESULTS / "labels_merged.json"
BY_BOOK = "looks", "variance", "bits", "kl"


class Chooser:
    """The nearest codes of heads or of an MLP, as :meth:`~interp.bottlenecks.kinds.codebook.Codebook.encode` takes them
    for one code a vector."""

    def __init__(self, book: Codebook) -> None:
        compared = book.comparable(book.codes.detach().float())
        metric = getattr(book, "metric", None)
        # ⟨x L, c L⟩ = ⟨x, c L Lᵀ⟩
        codes = compared if metric is None else compared @ metric.float().mT
        # what all have in common favours none, and would be most of what is rounded
        self.codes = (codes - codes.mean(1, keepdim=True)).mT.contiguous()
        self.offset = compared.square().sum(-1) / -2

    def choose(self, x: torch.Tensor, out: np.ndarray) -> None:
        rows = x.float().reshape(x.shape[0], len(self.codes), -1)
        for group, (codes, offset) in enumerate(zip(self.codes, self.offset, strict=True)):
            out[:, group] = np.argmax(torch.addmm(offset, rows[:, group], codes).numpy(), -1)


def books() -> dict[str, Codebook]:
    return {site: book for name in NAMES for site, book in Codebooks.from_pretrained(name).items()}


def _rows(path: Path, shape: tuple[int, ...]) -> np.memmap:
    made = {} if path.exists() else {"dtype": np.uint16, "shape": shape}
    return np.lib.format.open_memmap(path, "w+" if made else "r+", **made)


def encode(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "text.json").exists():
        text = load_text(TEXT, load_model(), n_tokens=TOKENS, context=CONTEXT, stage=bar)
        np.save(folder / "tokens.npy", text.tokens.numpy().astype(np.int32))
        np.save(folder / "sources.npy", text.sources.numpy())
        write_json(folder / "text.json", describe_text(text))
    tokens = torch.from_numpy(np.load(folder / "tokens.npy").astype(np.int64))
    model = AutoModelForCausalLM.from_pretrained(
        packaged_folder(), dtype=torch.bfloat16, attn_implementation="eager"
    ).eval()
    torch.set_float32_matmul_precision("medium")
    choosers = {site: Chooser(book) for site, book in books().items()}
    bounds = np.cumsum([0, *(len(chooser.codes) for chooser in choosers.values())]).tolist()
    columns = dict(zip(choosers, map(slice, bounds[:-1], bounds[1:]), strict=True))
    mark = folder / "done"
    done = int(mark.read_text()) if mark.exists() else 0
    ids = _rows(folder / "ids.npy", (tokens.numel(), bounds[-1]))
    heads = model.config.num_attention_heads
    looks = _rows(folder / "looks.npy", (tokens.numel(), len(model.model.layers) * heads, MOST))
    codes = np.zeros((BLOCKS * CONTEXT, bounds[-1]), np.uint16)
    looked = np.zeros((BLOCKS * CONTEXT, *looks.shape[1:]), np.uint16)
    values: dict[int, torch.Tensor] = {}

    def look(site: str, x: torch.Tensor) -> None:
        choosers[site].choose(x.reshape(-1, x.shape[-1]), codes[: x.shape[0] * x.shape[1], columns[site]])

    def keep_value(layer: int, value: torch.Tensor) -> None:
        values[layer] = value.unflatten(-1, (-1, model.model.layers[layer].self_attn.head_dim))

    def keep_looks(layer: int, pattern: torch.Tensor) -> None:
        largest = largest_looks(pattern, values.pop(layer))
        none = CONTEXT * PARTS
        looked[: len(largest), layer * heads : (layer + 1) * heads] = np.where(largest < 0, none, largest)

    for i, layer in enumerate(model.model.layers):
        layer.self_attn.v_proj.register_forward_hook(lambda _, __, y, i=i: keep_value(i, y))
        layer.self_attn.register_forward_hook(lambda _, __, y, i=i: keep_looks(i, y[1]))
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, x, site=f"a{i}": look(site, x[0]))
        layer.mlp.register_forward_hook(lambda _, __, y, site=f"m{i}": look(site, y))
    with torch.no_grad(), bar("reading codes", len(tokens)) as progress:
        progress(done)
        while done < len(tokens):
            blocks = tokens[done : done + BLOCKS]
            model.model(blocks, use_cache=False)
            rows = slice(done * CONTEXT, (done + len(blocks)) * CONTEXT)
            ids[rows], looks[rows] = codes[: blocks.numel()], looked[: blocks.numel()]
            done += len(blocks)
            progress(len(blocks))
            if done % (100 * BLOCKS) == 0 or done == len(tokens):
                ids.flush()
                looks.flush()
                write_text(mark, str(done))


def label(folder: Path) -> None:
    """Of the blocks that are read so far: sources alternate, so that any number of them is as mixed."""
    n = int((folder / "done").read_text())
    every = books()
    names_by_site = {site: names_of_groups(site, len(b.codes) if site[0] == "a" else None) for site, b in every.items()}
    parts = [
        Book(name, site, group, group, every[site].config.n_codes, 1)
        for site, names in names_by_site.items()
        for group, name in enumerate(names)
    ]
    layout = Layout(tuple(parts), n * CONTEXT)
    place = folder / "index"
    shutil.rmtree(place, ignore_errors=True)
    file = IdFile.create(place / WORK / IDS, layout)
    tokens, sources = (np.load(folder / f"{name}.npy")[:n] for name in ("tokens", "sources"))
    order = np.argsort(sources, kind="stable")  # documents are whole
    rows = (order[:, None] * CONTEXT + np.arange(CONTEXT)).ravel()
    ids = np.load(folder / "ids.npy", mmap_mode="r")
    for begin in range(0, len(parts), 50):
        codes = ids[: len(rows), begin : begin + 50][rows]
        for i in range(codes.shape[1]):
            file.write(begin + i, 0, codes[:, i : i + 1].astype(np.int64))
    file.flush()
    looked = looks_layout(layout, CONTEXT)
    looks_file = IdFile.create(place / WORK / LOOKS, looked)
    looks = np.load(folder / "looks.npy", mmap_mode="r")
    for begin in range(0, len(looked.books), 50):
        kept = looks[: len(rows), begin : begin + 50][rows]
        for i in range(kept.shape[1]):
            none = kept[:, i] == CONTEXT * PARTS
            looks_file.write(begin + i, 0, np.where(none, -1, kept[:, i].astype(np.int64)))
    looks_file.flush()
    corpus = corpus_of(tokens[order], sources[order])
    fingerprint = codebooks_fingerprint(every)
    request = {
        "model": {"spec": DEFAULT_MODEL, "dtype": "bfloat16"},
        "books": {"fingerprint": fingerprint, "folder": None, "sites": list(every), "configs": {}},
        "text": {**read_json(folder / "text.json"), "n_tokens": n * CONTEXT},
        "error_term": True,
    }
    finish(place, file, corpus, Gathered(layout.n_codes), request)
    labels = label_index(CodeIndex.open(place, every), model=load_model(), stage=bar)
    for name in NAMES:
        codebooks = Codebooks.from_pretrained(name)
        names = [part.name for part in parts if part.site in codebooks.sites]
        part_of(labels, names, codebooks.fingerprint).save(PRETRAINED / name / LABELS)


def part_of(labels: Labels, names: Sequence[str], fingerprint: str) -> Labels:
    """Those of some of the books, which are codebooks of their own."""
    kept = np.concatenate([np.arange(b, b + n) for b, n in (labels.starts[name] for name in names)])
    columns = {name: column[kept] for name, column in labels.columns.items()}
    sites = {name.partition(".")[0] for name in names}
    about = labels.about | {"books": fingerprint}
    for key, wanted in (("random", sites), ("random_writes", sites), *((key, names) for key in BY_BOOK)):
        if key in about:
            about[key] = {name: of_name for name, of_name in about[key].items() if name in wanted}
    coarse = None if labels.coarse is None else part_of(labels.coarse, names, fingerprint)
    return Labels(about, starts_of(names, [labels.starts[name][1] for name in names]), columns, coarse)


def corpus_of(tokens: np.ndarray, sources: np.ndarray) -> Corpus:
    """Of blocks of tokens that :func:`~interp.text.load_text` gave."""
    tokenizer = load_model().tokenizer
    return read_corpus(tokens, tokenizer, 49152, sources)


CONTROLS = {"stands": None, "other": None, "looks": "other", "stands and looks": "stands and other"}
LAYERS = (0, 4, 8, 12, 16, 20, 24, 28, 29)
PARTS_OF = ("heads", "MLPs")
"""What the codebooks of :data:`NAMES` are at."""
FINE = ("codes", "named, %", "F1 ≥ .5 / ≥ .8, %", "mean F1: name, stands at, looks at")
COARSE = ("named, %", "beyond always", "≥ .5, %", "variance left", "bits")


def show(seed: int, n: int) -> None:
    """By layer, the same of coarse codes, the controls, and codes drawn at random of those that are not rare."""
    every = {kind: Labels.open(PRETRAINED / name / LABELS) for kind, name in zip(PARTS_OF, NAMES, strict=True)}
    for title, columns, row_of in (("codes", FINE, _row), ("coarse codes", COARSE, _coarse_row)):
        head = ("layer", *(f"{kind}: {column}" for kind in every for column in columns))
        rows = [
            ("all" if layer is None else layer, *(cell for labels in every.values() for cell in row_of(labels, layer)))
            for layer in (*LAYERS, None)
        ]
        print_table(head, rows, title)
    rows = [
        (f"{kind}, {level}", *_first_token_row(of_level))
        for kind, labels in every.items()
        for level, of_level in (("codes", labels), ("coarse codes", labels.coarse))
    ]
    columns = ("", "named so", "of those ≥ .5", "beyond always", "≥ .5", "others: beyond always", "≥ .5")
    print_table(columns, rows, "codes whose name is the first token or the beginning of a text")
    keys = ("coarse", "coarse half", "random", "random half")
    merged_books = read_json(MERGED) if MERGED.is_file() else []
    rows = [
        (kind, *(f"{np.median([row[key] for row in merged_books if row['book'][0] == kind]):.3f}" for key in keys))
        for kind in sorted({row["book"][0] for row in merged_books})
    ]
    print_table(("books", *keys), rows, "coarse codes and codes merged at random, beyond always, medians over books")
    heads, rows = read_json(RESULT), []
    for name, against in CONTROLS.items():
        f1 = np.array([row[name] for row in heads])
        above = None
        if against is not None:
            more = f1 - [row[against] for row in heads]
            (low,), (high,) = mean_interval(more[:, None], seed)
            above = interval(float(more.mean()), low, high, "+.3f")
        rows.append((name, f"{f1.mean():.3f}", against, above))
    print_table(("by", "F1", "control", "above it"), rows, f"is it this head's look that tells? {len(heads)} heads")
    rows, drawn, rng = [], {}, np.random.default_rng(seed)
    for kind, labels in every.items():
        columns, n_held = labels.columns, labels.about["n_tokens"] / 2
        measured = columns["firings"] >= LEAST
        share = columns["firings"] / n_held
        beyond = beyond_chance(columns["f1"], 2 * share / (1 + share))[measured]
        random = np.mean(list(labels.about["random"].values()), 0)
        another = np.mean(list(labels.about["random_writes"].values()))
        shares = (1 - measured.mean(), random[0], (beyond >= 0.5).mean(), _written(labels).mean(), another)
        rare, random_half, half, writes, another = (f"{share:.1%}" for share in shares)
        random_f1 = f"{columns['null'][measured].mean():.4f}"
        row = (kind, f"{len(measured):,}", rare, random_f1, random_half, f"{beyond.mean():.3f}", half)
        rows.append((*row, writes, another))
        names = [(book, code) for book, (_, size) in labels.starts.items() for code in range(size)]
        drawn[kind] = []
        for i in sorted(rng.choice(np.flatnonzero(measured), n, replace=False)):
            label = labels.of(*names[i])
            looks = f"{cell(label.looks)} {label.looks_f1:.2f}" if label.looks else "–"
            written = f"{cell(label.writes)} {label.writes_gain:+.2f}" if label.writes else "–"
            stands = f"{cell(label.stands)} {label.stands_f1:.2f}"
            code = code_name(*names[i])
            drawn[kind].append((f"`{code}`", cell(label.text), f"{label.f1:.2f}", stands, looks, written))
    columns = (
        "codes of",
        "number",
        "rare",
        "random codes' F1",
        "≥ .5",
        "beyond always",
        "≥ .5",
        "writes",
        "of another code",
    )
    print_table(columns, rows, f"{next(iter(every.values())).about['n_tokens']:,} tokens")
    for kind, rows in drawn.items():
        columns = ("code", "name", "F1", "stands at", "looks at", "writes")
        print_table(columns, rows, f"{n} codes of {kind}, drawn with seed {seed}", left=6)


def cell(text: str) -> str:
    return wording.visible(text, keep=" ")


def control(folder: Path) -> None:
    """Of one head a layer, drawn with seed 0: mean F1 of its codes by where they stand, by what the head looks at, and
    by what another head of the layer looks at; and by each with where they stand."""
    every = books()
    index = CodeIndex.open(folder / "index", every)
    standing, rng = Patterns(index.corpus), np.random.default_rng(0)
    looking, rows = LookPatterns(standing), []
    for layer in range(30):
        head, other = (f"a{layer}.h{head}" for head in rng.choice(9, 2, replace=False))
        ids = index.ids.book(index.layout.number(head)).reshape(-1, 1)[: index.n_tokens]
        stands = best_patterns(standing, ids, 512)[0]
        by = {"stands": stands}
        for name, site in {"looks": head, "other": other}.items():
            by[name] = best_patterns(looking.family(*index.looked_at(site)), ids, 512)[0]
            by[f"stands and {name}"] = stands.merged(by[name], len(standing.all))
        measured = stands.fired >= LEAST
        rows.append({"head": head, "other head": other} | {n: float(b.f1[measured].mean()) for n, b in by.items()})
    write_json(RESULT, rows)


def merged(folder: Path) -> None:
    """Of the same heads, and of each layer's MLP: coarse codes, and codes merged at random to the same sizes, beyond
    always saying yes."""
    every = books()
    index = CodeIndex.open(folder / "index", every)
    looking, rng = LookPatterns(Patterns(index.corpus)), np.random.default_rng(0)
    groups = {k: v for name in NAMES for k, v in Labels.open(PRETRAINED / name / LABELS).groups.items()}
    rows = []
    for name in [*(row["head"] for row in read_json(RESULT)), *(f"m{layer}" for layer in range(30))]:
        of_codes = groups[name]
        row: dict[str, object] = {"book": name}
        for arm, of in {"coarse": of_codes, "random": rng.permutation(of_codes)}.items():
            number = index.layout.number(name)
            ids = of[index.ids.book(number).reshape(-1, 1)[: index.n_tokens]]
            book = replace(index.books[number], n_codes=int(of.max()) + 1)
            best = best_sides(index, looking, book, ids)["text"][1][0]
            share = best.fired / looking.standing.sizes[1]
            beyond = beyond_chance(best.f1, 2 * share / (1 + share))[best.fired >= LEAST]
            row[arm], row[f"{arm} half"] = float(beyond.mean()), float((beyond >= 0.5).mean())
        rows.append(row)
    write_json(MERGED, rows)


def _written(labels: Labels) -> np.ndarray:
    """Which codes are said to write something."""
    return labels.columns["writes"] != ""


def _coarse_row(labels: Labels, layer: int | None) -> tuple[str, ...]:
    """Of one layer's coarse codes, or all: :data:`COARSE`."""
    labels = labels.coarse
    columns, share = labels.columns, labels.columns["firings"] / (labels.about["n_tokens"] / 2)
    kept = (columns["firings"] >= LEAST) & ((_layers(labels) == layer) | (layer is None))
    beyond = beyond_chance(columns["f1"], 2 * share / (1 + share))[kept]
    named = labels.named[kept].mean()
    books = [b for b in labels.starts if layer is None or int(b[1:].split(".")[0]) == layer]
    variance = np.mean([labels.about["variance"][book] for book in books])
    fine, coarse = np.mean([labels.about["bits"][book] for book in books], 0)
    cells = f"{100 * named:.0f}", f"{beyond.mean():.3f}", f"{100 * (beyond >= 0.5).mean():.0f}"
    return (*cells, f"{variance:.2f}", f"{coarse:.1f} of {fine:.1f}")


def _first_token_row(labels: Labels) -> tuple[str, ...]:
    """Codes that fire often enough to have a score: those at or looking at the first token, and the others."""
    columns, share = labels.columns, labels.columns["firings"] / (labels.about["n_tokens"] / 2)
    kept = columns["firings"] >= LEAST
    first = np.array(["first" in text and "token" in text for text in columns["text"]])[kept]
    beyond = beyond_chance(columns["f1"], 2 * share / (1 + share))[kept]
    half = beyond >= 0.5
    cells = [f"{first.mean():.1%}", f"{first[half].mean():.1%}"]
    for group in (slice(None), ~first):
        cells += [f"{beyond[group].mean():.3f}", f"{half[group].mean():.1%}"]
    return tuple(cells)


def _layers(labels: Labels) -> np.ndarray:
    """Of every code."""
    return np.concatenate([np.full(n, int(name[1:].split(".")[0])) for name, (_, n) in labels.starts.items()])


def _row(labels: Labels, layer: int | None) -> tuple[str, ...]:
    """Of one layer's codes, or all, but rare ones: :data:`FINE`."""
    columns = labels.columns
    kept = (columns["firings"] >= LEAST) & ((_layers(labels) == layer) | (layer is None))
    named = labels.named[kept].mean()
    f1, stands, looks = (columns[name][kept] for name in ("f1", "stands_f1", "looks_f1"))
    clear = " / ".join(f"{100 * (f1 >= bound).mean():.1f}" for bound in SHARES)
    means = f"{f1.mean():.3f}, {stands.mean():.3f}, {looks.mean():.3f}" if looks.any() else f"{f1.mean():.3f}"
    return f"{kept.sum():,}", f"{100 * named:.1f}", clear, means


def main() -> None:
    step = {"choices": ("encode", "label", "control", "merged", "show")}
    args = arguments(__doc__, {"step": step}, folder=FOLDER, seed=0, n=10)
    if args.step == "encode":
        encode(args.folder)
    elif args.step == "label":
        label(args.folder)
    elif args.step == "control":
        control(args.folder)
    elif args.step == "merged":
        merged(args.folder)
    else:
        show(args.seed, args.n)


if __name__ == "__main__":
    main()
